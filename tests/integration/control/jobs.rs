//! Long work: jobs that outlive the service, answers that are given once, rollouts by HTTP.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::Stdio;

use manybox::catalog::{OperatorRole, Scopes};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Service, token};
use crate::support::{Running, TestFleet, eventually, free_port};

/// The service as a process of its own, which can be killed.
async fn process(fleet: &TestFleet, address: SocketAddr) -> Running {
    let mut command = fleet.program(&["control"]);
    command.env("MANYBOX__CONTROL__HTTP", address.to_string());
    let running = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    eventually("the service answers", || async {
        reqwest::get(format!("http://{address}/healthz")).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    running
}

#[tokio::test]
async fn every_job_ends_whatever_is_killed() {
    let fleet = TestFleet::builder().tenants(&["seed"]).build().await;
    let ci = token(&fleet, "ci", OperatorRole::Owner, Scopes::default()).await;
    let (address, client) = (free_port(), reqwest::Client::new());
    let mut jobs = Vec::new();
    for round in 0..10_u64 {
        let mut service = process(&fleet, address).await;
        for number in 0..3 {
            let slug = format!("r{round}n{number}");
            let request = client.post(format!("http://{address}/v1/tenants")).bearer_auth(&ci);
            let request = request.header("Prefer", "respond-async").json(&json!({ "slug": slug }));
            let answer = request.send().await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["preference-applied"]),
                (202, &"respond-async".parse().unwrap())
            );
            jobs.push(answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned());
        }
        // Later in each round: in the middle of another step.
        tokio::time::sleep(std::time::Duration::from_millis(round * 12)).await;
        service.0.kill().unwrap();
        service.0.wait().unwrap();
    }
    let _service = process(&fleet, address).await;
    for id in &jobs {
        eventually("the job ends", || async {
            fleet.fleet.catalog.job(id).await.unwrap().is_some_and(|job| job.state.is_over())
        })
        .await;
        let job = fleet.fleet.catalog.job(id).await.unwrap().unwrap();
        assert_eq!(job.problem, None, "{job:?}");
        assert_eq!(fleet.row(&job.slug.unwrap()).await.record.state.as_str(), "active");
    }
}

#[tokio::test]
async fn an_answer_is_given_once() {
    let fleet = TestFleet::builder().tenants(&["seed"]).build().await;
    let service = Service::start(&fleet).await;
    let send = |key: &str, slug: &str| {
        let request = service.bare(Method::POST, "/v1/tenants").bearer_auth(&service.owner);
        request.header("Idempotency-Key", key.to_owned()).json(&json!({ "slug": slug })).send()
    };
    // Eight clients, each tenant asked for by all of them at once.
    let mut asked = Vec::new();
    for slug in 0..6 {
        for _ in 0..8 {
            asked.push(send(&format!("key-{slug}"), &format!("t{slug}")));
        }
    }
    let answers = futures_util::future::join_all(asked).await;
    let mut ids = HashSet::new();
    for answer in answers {
        let answer = answer.unwrap();
        match answer.status().as_u16() {
            201 => drop(ids.insert(answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned())),
            // It is being made: to be sent again.
            409 => assert_eq!(answer.json::<Value>().await.unwrap()["code"], "MBX613"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(ids.len(), 6);
    let again = send("key-0", "t0").await.unwrap();
    assert_eq!(
        (again.status().as_u16(), &again.headers()["idempotency-replayed"]),
        (201, &"true".parse().unwrap())
    );
    assert_eq!(again.headers()["location"], "/v1/tenants/t0");
    let other = send("key-0", "t1").await.unwrap();
    assert_eq!(
        (other.status().as_u16(), other.json::<Value>().await.unwrap()["code"].as_str()),
        (422, Some("MBX615"))
    );
    // Another operator's keys are others.
    let ci = token(&fleet, "ci", OperatorRole::Operator, Scopes::default()).await;
    let request =
        service.bare(Method::POST, "/v1/tenants").bearer_auth(&ci).header("Idempotency-Key", "key-0");
    assert_eq!(request.json(&json!({ "slug": "u0" })).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn what_was_changed_meanwhile_is_not_changed_again() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    let path = "/v1/tenants/acme";
    let read = service.get(&service.owner, path).await;
    let tag = read.headers["etag"].clone();
    let with = |method: Method, path: &str, tag: &str, body: Value| {
        let request = service.bare(method, path).bearer_auth(&service.owner);
        request.header("If-Match", tag.to_owned()).json(&body).send()
    };
    let same = service.bare(Method::GET, path).bearer_auth(&service.owner).header("If-None-Match", &tag);
    assert_eq!(same.send().await.unwrap().status(), 304);
    let patch = json!({ "settings": { "max_rows": 7, "db_schemas": ["public", "audit"] }, "labels": { "size": "s" } });
    let changed = with(Method::PATCH, path, &tag, patch).await.unwrap();
    assert_eq!(changed.status(), 200);
    let changed = changed.json::<Value>().await.unwrap();
    assert_eq!((&changed["overrides"]["max_rows"], &changed["labels"]["size"]), (&json!("7"), &json!("s")));
    for (method, path) in [(Method::PATCH, path.to_owned()), (Method::POST, format!("{path}/suspend"))] {
        let late = with(method, &path, &tag, json!({})).await.unwrap();
        assert_eq!(
            (late.status().as_u16(), late.json::<Value>().await.unwrap()["code"].as_str()),
            (412, Some("MBX614"))
        );
    }
    // All or nothing.
    let wrong = json!({ "tier": "none", "labels": { "size": "l" }, "settings": { "max_rows": null } });
    assert_eq!(service.send(&service.owner, Method::PATCH, path, &wrong).await.status, 422);
    let row = fleet.row("acme").await;
    assert_eq!((row.labels["size"].as_str(), row.record.overrides.get("max_rows")), ("s", Some("7")));
}

#[tokio::test]
async fn a_tenants_whole_life() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    let owner = &service.owner;
    let of = &service;
    let post =
        move |path: &'static str, body: Value| async move { of.send(owner, Method::POST, path, &body).await };
    let operator = token(&fleet, "ole", OperatorRole::Operator, Scopes::default()).await;
    let copy = post("/v1/tenants/acme/clone", json!({ "slug": "copy" })).await;
    assert_eq!(copy.status, 201, "{}", copy.text);
    assert_eq!(post("/v1/tenants/acme/clone", json!({ "slug": "copy" })).await.status, 409);
    let renamed = post("/v1/tenants/copy/rename", json!({ "slug": "other" })).await;
    assert_eq!((renamed.status.as_u16(), renamed.json()["slug"].as_str()), (200, Some("other")));
    let free = service.get(owner, "/v1/free?slug=copy&base_url=http://other.localhost").await.json();
    assert_eq!((&free["slug"]["free"], &free["base_url"]["free"]), (&json!(true), &json!(false)), "{free}");
    for (path, status) in [("retire", 200), ("suspend", 409), ("restore", 200), ("retire", 200)] {
        let answer =
            service.send(owner, Method::POST, &format!("/v1/tenants/other/{path}"), &json!({})).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
    // For good only by an owner, with a reason.
    let purge = |token: String, reason: Option<&'static str>| {
        let request = service.bare(Method::POST, "/v1/tenants/other/purge").bearer_auth(token);
        let request = request.json(&json!({ "now": true }));
        reason.into_iter().fold(request, |request, reason| request.header("X-Reason", reason)).send()
    };
    assert_eq!(purge(operator.clone(), Some("asked for")).await.unwrap().status(), 403);
    assert_eq!(purge(owner.clone(), None).await.unwrap().status(), 422);
    let gone = purge(owner.clone(), Some("asked for")).await.unwrap();
    assert_eq!(
        (gone.status().as_u16(), gone.json::<Value>().await.unwrap()["state"].as_str()),
        (200, Some("purged"))
    );
    let request = service
        .bare(Method::POST, "/v1/tenants/acme/token")
        .bearer_auth(&operator)
        .header("X-Reason", "to try");
    let given = request.json(&json!({ "role": "service", "claims": { "a": 1 } })).send().await.unwrap();
    assert_eq!(given.json::<Value>().await.unwrap()["token"].as_str().unwrap().matches('.').count(), 2);
    for path in
        ["/v1/editions", "/v1/tiers", "/v1/servers", "/v1/jobs", "/v1/rollouts", "/v1/tenants/acme/metrics"]
    {
        assert_eq!(service.get(owner, path).await.status, 200, "{path}");
    }
    assert_eq!(service.get(owner, "/v1/servers").await.json()["servers"][0]["answers"], true);
}

#[tokio::test]
async fn a_rollout_is_planned_run_and_watched() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    let service = Service::start(&fleet).await;
    let owner = &service.owner;
    let nothing = service.send(owner, Method::POST, "/v1/rollouts", &json!({})).await;
    assert_eq!(
        (nothing.status.as_u16(), &nothing.json()["rollout"]),
        (200, &Value::Null),
        "{}",
        nothing.text
    );
    let file = fleet.folder.path().join("migrations/shop/V3__more.sql");
    std::fs::write(file, "CREATE TABLE more (id int PRIMARY KEY);").unwrap();
    let planned = service.send(owner, Method::POST, "/v1/rollouts", &json!({ "run": true })).await;
    assert_eq!(planned.status, 201, "{}", planned.text);
    let planned = planned.json();
    let (id, job) = (&planned["rollout"]["id"], planned["job"]["id"].as_str().unwrap());
    // The stream ends with the job.
    let request = service.bare(Method::GET, &format!("/v1/jobs/{job}/events")).bearer_auth(owner);
    let events = request.send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let events = events.text().await.unwrap();
    let last = events.lines().rfind(|line| line.starts_with("data:")).unwrap();
    assert!(last.contains("\"state\":\"done\""), "{events}");
    let report = service.get(owner, &format!("/v1/rollouts/{id}")).await.json();
    assert_eq!((report["state"].as_str(), report["tenants"].as_array().unwrap().len()), (Some("done"), 2));
    let late = service.send(owner, Method::POST, &format!("/v1/rollouts/{id}/pause"), &json!({})).await;
    assert_eq!((late.status.as_u16(), late.json()["code"].as_str()), (409, Some("MBX611")));
    // Rows that would be the same for all tenants are told as `migrate plan` tells them.
    let file = fleet.folder.path().join("migrations/shop/V4__words.sql");
    let made = "CREATE TABLE words (id int PRIMARY KEY, word uuid NOT NULL DEFAULT gen_random_uuid());
                INSERT INTO words (id) VALUES (1);";
    std::fs::write(file, made).unwrap();
    let planned = service.send(owner, Method::POST, "/v1/rollouts", &json!({})).await;
    let (code, out, error) = fleet.run(&["migrate", "plan", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    let by_command: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(planned.json()["notes"], by_command["notes"]);
    assert!(planned.text.contains("frozen-row") && planned.text.contains("words"), "{}", planned.text);
    let scoped = Scopes { editions: Some(["shop".into()].into()), ..Scopes::default() };
    let scoped = token(&fleet, "sam", OperatorRole::Operator, scoped).await;
    assert_eq!(service.get(&scoped, &format!("/v1/rollouts/{id}")).await.status, 403);
    assert_eq!(service.get(&scoped, &format!("/v1/jobs/{job}")).await.status, 404);
    assert_eq!(service.send(&scoped, Method::POST, "/v1/rollouts", &json!({})).await.status, 403);
}
