//! Files below a version that was applied: refused, unless the policy or the command says that they may be applied.

use serde_json::Value;

use crate::support::TestFleet;

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

async fn migrate(fleet: &TestFleet, arguments: &[&str]) -> (i32, String) {
    let (code, out, error) = fleet.run(&[&["migrate"], arguments].concat()).await;
    (code, out + &error)
}

async fn versions(fleet: &TestFleet, slug: &str) -> Vec<i64> {
    let sql = "SELECT version::int8 FROM manybox.schema_history ORDER BY version";
    fleet.admin(slug).await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn standings(fleet: &TestFleet) -> Vec<String> {
    let (code, out, error) = fleet.run(&["migrate", "status", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    let status: Value = serde_json::from_str(&out).unwrap();
    let tenants = status["tenants"].as_array().unwrap().iter();
    tenants.map(|tenant| format!("{} {}", tenant["standing"].as_str().unwrap(), tenant["behind"])).collect()
}

/// A fleet at version 5, and a file of version 3 that came later.
async fn fleet() -> TestFleet {
    let toml = "[rollouts.merging]\nallow_out_of_order = true\n[[rollouts.merging.waves]]\ntenants = ['a']\n\
                [[rollouts.merging.waves]]\nname = 'rest'";
    let fleet = TestFleet::builder().toml(toml).tenants(&["a", "b", "c"]).build().await;
    add(&fleet, "V5__five.sql", "CREATE TABLE five (a int);");
    let (code, said) = migrate(&fleet, &[]).await;
    assert_eq!(code, 0, "{said}");
    add(&fleet, "V3__three.sql", "CREATE TABLE three (a int);");
    let (code, said) = migrate(&fleet, &[]).await;
    assert!(code == 1 && said.contains("V3__three.sql was never applied"), "{said}");
    fleet
}

async fn all_have_it(fleet: &TestFleet) {
    let slug = format!("born{}", fleet.fleet.catalog.rollouts(100).await.unwrap().len());
    fleet.create(&slug).await;
    for slug in ["a", "b", "c", &slug] {
        assert_eq!(versions(fleet, slug).await, [1, 2, 3, 5], "{slug}");
        fleet.owner(slug).await.batch_execute("SELECT FROM public.three, public.five").await.unwrap();
    }
    assert!(standings(fleet).await.iter().all(|standing| standing == "current 0"));
    let (code, said) = migrate(fleet, &[]).await;
    assert!(code == 0 && said.contains("nothing to do"), "{said}");
    // Their histories are those of databases that had the files in their order.
    let files = fleet.fleet.edition("shop").unwrap();
    for template in fleet.fleet.catalog.templates().await.unwrap().iter().filter(|t| t.state == "ready") {
        assert_eq!(template.lineage.history, files.history_digest(5));
    }
    for slug in ["a", "b", "c"] {
        assert_eq!(fleet.row(slug).await.record.lineage().unwrap().history, files.history_digest(5));
    }
}

#[tokio::test]
async fn a_command_may_allow_files_below_what_was_applied() {
    let fleet = fleet().await;
    let (code, said) = migrate(&fleet, &["plan", "--allow-out-of-order"]).await;
    assert!(code == 0 && said.contains("to version 5: V3__three.sql"), "{said}");
    assert_eq!(standings(&fleet).await, ["behind 1"; 3]);
    let (code, said) = migrate(&fleet, &["--tenant", "b", "--allow-out-of-order"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(versions(&fleet, "b").await, [1, 2, 3, 5]);
    assert_eq!(versions(&fleet, "a").await, [1, 2, 5]);
    let (code, said) = migrate(&fleet, &["--allow-out-of-order"]).await;
    assert_eq!(code, 0, "{said}");
    all_have_it(&fleet).await;
}

#[tokio::test]
async fn a_rollout_keeps_that_it_is_allowed() {
    let fleet = fleet().await;
    // Behind with a file of its own, and one above: each history is looked at by itself.
    add(&fleet, "V6__six.sql", "CREATE TABLE six (a int);");
    let (code, said) = migrate(&fleet, &["plan", "--policy", "merging"]).await;
    assert!(code == 0 && said.contains("V3__three.sql, V6__six.sql"), "{said}");
    fleet.owner("b").await.batch_execute("CREATE TABLE public.six (a int)").await.unwrap();
    // Whoever runs it needs not say it again.
    let (code, said) = migrate(&fleet, &["run"]).await;
    assert!(code == 1 && said.contains("V6__six.sql"), "{said}");
    assert_eq!(versions(&fleet, "b").await, [1, 2, 3, 5]);
    fleet.owner("b").await.batch_execute("DROP TABLE public.six").await.unwrap();
    let (code, said) = migrate(&fleet, &["retry"]).await;
    assert_eq!(code, 0, "{said}");
    for slug in ["a", "b", "c"] {
        assert_eq!(versions(&fleet, slug).await, [1, 2, 3, 5, 6], "{slug}");
    }
    fleet.create("born").await;
    assert_eq!(versions(&fleet, "born").await, [1, 2, 3, 5, 6]);
}

#[tokio::test]
async fn what_was_edited_is_refused_all_the_same() {
    let fleet = fleet().await;
    add(&fleet, "V5__five.sql", "CREATE TABLE five (a int, b int);");
    let (code, said) = migrate(&fleet, &["--allow-out-of-order"]).await;
    assert!(code == 1 && said.contains("not those that the fleet was made by"), "{said}");
    assert_eq!(versions(&fleet, "a").await, [1, 2, 5]);
}
