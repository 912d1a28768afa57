//! Supervision: a background task that panics is seen, and started again; meanwhile the router says that it is stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, to_bytes};
use manybox::admin::{self, Access, Admin};
use serde_json::Value;
use tower::ServiceExt as _;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::support::{TestFleet, eventually};

/// A log that panics at whatever the directory's watcher says, while it is armed: so the watcher panics, for real and
/// in its own place.
struct Panicking(Arc<AtomicBool>);

impl<S: tracing::Subscriber> Layer<S> for Panicking {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let watcher = event.metadata().target() == "manybox::directory::watch";
        assert!(!watcher || !self.0.load(Ordering::SeqCst), "the watcher is made to panic");
    }
}

async fn ask(admin: &axum::Router, path: &str) -> (u16, String) {
    let request = http::Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
    let answer = admin.clone().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn readiness(admin: &axum::Router) -> (u16, String) {
    let (status, body) = ask(admin, "/ready").await;
    (status, serde_json::from_str::<Value>(&body).unwrap()["status"].as_str().unwrap().to_owned())
}

// One thread: the log that panics is that thread's.
#[tokio::test(flavor = "current_thread")]
async fn a_panicking_watcher_is_no_frozen_directory_behind_a_green_light() {
    let armed = Arc::new(AtomicBool::new(false));
    let log = tracing_subscriber::registry().with(Panicking(Arc::clone(&armed)));
    let _log = tracing::subscriber::set_default(log);
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let app = fleet.app.as_ref().unwrap();
    let told = Admin {
        directory: app.directory.clone(),
        pools: app.pools.clone(),
        metrics: app.metrics.clone(),
        traffic: app.traffic.clone(),
        keys: app.keys.clone(),
        top: 0,
        phase: tokio::sync::watch::channel(manybox::admin::Phase::Open).1,
    };
    let admin = admin::router(told, Access::new(&fleet.fleet.settings.listen).unwrap());
    assert_eq!(readiness(&admin).await, (200, "ready".into()));

    // It says that it lost the catalog, and later that it loaded the directory.
    armed.store(true, Ordering::SeqCst);
    let router = format!("{}_router", fleet.fleet.settings.catalog.database);
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    fleet.admin("acme").await.execute(cut, &[&router]).await.unwrap();
    eventually("it is stale", async || readiness(&admin).await == (503, "stale".into())).await;
    assert_eq!(fleet.get("/acme/items").await.status, 200, "served from memory");
    let (_, metrics) = ask(&admin, "/metrics").await;
    assert!(metrics.contains("manybox_task_failures_total{task=\"directory\"} "), "{metrics}");
    assert!(!metrics.contains("manybox_task_failures_total{task=\"directory\"} 0"), "{metrics}");
    assert!(metrics.contains("manybox_task_failures_total{task=\"traffic\"} 0"), "{metrics}");

    fleet.create("missed").await;
    armed.store(false, Ordering::SeqCst);
    eventually("it has recovered", async || readiness(&admin).await == (200, "ready".into())).await;
    // The tenant may have turned active just behind the load.
    eventually("what was missed is known", async || fleet.get("/missed/items").await.status == 200).await;
    fleet.create("heard").await;
    eventually("it follows again", async || fleet.get("/heard/items").await.status == 200).await;

    app.abort();
    eventually("nobody follows", async || readiness(&admin).await == (503, "stale".into())).await;
}
