//! Repeatable files: run behind those that have a version, and again whenever they have changed.

use serde_json::Value;

use crate::support::{TestFleet, eventually};

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

fn remove(fleet: &TestFleet, file: &str) {
    std::fs::remove_file(fleet.folder.path().join("migrations/shop").join(file)).unwrap();
}

async fn migrate(fleet: &TestFleet, arguments: &[&str]) -> (i32, String) {
    let (code, out, error) = fleet.run(&[&["migrate"], arguments].concat()).await;
    (code, out + &error)
}

async fn text(fleet: &TestFleet, slug: &str, sql: &str) -> String {
    fleet.admin(slug).await.query_one(sql, &[]).await.unwrap().get::<_, Option<String>>(0).unwrap_or_default()
}

/// Which repeatable files a tenant's history has.
const REPEATED: &str = "SELECT string_agg(name, ' ' ORDER BY name) FROM manybox.schema_repeatable";
/// What these files noted when they were run.
const RUNS: &str = "SELECT string_agg(what, ' ' ORDER BY at) FROM public.runs";

fn noting(what: &str, sql: &str) -> String {
    format!("INSERT INTO runs (what) VALUES ('{what}');\n{sql}")
}

const VIEW: &str =
    "CREATE OR REPLACE VIEW dear WITH (security_invoker = true) AS SELECT id FROM items WHERE price > 10;";
const GRANT: &str = "GRANT SELECT ON dear TO anon;";

async fn fleet() -> TestFleet {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).serve().await;
    add(&fleet, "V3__runs.sql", "CREATE TABLE runs (at serial, what text);");
    add(&fleet, "R__b_grants.sql", &noting("grants", GRANT));
    add(&fleet, "R__a_views.sql", &noting("views", VIEW));
    fleet
}

#[tokio::test]
async fn they_run_behind_the_versions_and_when_they_have_changed() {
    let fleet = fleet().await;
    let (code, said) = migrate(&fleet, &["plan"]).await;
    assert!(code == 0 && said.contains("V3__runs.sql, R__a_views.sql, R__b_grants.sql"), "{said}");
    let (code, said) = migrate(&fleet, &["run"]).await;
    assert_eq!(code, 0, "{said}");
    for slug in ["a", "b"] {
        assert_eq!(text(&fleet, slug, RUNS).await, "views grants", "{slug}");
        assert_eq!(text(&fleet, slug, REPEATED).await, "a_views b_grants");
    }
    let (code, said) = migrate(&fleet, &[]).await;
    assert!(code == 0 && said.contains("nothing to do"), "{said}");
    fleet.create("born").await;
    assert_eq!(text(&fleet, "born", RUNS).await, "views grants");
    let version = fleet.row("a").await.record.lineage().unwrap().clone();
    assert_eq!(fleet.row("born").await.record.lineage().unwrap(), &version);
    eventually("the view is served", || async { fleet.get("/a/dear").await.status == 200 }).await;

    // One of them changes, and nothing else: that one is run, and routers see it.
    let view = "DROP VIEW IF EXISTS dear;\nCREATE VIEW dear AS SELECT id, name AS called FROM items WHERE price > 10;\n\
                GRANT SELECT ON dear TO anon;";
    add(&fleet, "R__a_views.sql", &noting("newer", view));
    let (code, _, error) = fleet.run(&["migrate", "status", "--check"]).await;
    assert!(code == 1 && error.contains("3 of 3"), "{error}");
    let (code, said) = migrate(&fleet, &["plan"]).await;
    assert!(code == 0 && said.contains("to version 3: R__a_views.sql\n"), "{said}");
    // What was planned is begun by its number alone.
    let (code, said) = migrate(&fleet, &["resume"]).await;
    assert!(
        code == 1 && said.contains("rollout 2 was planned and never begun: `manybox migrate run 2`"),
        "{said}"
    );
    let (code, out, _) = fleet.run(&["migrate", "resume", "2", "--json"]).await;
    assert_eq!(code, 0, "{out}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["tenants"].as_array().unwrap().len(), 3, "{report}");
    assert_eq!(report["tenants"][0]["after"], 3);
    for slug in ["a", "b", "born"] {
        assert_eq!(text(&fleet, slug, RUNS).await, "views grants newer", "{slug}");
    }
    assert_eq!(fleet.run(&["migrate", "status", "--check"]).await.0, 0);
    assert_eq!(fleet.run(&["drift"]).await.0, 0);
    assert_eq!(fleet.run(&["migrate", "--verify"]).await.0, 0);
    eventually("the new column is served", || async {
        fleet.get("/a/dear?select=called").await.status == 200
    })
    .await;
    fleet.create("later").await;
    // From a template that had nothing of them before.
    assert_eq!(text(&fleet, "later", RUNS).await, "newer grants");

    // One that is taken away is forgotten; what it made is a file's with a version to drop.
    remove(&fleet, "R__b_grants.sql");
    add(&fleet, "V4__more.sql", "CREATE TABLE more (a int);");
    let (code, said) = migrate(&fleet, &[]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(text(&fleet, "later", REPEATED).await, "a_views");
    for slug in ["a", "born"] {
        assert_eq!(text(&fleet, slug, REPEATED).await, "a_views");
        assert_eq!(text(&fleet, slug, RUNS).await, "views grants newer", "unchanged ones are not run");
    }
    remove(&fleet, "R__a_views.sql");
    assert_eq!(fleet.run(&["migrate", "status", "--check"]).await.0, 1);
    assert_eq!(migrate(&fleet, &[]).await.0, 0);
    assert_eq!(text(&fleet, "b", REPEATED).await, "");
    assert_eq!(fleet.run(&["migrate", "status", "--check"]).await.0, 0);
}

#[tokio::test]
async fn one_that_fails_is_named_and_what_ran_before_it_stays() {
    let fleet = fleet().await;
    assert_eq!(migrate(&fleet, &[]).await.0, 0);
    add(&fleet, "R__a_views.sql", &noting("newer", VIEW));
    // Only where there are rows, so that the template is made.
    add(
        &fleet,
        "R__b_grants.sql",
        &noting("fails", &format!("SELECT 1 / (count(*) - 1) FROM items;\n{GRANT}")),
    );
    fleet.owner("b").await.batch_execute("INSERT INTO public.items (name) VALUES ('x')").await.unwrap();
    let (code, said) = migrate(&fleet, &[]).await;
    assert!(code == 1 && said.contains("1 of 2"), "{said}");
    assert!(
        said.contains("R__b_grants.sql:2: division by zero") && said.contains("in statement 2"),
        "{said}"
    );
    assert_eq!(text(&fleet, "a", RUNS).await, "views grants newer fails");
    assert_eq!(text(&fleet, "b", RUNS).await, "views grants newer");
    add(&fleet, "R__b_grants.sql", &noting("mended", GRANT));
    let (code, said) = migrate(&fleet, &[]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(text(&fleet, "a", RUNS).await, "views grants newer fails mended");
    assert_eq!(text(&fleet, "b", RUNS).await, "views grants newer mended");
    assert_eq!(fleet.run(&["migrate", "status", "--check"]).await.0, 0);
}

#[tokio::test]
async fn below_the_newest_version_they_are_left_alone() {
    let fleet = fleet().await;
    add(&fleet, "V4__more.sql", "CREATE TABLE more (a int);");
    let (code, said) = migrate(&fleet, &["--target", "3"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(text(&fleet, "a", RUNS).await, "");
    let (code, said) = migrate(&fleet, &["--target", "3"]).await;
    assert!(code == 0 && said.contains("nothing to do"), "{said}");
    let (code, said) = migrate(&fleet, &["--target", "4"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(text(&fleet, "a", RUNS).await, "views grants");
}

#[tokio::test]
async fn databases_of_an_older_manybox_get_a_table_for_them() {
    let fleet = fleet().await;
    let older = "SET ROLE mb_history; DROP TABLE manybox.schema_repeatable";
    fleet.admin("a").await.batch_execute(older).await.unwrap();
    assert_eq!(fleet.run(&["migrate", "status", "--verify"]).await.0, 0);
    let (code, said) = migrate(&fleet, &[]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(text(&fleet, "a", REPEATED).await, "a_views b_grants");
}

#[tokio::test]
async fn they_are_rehearsed_too() {
    let fleet = fleet().await;
    assert_eq!(migrate(&fleet, &[]).await.0, 0);
    add(&fleet, "R__b_grants.sql", "CREATE INDEX IF NOT EXISTS items_made ON items (made);");
    let (code, out, error) = fleet.run(&["migrate", "rehearse", "--tenant", "a", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let files = found[0]["files"].as_array().unwrap();
    assert_eq!((files.len(), &files[0]["file"]), (1, &"R__b_grants.sql".into()), "{found}");
    assert_eq!(files[0]["locks"][0]["table"], "public.items");
    assert_eq!(text(&fleet, "a", RUNS).await, "views grants");
}
