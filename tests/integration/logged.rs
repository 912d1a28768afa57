//! The log's lines of requests: why each was refused, who asked, and nothing that is nobody's business.

use reqwest::{Client, Response};
use serde_json::Value;

use crate::support::router::Router;
use crate::support::{TestFleet, eventually};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRUST: (&str, &str) = ("MANYBOX__LISTEN__TRUSTED_PROXIES", "127.0.0.1/32");

async fn line(router: &Router, status: u16) -> Value {
    let find = || router.requests().into_iter().find(|line| line["http.status"] == status);
    eventually("it has a line", || async { find().is_some() }).await;
    find().unwrap()
}

async fn traced(router: &Router, path: &str) -> Response {
    Client::new()
        .get(router.url(path))
        .header("x-request-id", "proxy-17")
        .header("traceparent", TRACE)
        .header("x-forwarded-for", "198.51.100.1, 203.0.113.9, 127.0.0.1")
        .send()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_refusal_is_one_line_with_all_that_explains_it() {
    let toml = "[tiers.standard]\nstatement_timeout = '200ms'";
    let fleet = TestFleet::builder().toml(toml).tenants(&["acme"]).build().await;
    let router = Router::start_logging_json(&fleet, &[TRUST]).await;
    let refused = traced(&router, "/nobody/items").await;
    assert_eq!(refused.status(), 404);
    assert_eq!(refused.headers()["x-request-id"], "proxy-17");
    assert_eq!(refused.headers()["traceparent"], TRACE);
    let told = line(&router, 404).await;
    assert_eq!(told["code"], "MBX102");
    assert_eq!(told["request.id"], "proxy-17");
    assert_eq!(told["trace.id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(told["client.address"], "203.0.113.9", "who is next to the proxies that are ours");
    // PostgreSQL's refusal.
    let slow = Client::new().post(router.url("/acme/rpc/sleepy")).body(r#"{"seconds": 30}"#);
    let slow = slow.header("content-type", "application/json").send().await.unwrap();
    assert_eq!(slow.status(), 504);
    let told = line(&router, 504).await;
    assert_eq!(
        (&told["sqlstate"], &told["tenant.slug"], &told["role"]),
        (&"57014".into(), &"acme".into(), &"anon".into())
    );
    assert_eq!(told["http.path"], "/rpc/sleepy");
    assert!(
        told["ms.execute"].as_f64() > Some(0.0) && told["ms"].as_f64() >= told["ms.execute"].as_f64(),
        "{told}"
    );
    // Nobody's role.
    let answer =
        Client::new().get(router.url("/acme/items")).bearer_auth("not a token").send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(line(&router, 401).await["tenant.slug"], "acme");
    // What is asked of a schema, rightly or wrongly, is no refusal.
    for path in ["/acme/items", "/acme/items?id=eq.s3cret", "/acme/nothing"] {
        reqwest::get(router.url(path)).await.unwrap();
    }
    let lines = router.requests();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(!router.log().contains("s3cret"));
    // Whose requests are refused because it is suspended, whatever they ask for.
    assert_eq!(fleet.run(&["tenant", "suspend", "acme"]).await.0, 0);
    eventually("it is refused", || async {
        reqwest::get(router.url("/acme/items")).await.is_ok_and(|answer| answer.status() == 403)
    })
    .await;
    let told = line(&router, 403).await;
    assert_eq!((&told["code"], &told["tenant.slug"]), (&"MBX103".into(), &"acme".into()), "{told}");
}

#[tokio::test]
async fn who_is_no_trusted_proxy_chooses_no_id() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let router = Router::start_logging_json(&fleet, &[]).await;
    let refused = traced(&router, "/nobody/items").await;
    assert_ne!(refused.headers()["x-request-id"], "proxy-17");
    assert!(!refused.headers().contains_key("traceparent"));
    let told = line(&router, 404).await;
    assert_eq!(told["client.address"], "127.0.0.1");
    assert!(
        told["request.id"].is_string() && told["request.id"] != "proxy-17" && told["trace.id"].is_null(),
        "{told}"
    );
    // Nor does a trusted one choose any.
    let trusting = Router::start_logging_json(&fleet, &[TRUST]).await;
    for id in ["", "a b", "\"quoted\"", &"x".repeat(200)] {
        let request = Client::new().get(trusting.url("/nobody/items")).header("x-request-id", id);
        assert_ne!(request.send().await.unwrap().headers()["x-request-id"], id);
    }
}

#[tokio::test]
async fn the_access_log_tells_nothing_or_everything() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let silent = Router::start_logging_json(&fleet, &[("MANYBOX__LISTEN__ACCESS_LOG", "off")]).await;
    let all = Router::start_logging_json(&fleet, &[("MANYBOX__LISTEN__ACCESS_LOG", "all")]).await;
    for router in [&silent, &all] {
        let answer = reqwest::get(router.url("/acme/items?name=eq.s3cret")).await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        assert_eq!(reqwest::get(router.url("/nobody/items")).await.unwrap().status(), 404);
    }
    assert_eq!(line(&all, 200).await["http.path"], "/items");
    line(&all, 404).await;
    assert!(!all.log().contains("s3cret"));
    assert_eq!(silent.requests(), Vec::<Value>::new());
}

/// A function of a tenant chooses its error's code, and would choose the terminal's colours.
#[tokio::test]
async fn what_a_tenant_writes_is_shown_and_not_obeyed() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let body = r#"{"code": "\u001b[31m", "message": "s3cret"}"#;
    let function = format!(
        "CREATE FUNCTION loud() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE 'PGRST' USING
             MESSAGE = '{body}', DETAIL = '{{\"status\": 500, \"headers\": {{}}}}'; END $$;
         GRANT EXECUTE ON FUNCTION loud TO anon"
    );
    fleet.owner("acme").await.batch_execute(&function).await.unwrap();
    for json in [true, false] {
        let router = if json {
            Router::start_logging_json(&fleet, &[]).await
        } else {
            Router::start(&fleet, &[]).await
        };
        let answer = Client::new().post(router.url("/acme/rpc/loud")).send().await.unwrap();
        assert_eq!(answer.status(), 500, "{}", answer.text().await.unwrap());
        eventually("it has a line", || async { router.log().contains("/rpc/loud") }).await;
        let log = router.log();
        assert!(!log.contains('\u{1b}') && !log.contains("s3cret"), "{log}");
    }
}
