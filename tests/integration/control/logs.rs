//! Tokens in logs: whichever way one is given, rightly or wrongly, neither the log nor the journal has it.

use std::process::Stdio;

use manybox::catalog::{OperatorRole, Scopes};
use reqwest::Method;
use serde_json::json;

use super::token;
use crate::support::{Running, TestFleet, eventually, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_in_the_log_or_in_the_journal() {
    let fleet = TestFleet::builder()
        .toml("[control]\nwebhook_networks = ['127.0.0.0/8']\n[control.oidc]\nissuer = 'http://127.0.0.1:9/'\nclient_id = 'm'\nclient_secret = 'of-the-client'\nnetworks = ['127.0.0.0/8']")
        .tenants(&["acme"])
        .build()
        .await;
    let given = token(&fleet, "ada", OperatorRole::Owner, Scopes::default()).await;
    let secret = given.splitn(3, '_').nth(2).unwrap().to_owned();
    let (address, log) = (free_port(), fleet.folder.path().join("control.log"));
    let mut command = fleet.program(&["control"]);
    command.env("MANYBOX__CONTROL__HTTP", address.to_string()).env("RUST_LOG", "trace");
    let file = std::fs::File::create(&log).unwrap();
    command.stdout(Stdio::null()).stderr(file);
    let _running = Running(command.spawn().unwrap());
    eventually("the service answers", || async {
        reqwest::get(format!("http://{address}/healthz")).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let to = |method: Method, path: &str| client.request(method, format!("http://{address}{path}"));
    let (bad, longer) = (format!("{}x", &given[..given.len() - 1]), format!("{given}x"));

    // As it should be, and as it comes when somebody is mistaken.
    let mut sent = 0;
    let heads = [
        ("authorization", format!("Bearer {given}")),
        ("authorization", format!("Bearer {bad}")),
        ("authorization", format!("Bearer {longer}")),
        ("authorization", format!("Token {given}")),
        ("authorization", given.clone()),
        ("cookie", format!("manybox-session={given}")),
        ("cookie", format!("manybox-oidc={given}")),
        ("x-api-key", given.clone()),
        ("host", format!("{secret}.example")),
    ];
    for (name, value) in &heads {
        for (method, path) in [
            (Method::GET, "/v1/tenants"),
            (Method::POST, "/v1/tenants/acme/reload"),
            (Method::POST, "/v1/tenants/none/reload"),
            (Method::GET, "/nowhere"),
            (Method::GET, "/tenants"),
            (Method::GET, "/sign-in/oidc"),
        ] {
            to(method, path).header(*name, value).send().await.unwrap();
            sent += 1;
        }
    }
    let with = |method: Method, path: &str| to(method, path).bearer_auth(&given);
    for path in [
        format!("/v1/tenants?token={given}"),
        format!("/v1/tenants?search={given}&order={given}"),
        format!("/v1/tenants/{given}"),
        format!("/v1/jobs/{given}"),
        format!("/{given}"),
        format!("/tenants?q={given}"),
        format!("/sign-in?next=/{given}"),
        format!("/sign-in/oidc/callback?code={given}&state={given}&error={given}"),
    ] {
        with(Method::GET, &path).send().await.unwrap();
        to(Method::GET, &path).send().await.unwrap();
        with(Method::POST, &path).json(&json!({ "slug": given })).send().await.unwrap();
        sent += 3;
    }
    for body in [
        given.clone(),
        format!("{{\"slug\": \"{given}\"}}"),
        format!("{{\"{given}\": 1}}"),
        format!("[{given}"),
    ] {
        for path in ["/v1/tenants", "/v1/webhooks", "/v1/verify", "/v1/rollouts", "/v1/tenants/acme/token"] {
            let request = with(Method::POST, path).header("content-type", "application/json");
            request.header("x-reason", &given).body(body.clone()).send().await.unwrap();
            sent += 1;
        }
    }
    for (name, value) in
        [("idempotency-key", &given), ("if-match", &given), ("x-reason", &given), ("prefer", &given)]
    {
        with(Method::POST, "/v1/tenants/acme/reload").header(name, value).send().await.unwrap();
        with(Method::PATCH, "/v1/tenants/acme")
            .header(name, value)
            .json(&json!({ "tier": given }))
            .send()
            .await
            .unwrap();
        sent += 2;
    }
    for (field, value) in [("token", &given), ("token", &bad), ("next", &given)] {
        let form = to(Method::POST, "/sign-in").header("sec-fetch-site", "same-origin");
        let answer = form.form(&[(field, value.as_str())]).send().await.unwrap();
        sent += 1;
        // A session's secret neither.
        if let Some(cookie) = answer.headers().get("set-cookie") {
            let session = cookie.to_str().unwrap().split(['=', ';']).nth(1).unwrap().to_owned();
            to(Method::GET, "/tenants")
                .header("cookie", format!("manybox-session={session}"))
                .send()
                .await
                .unwrap();
            let written = std::fs::read_to_string(&log).unwrap();
            assert!(session.len() > 40 && !written.contains(&session), "a session's secret is in the log");
        }
    }
    let written = std::fs::read_to_string(&log).unwrap();
    assert!(sent > 90 && written.contains("a sign-in by the OpenID issuer was refused"), "{written}");
    for secret in [secret.as_str(), &secret[..20], "of-the-client"] {
        let line = written.lines().find(|line| line.contains(secret));
        assert_eq!(line, None);
    }
    let (_, journal, _) = fleet.run(&["journal", "export"]).await;
    assert!(journal.contains("reload") && journal.contains("POST /v1/tenants"));
    let line = journal.lines().find(|line| line.contains(&secret));
    assert_eq!(line, None);
}
