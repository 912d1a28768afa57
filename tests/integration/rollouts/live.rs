//! Rollouts under traffic: requests go on while tables get columns and indexes, and while an executor is killed.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinHandle;

use super::{add, version};
use crate::support::{Running, TestFleet, eventually};

/// Clients that read and write until they are told to stop. Any answer but the usual ones fails the test.
struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    async fn begin(fleet: &Arc<TestFleet>, slugs: &'static [&'static str]) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = Vec::new();
        for slug in slugs {
            let token = fleet.token(slug, json!({ "role": "service" })).await;
            let (fleet, stop, answered) = (Arc::clone(fleet), Arc::clone(&stop), Arc::clone(&answered));
            clients.push(tokio::spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let body = format!("{{\"name\": \"item {number}\"}}");
                    let path = format!("/{slug}/items");
                    let written =
                        fleet.send(Method::POST, &path, Some(&token), "return=minimal", &body).await;
                    assert_eq!(written.status, 201, "{slug} {number}: {}", written.text);
                    let read = fleet.get_as(&token, &format!("{path}?order=id.desc&limit=3")).await;
                    assert_eq!(read.status, 200, "{slug} {number}: {}", read.text);
                    answered.fetch_add(2, Ordering::Relaxed);
                }
            }));
        }
        Self { stop, answered, clients }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_and_an_index_come_under_traffic_without_a_failed_request() {
    const SLUGS: &[&str] = &["a", "b", "c", "d", "e", "f"];
    let fleet = Arc::new(TestFleet::builder().tenants(SLUGS).serve().await);
    let traffic = Traffic::begin(&fleet, SLUGS).await;
    eventually("requests are answered", async || traffic.answered() > 50).await;
    add(&fleet, "V3__kind.sql", "ALTER TABLE items ADD COLUMN kind text NOT NULL DEFAULT 'thing';");
    let index = "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY items_by_kind ON items (kind);\n";
    add(&fleet, "V4__index.sql", index);
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    let answered = traffic.answered();
    eventually("requests go on", async || traffic.answered() > answered + 50).await;
    traffic.end().await;
    let read = fleet.get("/a/items?select=kind&limit=1").await;
    assert_eq!(read.json(), json!([{ "kind": "thing" }]), "the new column is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_a_kill_left_half_built_is_built_by_the_next_under_traffic() {
    const SLUGS: &[&str] = &["a", "b", "c", "d"];
    let fleet = Arc::new(TestFleet::builder().tenants(SLUGS).serve().await);
    let traffic = Traffic::begin(&fleet, SLUGS).await;
    let index = "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY items_by_price ON items (price);\n";
    add(&fleet, "V3__index.sql", index);
    // It waits for this one before the index is good, and so does not end before it is killed.
    let writer = fleet.owner("b").await;
    writer.batch_execute("BEGIN; INSERT INTO public.items (name) VALUES ('unfinished')").await.unwrap();
    let mut program = fleet.program(&["migrate"]);
    let mut child = Running(program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let admin = fleet.admin("b").await;
    let index = async || {
        let sql = "SELECT bool_or(indisvalid) FROM pg_index WHERE indexrelid = to_regclass('public.items_by_price')";
        admin.query_one(sql, &[]).await.unwrap().get::<_, Option<bool>>(0)
    };
    eventually("the index is half built", async || index().await == Some(false)).await;
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let answered = traffic.answered();
    eventually("writers are not held up", async || traffic.answered() > answered + 50).await;
    writer.batch_execute("ROLLBACK").await.unwrap();
    writer.close().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (code, _, error) = fleet.run(&["migrate", "resume"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(index().await, Some(true));
    for slug in SLUGS {
        assert_eq!(version(&fleet, slug).await, 3, "{slug}");
    }
    traffic.end().await;
}
