//! The ways out of a file that some tenants applied and others never can.

use manybox::catalog::Filter;
use serde_json::Value;

use crate::support::TestFleet;

const FILE: &str = "V3__author.sql";

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

async fn run(fleet: &TestFleet, arguments: &[&str]) -> String {
    let (code, out, error) = fleet.run(arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {error}");
    out
}

async fn version(fleet: &TestFleet, slug: &str) -> i64 {
    fleet.row(slug).await.record.lineage().unwrap().version
}

/// `a` and `b` have rows that the file can't do with, `c` has none: it is applied to the template and to `c` only.
async fn stuck() -> TestFleet {
    let fleet = TestFleet::builder().tenants(&["a", "b", "c"]).build().await;
    for slug in ["a", "b"] {
        fleet.owner(slug).await.batch_execute("INSERT INTO public.notes VALUES (1, 'x')").await.unwrap();
    }
    add(&fleet, FILE, "ALTER TABLE notes ADD COLUMN author text NOT NULL;");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert!(code == 1 && error.contains("2 of 3") && error.contains(FILE), "{error}");
    for (slug, at) in [("a", 2), ("b", 2), ("c", 3)] {
        assert_eq!(version(&fleet, slug).await, at, "{slug}");
    }
    fleet
}

/// Every tenant is current by its own word, and a new one is as the others are.
async fn ends_well(fleet: &TestFleet, at: i64) {
    let (code, out, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{out} {error}");
    let new = fleet.create("new").await;
    let read = fleet.fleet.read_lineages(&Filter::default(), 4, &|_| ()).await.unwrap();
    assert_eq!(read.len(), 4);
    for read in read {
        assert_eq!(read.found.as_ref(), new.record.lineage(), "{read:?}");
        assert_eq!(read.known.version, at);
    }
    let sql = "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'public.notes'::regclass AND attname = 'author'";
    for slug in ["a", "b", "c", "new"] {
        assert!(fleet.admin(slug).await.query_one(sql, &[]).await.unwrap().get::<_, bool>(0), "{slug}");
    }
}

#[tokio::test]
async fn the_file_is_edited_and_its_checksum_accepted() {
    let fleet = stuck().await;
    add(&fleet, FILE, "ALTER TABLE notes ADD COLUMN author text NOT NULL DEFAULT 'nobody';");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert!(code == 1 && error.contains("migrate repair") && error.contains("1 tenant(s): c"), "{error}");

    let records = async || {
        let tenants = fleet.fleet.catalog.tenants(&Filter::default()).await.unwrap();
        let rows: Vec<_> = tenants.iter().map(|row| serde_json::to_string(row).unwrap()).collect();
        (fleet.fleet.catalog.templates().await.unwrap(), rows)
    };
    let before = records().await;
    let repair = ["migrate", "repair", "--edition", "shop", "--all", "--accept-checksum", "3"];
    let out = run(&fleet, &[&repair[..], &["--dry-run", "--json"]].concat()).await;
    let shown: Vec<Value> = serde_json::from_str(&out).unwrap();
    let changes: Vec<_> = shown.iter().filter(|r| !r["change"].is_null()).map(|r| &r["whose"]).collect();
    assert_eq!(changes, ["tenant `c`", "the template on server `main`"], "{out}");
    assert_eq!(records().await, before, "a dry run changes nothing");

    assert_eq!(fleet.run(&repair).await.0, 2, "a reason is asked for");
    let out = run(&fleet, &[&repair[..], &["--reason", "rows without an author"]].concat()).await;
    assert!(out.contains("2 of 4 changed"), "{out}");
    let journal = fleet.fleet.catalog.journal(&fleet.row("c").await.record.id, 1).await.unwrap();
    assert_eq!(journal[0].action, "repair");
    assert_eq!(journal[0].detail["reason"], "rows without an author");
    ends_well(&fleet, 3).await;
}

#[tokio::test]
async fn the_file_is_marked_applied_and_a_successor_does_its_work() {
    let fleet = stuck().await;
    let mark =
        ["migrate", "repair", "--edition", "shop", "--tenant", "a", "--tenant", "b", "--mark-applied", "3"];
    let out = run(&fleet, &[&mark[..], &["--dry-run"]].concat()).await;
    assert!(
        out.contains("V3__author.sql is recorded as applied") && out.contains("2 of 2 would change"),
        "{out}"
    );
    assert_eq!(version(&fleet, "a").await, 2);
    run(&fleet, &[&mark[..], &["--reason", "V4 does it"]].concat()).await;
    assert_eq!(version(&fleet, "a").await, 3);
    assert!(fleet.row("a").await.failure.is_none());
    add(
        &fleet,
        "V4__author.sql",
        "ALTER TABLE notes ADD COLUMN IF NOT EXISTS author text;
         UPDATE notes SET author = 'nobody' WHERE author IS NULL;
         ALTER TABLE notes ALTER COLUMN author SET NOT NULL;",
    );
    ends_well(&fleet, 4).await;

    // And back: the newest is run again.
    let unmark = [
        "migrate",
        "repair",
        "--edition",
        "shop",
        "--tenant",
        "a",
        "--mark-not-applied",
        "4",
        "--reason",
        "again",
    ];
    run(&fleet, &unmark).await;
    assert_eq!(version(&fleet, "a").await, 3);
    run(&fleet, &["migrate"]).await;
    assert_eq!(version(&fleet, "a").await, 4);
}

#[tokio::test]
async fn a_target_below_it_leaves_it_for_later() {
    let fleet = stuck().await;
    run(&fleet, &["migrate", "--target", "2"]).await;
    for (slug, at) in [("a", 2), ("b", 2), ("c", 3)] {
        assert_eq!(version(&fleet, slug).await, at, "{slug}");
    }
    assert_eq!(fleet.run(&["migrate"]).await.0, 1, "it is still there to be decided");
}

#[tokio::test]
async fn what_no_order_of_files_leads_to_is_refused() {
    let fleet = stuck().await;
    let repair = async |more: &[&str]| {
        let all = [&["migrate", "repair", "--edition", "shop", "--reason", "x"], more].concat();
        fleet.run(&all).await
    };
    let (code, out, error) = repair(&["--tenant", "a", "--mark-applied", "9"]).await;
    assert!(code == 1 && out.contains("no file of version 9") && error.contains("1 of 1"), "{out} {error}");
    let (code, out, _) = repair(&["--tenant", "c", "--mark-not-applied", "2"]).await;
    assert!(code == 1 && out.contains("version 3 comes after"), "{out}");
    let (code, _, error) = repair(&["--tenant", "nobody", "--mark-applied", "3"]).await;
    assert!(code == 1 && error.contains("nobody"), "{error}");
    for more in [
        &["--mark-applied", "3"][..],
        &["--all"],
        &["--all", "--mark-applied", "3", "--accept-checksum", "3"],
    ] {
        assert_eq!(repair(more).await.0, 2, "{more:?}");
    }
    for (slug, at) in [("a", 2), ("b", 2), ("c", 3)] {
        assert_eq!(version(&fleet, slug).await, at, "{slug}");
    }
}

#[tokio::test]
async fn what_was_mended_is_taken_by_rollouts_again() {
    let fleet = TestFleet::builder()
        .tenants(&["a", "b"])
        .toml("[rollouts.default]\non_error = 'quarantine'\n[[rollouts.default.waves]]\nfailures = 0")
        .build()
        .await;
    fleet.owner("a").await.batch_execute("INSERT INTO public.notes VALUES (1, 'x')").await.unwrap();
    add(&fleet, FILE, "ALTER TABLE notes ADD COLUMN author text NOT NULL;");
    assert_eq!(fleet.run(&["migrate"]).await.0, 1);
    assert!(fleet.row("a").await.quarantined.is_some());

    let mark = ["migrate", "repair", "--edition", "shop", "--tenant", "a", "--mark-applied", "3"];
    let out = run(&fleet, &[&mark[..], &["--dry-run"]].concat()).await;
    assert!(out.contains("rollouts take it again"), "{out}");
    assert!(fleet.row("a").await.quarantined.is_some(), "a dry run changes nothing");
    let (code, _, note) = fleet.run(&[&mark[..], &["--reason", "by hand"]].concat()).await;
    assert!(code == 0 && note.contains("`a` failed in it: `manybox migrate retry"), "{note}");
    let row = fleet.row("a").await;
    assert!(row.quarantined.is_none() && row.failure.is_none(), "{row:?}");
    run(&fleet, &["migrate", "retry"]).await;
    for slug in ["a", "b"] {
        assert_eq!(version(&fleet, slug).await, 3, "{slug}");
    }
    let shown = run(&fleet, &["tenant", "show", "a"]).await;
    let created = shown.lines().find(|line| line.trim_start().starts_with("created")).unwrap();
    assert!(created.contains('T') && created.trim_end().ends_with('Z'), "{created}");
    let list = run(&fleet, &["migrate", "list"]).await;
    assert!(list.lines().nth(1).unwrap().split_whitespace().any(|word| word.ends_with('Z')), "{list}");
}
