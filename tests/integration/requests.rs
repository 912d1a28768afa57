//! Pools: a connection that comes back is clean, whatever the request did and wherever it was dropped.

use std::time::Duration;

use manybox::pool;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{TestFleet, eventually, one};

/// One connection only, so that the next request gets the same one or a new one, never a third.
const NARROW: &str = "[tiers.standard]\nmax_connections = 1\nacquire_timeout = '10s'";

async fn seen(fleet: &TestFleet) -> Value {
    let answer = fleet.send(Method::POST, "/acme/rpc/seen", None, "", "{}").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

fn is_clean(seen: &Value) {
    assert_eq!(seen["role"], "anon");
    assert_eq!(seen["left"].as_str().unwrap_or_default(), "");
    assert_eq!(seen["locks"], 0);
    assert_eq!(seen["listening"], 0);
    assert!(seen["search_path"].as_str().unwrap().contains("public"), "{seen}");
}

/// The admin may not see other roles' transactions in pg_stat_activity, but their locks.
const IN_TRANSACTION: &str = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'virtualxid')";

async fn backends(fleet: &TestFleet, condition: &str) -> i64 {
    let login = fleet.row("acme").await.record.id.database();
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND {condition}");
    fleet.admin("acme").await.query_one(&sql, &[&login]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_a_function_leaves_behind_is_gone() {
    let fleet = TestFleet::builder().toml(NARROW).tenants(&["acme"]).serve().await;
    let before = seen(&fleet).await;
    is_clean(&before);
    let littered = fleet.send(Method::POST, "/acme/rpc/litter", None, "", "{}").await;
    assert!(littered.status.is_success(), "{}", littered.text);
    let after = seen(&fleet).await;
    is_clean(&after);
    assert_eq!(before["backend"], after["backend"], "reset, not replaced");
    // A failed request leaves nothing either.
    assert_eq!(fleet.send(Method::POST, "/acme/rpc/fails", None, "", "{}").await.status, 400);
    is_clean(&seen(&fleet).await);
}

#[tokio::test]
async fn a_client_that_goes_mid_query_leaves_nothing() {
    let fleet = TestFleet::builder().toml(NARROW).tenants(&["acme"]).serve().await;
    let before = seen(&fleet).await;
    let slow = fleet
        .request(Method::POST, "/acme/rpc/sleepy")
        .header("Content-Type", "application/json")
        .body(r#"{"seconds": 30}"#)
        .timeout(Duration::from_millis(300));
    assert!(slow.send().await.unwrap_err().is_timeout());
    // Cancelled, not waited for: the only connection is free again long before thirty seconds.
    let after = seen(&fleet).await;
    is_clean(&after);
    assert_ne!(before["backend"], after["backend"]);
    eventually("the query has ended", || async { backends(&fleet, IN_TRANSACTION).await == 0 }).await;
}

#[tokio::test]
async fn a_request_dropped_at_any_moment_leaves_nothing() {
    let fleet = TestFleet::builder().toml(NARROW).tenants(&["acme"]).serve().await;
    let token = fleet.token("acme", json!({ "role": "service", "sub": "somebody" })).await;
    // From before BEGIN's answer to after COMMIT's.
    for micros in (0..6000).step_by(150) {
        let request = fleet
            .request(Method::POST, "/acme/rpc/litter")
            .bearer_auth(&token)
            .header("Content-Type", "application/json")
            .body("{}");
        let _ = tokio::time::timeout(Duration::from_micros(micros), request.send()).await;
        let now = seen(&fleet).await;
        is_clean(&now);
        assert!(!now["claims"].as_str().unwrap_or_default().contains("somebody"));
    }
    eventually("no transaction stays open", || async { backends(&fleet, IN_TRANSACTION).await == 0 }).await;
}

async fn pid(checkout: &mut pool::Checkout) -> i32 {
    one(checkout, "SELECT pg_backend_pid()").await
}

#[tokio::test]
async fn a_checkout_that_is_not_cleaned_is_discarded() {
    let fleet = TestFleet::builder().toml(NARROW).tenants(&["acme"]).serve().await;
    let tenant = fleet.tenant("acme").await;
    let pools = fleet.app.as_ref().unwrap().pools.clone();
    // Before BEGIN's answer.
    let mut checkout = pools.checkout(&tenant).await.unwrap();
    let first = pid(&mut checkout).await;
    {
        let begin = checkout.wire().run("BEGIN");
        tokio::pin!(begin);
        assert!(futures_util::poll!(&mut begin).is_pending());
    }
    drop(checkout);
    // Between statements.
    let mut checkout = pools.checkout(&tenant).await.unwrap();
    let second = pid(&mut checkout).await;
    assert_ne!(first, second);
    checkout.wire().run("BEGIN; SET LOCAL ROLE service").await.unwrap();
    drop(checkout);
    let mut checkout = pools.checkout(&tenant).await.unwrap();
    let third = pid(&mut checkout).await;
    assert_ne!(second, third);
    // After the end of its transaction it is kept.
    checkout.wire().run("BEGIN").await.unwrap();
    checkout.wire().run(&pool::end_batch(pool::End::Commit)).await.unwrap();
    checkout.clean();
    let mut checkout = pools.checkout(&tenant).await.unwrap();
    assert_eq!(pid(&mut checkout).await, third);
    checkout.clean();
    eventually("the discarded backends are gone", || async { backends(&fleet, "true").await == 1 }).await;
}

#[tokio::test]
async fn the_tiers_maximum_holds_and_waits_end() {
    let limits = "[tiers.standard]\nmax_connections = 2\nacquire_timeout = '200ms'";
    let fleet = TestFleet::builder().toml(limits).tenants(&["acme"]).serve().await;
    let tenant = fleet.tenant("acme").await;
    let pools = fleet.app.as_ref().unwrap().pools.clone();
    let (one, two) = (pools.checkout(&tenant).await.unwrap(), pools.checkout(&tenant).await.unwrap());
    let Err(waited) = pools.checkout(&tenant).await else { panic!("a third connection") };
    assert!(matches!(waited, pool::Error::Wait { .. }), "{waited}");
    let answer = fleet.get("/acme/items").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.headers.contains_key("retry-after"));
    one.clean();
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    two.clean();
    assert!(backends(&fleet, "true").await <= 2);
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let limits = "[tiers.standard]\nidle_timeout = '300ms'";
    let fleet = TestFleet::builder().toml(limits).tenants(&["acme"]).serve().await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    eventually("nothing is open", || async { backends(&fleet, "true").await == 0 }).await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
}
