//! Drift: tenants whose schema is not what their files make, told apart, accepted, and kept apart from a step's own.

use manybox::fleet::{Before, Proof};
use manybox::migrate::fingerprint;
use serde_json::Value;

use crate::support::TestFleet;

async fn drift(fleet: &TestFleet, arguments: &[&str]) -> (i32, Value, String) {
    let arguments: Vec<_> = ["drift", "--json"].iter().chain(arguments).copied().collect();
    let (code, out, error) = fleet.run(&arguments).await;
    (code, serde_json::from_str(&out).unwrap_or_default(), error)
}

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

#[tokio::test]
async fn drift_is_told_accepted_and_told_again_when_there_is_more() {
    let fleet = TestFleet::builder().tenants(&["a", "b", "c"]).build().await;
    let (code, found, error) = drift(&fleet, &[]).await;
    assert_eq!((code, &found["summary"]["equal"]), (0, &Value::from(3)), "{error}");

    let owner = fleet.owner("b").await;
    owner.batch_execute("ALTER TABLE items ADD COLUMN colour text; DROP INDEX IF EXISTS none").await.unwrap();
    owner.batch_execute("REVOKE SELECT ON items FROM anon").await.unwrap();
    let (code, found, error) = drift(&fleet, &[]).await;
    assert_eq!(code, 1);
    assert!(error.contains("1 tenant(s) drifted"), "{error}");
    let b = &found["tenants"][1];
    assert_eq!((&b["slug"], &b["standing"]), (&"b".into(), &"drifted".into()));
    assert_eq!(
        b["differences"],
        serde_json::json!([
            "table public.items: column colour not expected: text",
            "table public.items: rights of anon: none instead of SELECT"
        ])
    );
    let (_, out, _) = fleet.run(&["drift", "--tenant", "b"]).await;
    assert!(
        out.contains("b (shop 2) drifted\n  table public.items: column colour not expected: text"),
        "{out}"
    );

    // Accepting takes a tenant and a reason.
    assert_eq!(fleet.run(&["drift", "--accept"]).await.0, 2);
    let (code, found, error) =
        drift(&fleet, &["--tenant", "b", "--accept", "--reason", "their own column"]).await;
    assert_eq!((code, &found["tenants"][0]["standing"]), (0, &"accepted".into()), "{error}");
    assert_eq!(drift(&fleet, &[]).await.0, 0);
    let (_, journal, _) = fleet.run(&["tenant", "show", "b", "--json"]).await;
    assert!(journal.contains("drift-accepted") && journal.contains("their own column"), "{journal}");

    // It stays accepted in the next version, which changes something else.
    add(&fleet, "V3__more.sql", "CREATE TABLE more (id int PRIMARY KEY);");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    let (code, found, error) = drift(&fleet, &[]).await;
    assert_eq!((code, &found["summary"]["accepted"]), (0, &Value::from(1)), "{error}");
    fleet.owner("b").await.batch_execute("DROP TABLE more").await.unwrap();
    let (code, found, _) = drift(&fleet, &["--edition", "shop"]).await;
    assert_eq!(code, 1);
    assert!(found["tenants"][1]["differences"].to_string().contains("table public.more missing"), "{found}");
}

#[tokio::test]
async fn a_tenant_that_cannot_be_reached_stops_no_other() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    let database = fleet.row("a").await.record.database();
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    admin.batch_execute(&format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false")).await.unwrap();
    let (code, found, error) = drift(&fleet, &["--jobs", "1"]).await;
    assert_eq!(code, 1);
    assert!(error.contains("1 could not be looked into"), "{error}");
    assert_eq!(found["tenants"][0]["standing"], "failed");
    assert!(found["tenants"][0]["reason"].to_string().contains("not currently accepting"), "{found}");
    assert_eq!(found["tenants"][1]["standing"], "equal");
    let (code, _, error) = drift(&fleet, &["--edition", "none"]).await;
    assert!(code == 1 && error.contains("no edition"), "{error}");
}

#[tokio::test]
async fn who_does_not_tell_its_schema_is_not_taken_for_proved() {
    let fleet = TestFleet::builder().tenants(&["a", "b", "c"]).build().await;
    // The owner keeps what the question needs; the file needs nothing of it.
    let owner = fleet.owner("b").await;
    owner.batch_execute("BEGIN; LOCK TABLE cheap IN ACCESS EXCLUSIVE MODE").await.unwrap();
    add(&fleet, "V3__more.sql", "CREATE TABLE more (id int PRIMARY KEY);");
    let (_, out, error) = fleet.run(&["migrate", "--json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}\n{error}"));
    let states: Vec<_> = report["tenants"].as_array().unwrap().iter().map(|step| &step["state"]).collect();
    assert_eq!(states, ["done", "drifted", "done"], "{report}");
    let (_, out, _) = fleet.run(&["migrate", "report"]).await;
    assert!(out.contains("not proved: ") && out.contains("lock timeout"), "{out}");
    let (code, found, _) = drift(&fleet, &[]).await;
    let standings: Vec<_> =
        found["tenants"].as_array().unwrap().iter().map(|tenant| &tenant["standing"]).collect();
    assert_eq!(
        (code, standings.as_slice()),
        (1, &[&"equal".into(), &"failed".into(), &Value::from("equal")][..])
    );
    owner.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(drift(&fleet, &[]).await.0, 0);
}

#[tokio::test]
async fn drift_of_a_step_is_told_from_older_drift() {
    let mut fleet = TestFleet::builder().tenants(&["old", "step", "both", "none"]).build().await;
    fleet.owner("old").await.batch_execute("ALTER TABLE notes ADD COLUMN own text").await.unwrap();
    let mut before = std::collections::BTreeMap::new();
    for slug in ["old", "step", "both", "none"] {
        let admin = fleet.admin(slug).await;
        let fingerprint = fingerprint(&admin).await.unwrap();
        before.insert(slug, (fleet.row(slug).await, fingerprint));
    }
    // Where there is a row, the file makes another column than in the template.
    fleet.owner("step").await.batch_execute("INSERT INTO items (name) VALUES ('x')").await.unwrap();
    add(
        &fleet,
        "V3__by_data.sql",
        "CREATE TABLE fresh (id int);
         DO $$ BEGIN
            IF EXISTS (SELECT FROM items) THEN ALTER TABLE fresh ADD COLUMN odd int; END IF;
         END $$;",
    );
    // What the step made different is a failure; what was different before is none.
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert!(code == 1 && error.contains("1 of 4") && error.contains("column odd"), "{error}");
    fleet.reopen().await;
    fleet.owner("both").await.batch_execute("ALTER TABLE fresh ADD COLUMN also int").await.unwrap();
    for (slug, (row, fingerprint)) in &before {
        let now = fleet.row(slug).await;
        let lineage = row.record.lineage().unwrap();
        for fingerprint in [Some(fingerprint), None] {
            let told = Some(Before { lineage, fingerprint });
            let proof = fleet.fleet.prove(&now, now.record.lineage().unwrap(), told).await.unwrap();
            match (*slug, &proof) {
                ("none", Proof::Equal(_)) => {}
                ("old", Proof::DriftedBefore(drift)) => {
                    assert!(drift.to_string().contains("column own"), "{drift}")
                }
                ("step", Proof::Drifted(drift)) => {
                    assert!(drift.to_string().contains("column odd"), "{drift}")
                }
                ("both", Proof::Drifted(drift)) => {
                    assert!(drift.to_string().contains("column also"), "{drift}")
                }
                _ => panic!("{slug}: {proof:?}"),
            }
        }
    }
}

#[tokio::test]
async fn fingerprints_that_are_missing_are_stored_by_init() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let server = fleet.fleet.servers.get("main").unwrap();
    let catalog = server.connect_admin_to(&fleet.fleet.settings.catalog.database).await.unwrap();
    catalog.batch_execute("DELETE FROM catalog.fingerprint").await.unwrap();
    let (code, found, error) = drift(&fleet, &[]).await;
    assert_eq!((code, &found["tenants"][0]["standing"]), (0, &"unknown".into()), "{error}");
    let (code, _, error) = fleet.run(&["init"]).await;
    assert_eq!(code, 0, "{error}");
    let (code, found, error) = drift(&fleet, &[]).await;
    assert_eq!((code, &found["tenants"][0]["standing"]), (0, &"equal".into()), "{error}");
}
