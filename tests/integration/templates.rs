//! Templates that fail or are cut: built once for a set of files, and nothing of them is left.

use std::process::Stdio;

use crate::support::{TestFleet, as_superuser, eventually, private_server};

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

/// The templates that a server of the test's own has.
async fn databases(fleet: &TestFleet) -> Vec<String> {
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let sql = r"SELECT datname::text FROM pg_database WHERE datname LIKE 'mb\_t\_%'";
    admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn files_that_fail_are_built_once_and_leave_nothing() {
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("own"), false).await;
    let declared = "[defaults]\nedition = 'shop'\n[tenants.a]\n[tenants.b]\n[tenants.c]\n[tenants.d]\n[tenants.e]\n[tenants.f]";
    let fleet = TestFleet::builder().toml(declared).build_on(&server.admin_url()).await;
    add(&fleet, "V3__fails.sql", "CREATE TABLE more (id int);\nSELECT 1 / 0;");
    for _ in 0..2 {
        let (code, _, error) = fleet.run(&["apply"]).await;
        assert_eq!(code, 1);
        assert!(error.contains("6 of 6 failed") && error.contains("a, b, c, d, e and 1 more"), "{error}");
        assert_eq!(error.matches("division by zero").count(), 1, "{error}");
        assert_eq!(databases(&fleet).await, [""; 0]);
        assert!(fleet.fleet.catalog.templates().await.unwrap().is_empty());
        assert!(fleet.fleet.catalog.tenants(&Default::default()).await.unwrap().is_empty());
    }
    let (code, _, error) = fleet.run(&["tenant", "create", "g"]).await;
    assert!(code == 1 && error.contains("division by zero"), "{error}");
    assert_eq!(databases(&fleet).await, [""; 0]);

    add(&fleet, "V3__fails.sql", "CREATE TABLE more (id int);");
    let (code, _, error) = fleet.run(&["apply"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(databases(&fleet).await.len(), 1);

    // A template that is brought up fails too, and the one in use stays.
    add(&fleet, "V4__fails.sql", "SELECT 1 / 0;");
    for _ in 0..2 {
        let (code, out, error) = fleet.run(&["migrate"]).await;
        assert_eq!(code, 1);
        assert_eq!(format!("{out}{error}").matches("division by zero").count(), 1, "{out}\n{error}");
        assert!(error.contains("retry "), "{error}");
        assert_eq!(databases(&fleet).await.len(), 1);
    }
    assert_eq!(fleet.create("h").await.record.lineage().unwrap().version, 3);
    drop(fleet);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_handle_does_not_run_the_same_failing_files_again() {
    let mut fleet = TestFleet::builder().build().await;
    let role = format!("role_{}", fleet.fleet.settings.catalog.database);
    let exists = format!("SELECT 1 / (SELECT count(*) FROM pg_roles WHERE rolname = '{role}');");
    add(&fleet, "V3__fails.sql", &exists);
    let (slug, spec) = (
        "a".parse().unwrap(),
        manybox::fleet::TenantSpec { edition: Some("shop".into()), ..Default::default() },
    );
    let first = fleet.fleet.create(&slug, &spec).await.unwrap_err().to_string();
    as_superuser(&format!("CREATE ROLE {role}")).await;
    assert_eq!(fleet.fleet.create(&slug, &spec).await.unwrap_err().to_string(), first);
    // Other files are others, and another command tries again.
    fleet.reopen().await;
    fleet.fleet.create(&slug, &spec).await.unwrap();
    as_superuser(&format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn what_a_killed_build_left_goes_with_the_next_command() {
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("own"), false).await;
    let fleet = TestFleet::builder()
        .toml("[defaults]\nedition = 'shop'\n[tenants.a]")
        .build_on(&server.admin_url())
        .await;
    for (round, next) in [["init"], ["apply"], ["migrate"]].iter().enumerate() {
        let slow = "-- manybox: allow frozen-row because it makes none\nSELECT pg_sleep(600);";
        add(&fleet, &format!("V{}__slow.sql", round + 3), slow);
        let mut child = fleet.program(&["tenant", "create", "b"]);
        if round > 0 {
            child = fleet.program(&["migrate"]);
        }
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let building = async || {
            fleet.fleet.catalog.templates().await.unwrap().iter().filter(|t| t.state == "building").count()
        };
        eventually("a file sleeps in the template", async || {
            let admin = server_admin(&fleet).await;
            let sql = "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid)
                       WHERE datname LIKE 'mb\\_t\\_%' AND locktype = 'virtualxid'";
            admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0
        })
        .await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(building().await, 1);
        add(&fleet, &format!("V{}__slow.sql", round + 3), &format!("CREATE TABLE made_{round} (id int);"));
        let (code, _, error) = fleet.run(next).await;
        assert_eq!(code, 0, "{next:?}: {error}");
        assert_eq!(building().await, 0, "{next:?}");
        let known = fleet.fleet.catalog.templates().await.unwrap();
        assert_eq!(databases(&fleet).await.len(), known.len(), "{next:?}: {known:?}");
        assert_eq!(fleet.run(&["apply"]).await.0, 0);
    }
    drop(fleet);
    server.stop().await.unwrap();
}

async fn server_admin(fleet: &TestFleet) -> manybox::pg::Connection {
    fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap()
}
