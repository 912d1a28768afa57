//! Isolation: what a tenant's login, token or request tries on another tenant, and gets nowhere.

use manybox::pg::{self, Login};
use manybox::policy::Secret;
use serde_json::json;

use crate::support::TestFleet;

/// The tenant's own login, as the router uses it.
async fn login(fleet: &TestFleet, slug: &str) -> Login {
    fleet.fleet.keys.tenant_logins(&fleet.row(slug).await.record).remove(0)
}

fn code(error: &pg::Error) -> &str {
    error.code().map_or("none", |c| c.code())
}

async fn connects_to_its_own_database_only(tcp: bool) {
    let builder = TestFleet::builder().tenants(&["acme", "globex"]);
    let fleet = if tcp { builder.tcp() } else { builder }.build().await;
    let server = fleet.fleet.servers.get("main").unwrap();
    let (acme, globex) = (fleet.row("acme").await.record, fleet.row("globex").await.record);
    let login = login(&fleet, "globex").await;
    pg::connect(&server.endpoint, &login, &globex.id.database()).await.expect("its own database");
    let template = fleet.fleet.template("main", "shop").await.unwrap().database;
    let catalog = fleet.fleet.settings.catalog.database.clone();
    for other in [acme.id.database().as_str(), &catalog, "postgres", "template1", &template] {
        let refused = pg::connect(&server.endpoint, &login, other).await.err().expect(other);
        // 42501: CONNECT is not granted; 55000: the template accepts no connections.
        assert!(["42501", "55000"].contains(&code(&refused)), "{other}: {refused}");
    }
    let wrong = Login { user: login.user.clone(), password: Some(Secret::new("guess")) };
    let refused =
        pg::connect(&server.endpoint, &wrong, &globex.id.database()).await.err().expect("wrong password");
    assert_eq!(code(&refused), "28P01");
}

#[tokio::test]
async fn a_login_connects_to_its_own_database_only_by_socket() {
    connects_to_its_own_database_only(false).await;
}

#[tokio::test]
async fn a_login_connects_to_its_own_database_only_by_tcp() {
    connects_to_its_own_database_only(true).await;
}

#[tokio::test]
async fn psql_as_another_tenants_login_is_refused() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    let server = fleet.fleet.servers.get("main").unwrap();
    let login = login(&fleet, "globex").await;
    for (slug, works) in [("globex", true), ("acme", false)] {
        let database = fleet.row(slug).await.record.id.database();
        let mut psql = std::process::Command::new("psql");
        psql.args(server.endpoint.psql_arguments(&login.user, &database)).args(["-Atc", "SELECT 1"]);
        psql.env("PGPASSWORD", login.password.as_ref().unwrap().expose());
        let output = tokio::task::spawn_blocking(move || psql.output()).await.unwrap().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), works, "{slug}: {error}");
        assert!(works || error.contains("permission denied for database"), "{error}");
    }
}

#[tokio::test]
async fn the_login_alone_can_do_nothing() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let record = fleet.row("acme").await.record;
    let server = fleet.fleet.servers.get("main").unwrap();
    let client =
        pg::connect(&server.endpoint, &login(&fleet, "acme").await, &record.id.database()).await.unwrap();
    for sql in [
        "SELECT * FROM public.items",
        "INSERT INTO public.items (name) VALUES ('x')",
        "SELECT public.add(1)",
        "SELECT * FROM manybox.schema_history",
        "CREATE TABLE public.mine (a int)",
        "CREATE SCHEMA mine",
        "CREATE TEMPORARY TABLE mine (a int)",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "SET ROLE mb_owner",
        "SET ROLE mb_admin",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ] {
        let error = pg::Error::from(client.batch_execute(sql).await.expect_err(sql));
        assert_eq!(code(&error), "42501", "{sql}: {error}");
    }
    // What it may become is no more than what its API grants.
    client
        .batch_execute("SET ROLE authenticated; SELECT * FROM public.items")
        .await
        .expect("an API role works");
}

#[tokio::test]
async fn databases_and_objects_have_the_right_owners() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let admin = fleet.admin("acme").await;
    let text = |sql: &'static str| async { admin.query_one(sql, &[]).await.unwrap().get::<_, String>(0) };
    assert_eq!(
        text("SELECT datdba::regrole::text FROM pg_database WHERE datname = current_database()").await,
        "mb_admin"
    );
    assert_eq!(
        text("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'items'").await,
        "mb_owner"
    );
    assert_eq!(text("SELECT rolcanlogin::text FROM pg_roles WHERE rolname = 'mb_owner'").await, "false");
    let supers = text(
        "SELECT count(*)::text FROM pg_roles WHERE rolsuper AND (rolname ~ '^mb_' OR rolname IN ('anon', 'authenticated', 'service'))",
    );
    assert_eq!(supers.await, "0");
    // An owner that could pass CONNECT on would let its functions open the database to another tenant.
    let granted = text(
        "SELECT count(*)::text FROM pg_database d, aclexplode(d.datacl) a WHERE datname = current_database() AND a.is_grantable AND a.grantee <> d.datdba",
    );
    assert_eq!(granted.await, "0");
}

#[tokio::test]
async fn the_routers_login_only_reads_what_it_needs() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let catalog = &fleet.fleet.settings.catalog.database;
    let server = fleet.fleet.servers.get("main").unwrap();
    let login = fleet.fleet.keys.router_logins(catalog).newest;
    let client = pg::connect(&server.endpoint, &login, catalog).await.unwrap();
    client.query("SELECT * FROM catalog.tenant", &[]).await.expect("it reads tenants");
    for sql in [
        "UPDATE catalog.tenant SET state = 'active'",
        "DELETE FROM catalog.base_url",
        "SELECT * FROM catalog.journal",
        "SET ROLE mb_owner",
    ] {
        let error = pg::Error::from(client.batch_execute(sql).await.expect_err(sql));
        assert_eq!(code(&error), "42501", "{sql}");
    }
    let acme = fleet.row("acme").await.record.id.database();
    assert_eq!(code(&pg::connect(&server.endpoint, &login, &acme).await.err().unwrap()), "42501");
}

#[tokio::test]
async fn row_level_security_holds_behind_the_api() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let service = fleet.token("acme", json!({ "role": "service" })).await;
    let rows = r#"[{"id":1,"owner":"ann","word":"a"},{"id":2,"owner":"bob","word":"b"}]"#;
    assert_eq!(
        fleet.send(reqwest::Method::POST, "/acme/secrets", Some(&service), "", rows).await.status,
        201
    );
    let ann = fleet.token("acme", json!({ "role": "authenticated", "sub": "ann" })).await;
    assert_eq!(fleet.get_as(&ann, "/acme/secrets?select=id").await.json(), json!([{ "id": 1 }]));
    assert_eq!(fleet.get("/acme/secrets").await.status, 401);
}
