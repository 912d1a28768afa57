//! Migrations: a fleet brought to a new version; one that fails stops nobody else.

use manybox::tenant::Verb;
use serde_json::{Value, json};

use crate::support::TestFleet;

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

async fn status(fleet: &TestFleet) -> Value {
    let (code, out, error) = fleet.run(&["migrate", "status", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    serde_json::from_str(&out).unwrap()
}

#[tokio::test]
async fn a_fleet_is_brought_up_past_a_broken_tenant() {
    let fleet = TestFleet::builder().tenants(&["a", "b", "c", "d"]).serve().await;
    assert_eq!(fleet.get("/a/items?select=id,colour").await.status, 400);
    fleet.fleet.carry_out("d", Verb::Suspend).await.unwrap();
    // Broken on purpose: the column is there already.
    fleet.owner("b").await.batch_execute("ALTER TABLE public.items ADD COLUMN colour text").await.unwrap();
    add(&fleet, "V3__colour.sql", "ALTER TABLE items ADD COLUMN colour text;");
    assert_eq!(status(&fleet).await["summary"]["behind"], 4);

    let (code, _, error) = fleet.run(&["migrate", "--jobs", "2"]).await;
    assert_eq!(code, 1, "one failed");
    assert!(error.contains('b') && error.contains("colour") && error.contains("1 of 4"), "{error}");
    let now = status(&fleet).await;
    assert_eq!(
        now["summary"],
        json!({ "tenants": 4, "current": 3, "behind": 1, "ahead": 0, "divergent": 0, "failed": 1 })
    );

    // The new column is served without a restart, and a new tenant is born with it.
    crate::support::eventually("the router sees the new column", || async {
        fleet.get("/a/items?select=id,colour").await.status == 200
    })
    .await;
    let new = fleet.create("e").await;
    assert_eq!(new.record.lineage().unwrap().version, 3);

    // Mended, only that one is touched.
    fleet.owner("b").await.batch_execute("ALTER TABLE public.items DROP COLUMN colour").await.unwrap();
    let (code, out, error) = fleet.run(&["migrate", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["tenants"], json!([{ "slug": "b", "before": 2, "after": 3, "failure": null }]));
    assert_eq!(status(&fleet).await["summary"]["current"], 5);
}

#[tokio::test]
async fn changed_files_are_divergence_and_are_not_applied() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(&fleet, "V2__notes.sql", "CREATE TABLE notes (id int PRIMARY KEY, body text, more text);");
    assert_eq!(status(&fleet).await["tenants"][0]["standing"], "divergent");
    let (code, _, error) = fleet.run(&["migrate", "--tenant", "a"]).await;
    assert_eq!(code, 1);
    assert!(error.contains("version 2"), "{error}");
}

#[tokio::test]
async fn files_that_would_be_misread_are_refused_before_anything_runs() {
    for (file, sql) in [
        ("V3__add-col.sql", "SELECT 1;"),
        ("v3__low.sql", "SELECT 1;"),
        ("V3__commits.sql", "CREATE TABLE x (a int); COMMIT; CREATE TABLE y (a int);"),
        ("V3__role.sql", "RESET ROLE; CREATE TABLE x (a int);"),
        ("V3__setting.sql", "ALTER DATABASE x SET work_mem = '1GB';"),
    ] {
        let fleet = TestFleet::builder().tenants(&["a"]).build().await;
        add(&fleet, file, sql);
        let (code, _, error) = fleet.run(&["migrate"]).await;
        assert_eq!(code, 1, "{file}");
        assert!(error.contains(file), "{file}: {error}");
        assert_eq!(fleet.row("a").await.record.lineage().unwrap().version, 2);
    }
}

#[tokio::test]
async fn a_file_that_escapes_its_role_fails() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(&fleet, "V3__escape.sql", "DO $$ BEGIN EXECUTE 'RESET ROLE'; END $$; CREATE TABLE escaped (a int);");
    let (code, _, error) = fleet.run(&["migrate", "--tenant", "a"]).await;
    assert_eq!(code, 1, "{error}");
    let there = fleet
        .admin("a")
        .await
        .query_one("SELECT to_regclass('public.escaped') IS NOT NULL", &[])
        .await
        .unwrap();
    assert!(!there.get::<_, bool>(0));
}

#[tokio::test]
async fn an_index_can_be_built_concurrently() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(
        &fleet,
        "V3__index.sql",
        "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY items_made ON items (made);",
    );
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.items_made'::regclass";
    assert!(fleet.admin("a").await.query_one(valid, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn a_table_in_use_is_waited_for_and_tried_again() {
    let fleet = TestFleet::builder()
        .toml("[migrate]\nlock_timeout = '50ms'\nlock_retries = 20")
        .tenants(&["a"])
        .build()
        .await;
    add(&fleet, "V3__colour.sql", "ALTER TABLE items ADD COLUMN colour text;");
    let reader = fleet.owner("a").await;
    reader.batch_execute("BEGIN; SELECT * FROM public.items").await.unwrap();
    let migrate = fleet.run(&["migrate", "--tenant", "a"]);
    let release = async {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        reader.batch_execute("COMMIT").await.unwrap();
    };
    let ((code, _, error), ()) = tokio::join!(migrate, release);
    assert_eq!(code, 0, "{error}");
}
