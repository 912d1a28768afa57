//! What clients notice of a migration: nothing. And which versions are served, where an operator says so.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::{Running, TestFleet, eventually};

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

async fn migrate(fleet: &TestFleet) {
    let (code, out, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{out} {error}");
}

async fn until_served(fleet: &TestFleet, slugs: &[&str], version: i64) {
    let directory = &fleet.app.as_ref().unwrap().directory;
    for slug in slugs {
        let id = fleet.row(slug).await.record.id;
        eventually("the router knows the new version", || async {
            directory.get(&id).unwrap().lineage().unwrap().version == version
        })
        .await;
    }
}

/// The backends of the tenant's login.
async fn backends(fleet: &TestFleet, slug: &str) -> BTreeSet<i32> {
    let login = fleet.row(slug).await.record.id.database();
    let sql = "SELECT pid FROM pg_stat_activity WHERE usename = $1";
    let rows = fleet.admin(slug).await.query(sql, &[&login]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_outlive_a_migration() {
    let slugs = ["acme", "globex"];
    let fleet = TestFleet::builder().tenants(&slugs).serve().await;
    let ask = async || {
        for slug in slugs {
            let path = format!("/{slug}/items");
            for answer in join_all((0..6).map(|_| fleet.get(&path))).await {
                assert_eq!(answer.status, 200, "{}", answer.text);
            }
        }
    };
    ask().await;
    fleet.has_its_share().await;
    ask().await;
    let before = [backends(&fleet, "acme").await, backends(&fleet, "globex").await];
    assert!(before.iter().all(|pids| !pids.is_empty()));
    add(&fleet, "V3__colour.sql", "ALTER TABLE items ADD COLUMN colour text DEFAULT 'red';");
    add(
        &fleet,
        "V4__kind.sql",
        "ALTER TABLE items ADD COLUMN kind text; ALTER TABLE items DROP COLUMN tags;",
    );
    migrate(&fleet).await;
    until_served(&fleet, &slugs, 4).await;
    assert_eq!(fleet.get("/acme/items?select=colour,kind").await.status, 200);
    ask().await;
    for (slug, before) in slugs.into_iter().zip(before) {
        let now = backends(&fleet, slug).await;
        assert!(before.is_subset(&now), "{slug}: {before:?} {now:?}");
    }
}

/// What is asked while a rollout runs; all of it is answered by every version.
const LOAD: [(Method, &str, &str); 8] = [
    (Method::GET, "items?order=id&limit=20", ""),
    (Method::GET, "items?select=id,name&name=like.n*&limit=5", ""),
    (Method::GET, "cheap?select=id&limit=5", ""),
    (Method::GET, "rpc/cheaper_than?most=5&limit=5", ""),
    (Method::POST, "rpc/add", r#"{"a":1,"b":2}"#),
    (Method::POST, "items", r#"{"name":"NUMBER","price":1}"#),
    (Method::PATCH, "items?id=lte.3", r#"{"price":2}"#),
    (Method::DELETE, "items?id=eq.100000", ""),
];

/// Asks all of it again and again until `done`, at a pause, and fails at the first answer that is no success.
async fn load(fleet: &TestFleet, slugs: &[&str], done: &AtomicBool, answered: &AtomicU32) {
    let number = AtomicU32::new(0);
    let mut clients = Vec::new();
    for slug in slugs {
        let token = fleet.token(slug, json!({ "role": "service" })).await;
        for (method, path, body) in LOAD {
            let (path, token, number) = (format!("/{slug}/{path}"), token.clone(), &number);
            clients.push(async move {
                while !done.load(Ordering::Relaxed) {
                    let name = format!("n{}", number.fetch_add(1, Ordering::Relaxed));
                    let body = body.replace("NUMBER", &name);
                    let answer = fleet.send(method.clone(), &path, Some(&token), "", &body).await;
                    let (status, text) = (answer.status, answer.text);
                    assert!(status.is_success(), "{method} {path}: {status} {text}");
                    answered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    }
    join_all(clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_under_load_fails_no_request() {
    let slugs = ["acme", "globex", "initech"];
    let fleet = TestFleet::builder().tenants(&slugs).serve().await;
    let (done, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    let rollouts = async {
        let busy = async || {
            let before = answered.load(Ordering::Relaxed);
            eventually("requests go on", || async { answered.load(Ordering::Relaxed) > before + 100 }).await;
        };
        busy().await;
        add(&fleet, "V3__colour.sql", "ALTER TABLE items ADD COLUMN colour text NOT NULL DEFAULT 'red';");
        add(
            &fleet,
            "V4__by_price.sql",
            "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY items_price ON items (price);",
        );
        migrate(&fleet).await;
        until_served(&fleet, &slugs, 4).await;
        busy().await;
        // Several files, each of which takes from or changes what the others' requests are planned with.
        add(&fleet, "V5__fewer.sql", "ALTER TABLE items DROP COLUMN tags;");
        add(
            &fleet,
            "V6__wider.sql",
            "DROP VIEW cheap;
             ALTER TABLE items ALTER COLUMN price TYPE numeric(12, 3);
             CREATE VIEW cheap WITH (security_invoker = true) AS SELECT id, name, colour FROM items WHERE price < 20;
             GRANT SELECT ON cheap TO anon, authenticated, service;",
        );
        add(
            &fleet,
            "V7__owner.sql",
            "ALTER TABLE items ADD COLUMN owner text, ALTER COLUMN colour DROP NOT NULL;",
        );
        add(
            &fleet,
            "V8__function.sql",
            "DROP FUNCTION add(int, int);
             CREATE FUNCTION add(a int, b int DEFAULT 1, c int DEFAULT 0) RETURNS bigint LANGUAGE sql IMMUTABLE AS
                'SELECT a::bigint + b + c';
             GRANT EXECUTE ON FUNCTION add TO anon, authenticated, service;",
        );
        add(&fleet, "V9__made.sql", "ALTER TABLE items RENAME COLUMN made TO made_at;");
        migrate(&fleet).await;
        until_served(&fleet, &slugs, 9).await;
        busy().await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(rollouts, load(&fleet, &slugs, &done, &answered));
    for slug in slugs {
        let answer = fleet.get(&format!("/{slug}/cheap?select=id,colour&limit=1")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_killed_amid_heals_and_writes_go_on() {
    let slugs = ["a", "b", "c", "d", "e", "f"];
    let fleet = TestFleet::builder().tenants(&slugs).serve().await;
    add(
        &fleet,
        "V3__by_price.sql",
        "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY items_price ON items (price);",
    );
    let (done, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    let rollouts = async {
        // An old transaction, which the index of one tenant has to wait for.
        let holder = fleet.owner("c").await;
        holder
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM public.items")
            .await
            .unwrap();
        let mut command = Running(fleet.program(&["migrate"]).spawn().unwrap());
        let admin = fleet.admin("c").await;
        let database = fleet.row("c").await.record.id.database();
        // Of what other roles do, the admin sees the locks.
        let waits = "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid)
                     WHERE datname = $1 AND usename LIKE 'mb\\_m\\_%' AND locktype = 'virtualxid' AND NOT granted";
        eventually("the index waits", || async {
            admin.query_one(waits, &[&database]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
        // SIGKILL.
        command.0.kill().unwrap();
        command.0.wait().unwrap();
        holder.batch_execute("COMMIT").await.unwrap();
        migrate(&fleet).await;
        until_served(&fleet, &slugs, 3).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(rollouts, load(&fleet, &slugs, &done, &answered));
    assert!(answered.load(Ordering::Relaxed) > 0);
    for slug in slugs {
        let sql = "SELECT count(*) FILTER (WHERE indisvalid), count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                   WHERE c.relname LIKE 'items_price%'";
        let row = fleet.admin(slug).await.query_one(sql, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 1), "{slug}");
    }
}

#[tokio::test]
async fn who_is_behind_the_required_version_waits_without_a_connection() {
    let settings = "[editions.shop.api]\nrequire_version = '>= 3'\nschema_version_header = true\n[tiers.standard]\nmax_connections = 3";
    let fleet = TestFleet::builder().toml(settings).tenants(&["acme", "globex"]).serve().await;
    let refused = fleet.get("/acme/items").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "MBX117"));
    assert_eq!(refused.headers["retry-after"], "5");
    assert_eq!(refused.headers["mb-schema-version"], "2");
    assert_eq!(backends(&fleet, "acme").await.len(), 0);
    // One tenant's own setting comes before its edition's.
    let (code, _, error) = fleet.run(&["tenant", "set", "globex", "require_version=none"]).await;
    assert_eq!(code, 0, "{error}");
    eventually("it is served", || async { fleet.get("/globex/items").await.status == 200 }).await;
    let (code, _, error) = fleet.run(&["tenant", "set", "globex", "require_version=3"]).await;
    assert!(code == 1 && error.contains("require_version") && error.contains(">= 12"), "{error}");

    add(&fleet, "V3__colour.sql", "ALTER TABLE items ADD COLUMN colour text;");
    migrate(&fleet).await;
    until_served(&fleet, &["acme"], 3).await;
    let answer = fleet.get("/acme/items?select=colour").await;
    assert_eq!((answer.status.as_u16(), answer.headers["mb-schema-version"].as_str()), (200, "3"));
    let request = fleet.request(Method::GET, "/acme/items").header("Origin", "https://app.test");
    let exposed = request.send().await.unwrap();
    let exposed = exposed.headers().get_all("access-control-expose-headers").iter();
    assert!(exposed.into_iter().any(|value| value == "mb-schema-version"));
}
