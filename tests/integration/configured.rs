//! What an adopted database says of settings: obeyed, or the API is closed; and who asks is judged before its schema is read.

use manybox::fleet::AdoptionSpec;
use serde_json::{Value, json};

use crate::adopt::Legacy;
use crate::support::{TestFleet, as_superuser, eventually, sign};

const JWT_SECRET: &str = "reallyreallyreallyreallyverysafe";
const GATE: &str = "CREATE FUNCTION api.gate() RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN RAISE sqlstate 'PT401' USING message = 'the gate is closed'; END $$;
    GRANT EXECUTE ON FUNCTION api.gate() TO PUBLIC;";

async fn set(legacy: &Legacy, sql: &str) {
    // A login's `pgrst.…` is for superusers to set, or for whoever they GRANT it to.
    as_superuser(&sql.replace("DB", &legacy.name).replace("{}", &legacy.name)).await;
}

#[tokio::test]
async fn what_can_not_be_obeyed_closes_the_api() {
    let fleet = TestFleet::builder().serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.run(&fleet, GATE).await;
    legacy.adopt(&fleet, "old", &[]).await;
    eventually("the router serves it", || async { fleet.get("/old/todos").await.status == 200 }).await;
    for value in [r#"'"api"."gate"'"#, r#"'api."gate"'"#, "'DB.api.gate'", "'api.'"] {
        set(&legacy, &format!("ALTER ROLE {{}}_login IN DATABASE DB SET pgrst.db_pre_request = {value}"))
            .await;
        assert_eq!(fleet.run(&["tenant", "reload", "old"]).await.0, 0);
        eventually("the API is closed", || async { fleet.get("/old/todos").await.status == 503 }).await;
        let answer = fleet.get("/old/todos").await;
        assert_eq!(
            (answer.code().as_str(), &answer.json()["details"]),
            ("MBX208", &json!("pgrst.db_pre_request"))
        );
    }
    let (code, out, err) = fleet.run(&["tenant", "show", "old"]).await;
    assert!(code == 0 && out.contains("pgrst.db_pre_request"), "{out} {err}");
    let mut wanted = legacy.wanted(&[]);
    let warnings = fleet.fleet.adopt(&"old".parse().unwrap(), &wanted).await.unwrap().warnings;
    assert!(warnings.iter().any(|w| w.contains("MBX208") && w.contains("db_pre_request")), "{warnings:?}");
    // Mended, it opens without being told; the gate is called.
    set(&legacy, "ALTER ROLE {}_login IN DATABASE DB SET pgrst.db_pre_request = 'api.gate'").await;
    eventually("the API opens again", || async { fleet.get("/old/todos").await.status == 401 }).await;
    wanted = AdoptionSpec { settings: Vec::new(), ..wanted };
    assert_eq!(fleet.fleet.adopt(&"old".parse().unwrap(), &wanted).await.unwrap().warnings, [""; 0]);
}

#[tokio::test]
async fn an_empty_role_switches_anonymous_access_off() {
    let fleet = TestFleet::builder().serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.adopt(&fleet, "old", &[]).await;
    eventually("the router serves it", || async { fleet.get("/old/todos").await.status == 200 }).await;
    set(&legacy, "ALTER ROLE {}_login IN DATABASE DB SET pgrst.db_anon_role = ''").await;
    assert_eq!(fleet.run(&["tenant", "reload", "old"]).await.0, 0);
    eventually("the router follows", || async { fleet.get("/old/todos").await.code() == "PGRST302" }).await;
}

#[tokio::test]
async fn the_role_that_is_become_brings_its_settings() {
    let fleet = TestFleet::builder().serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.run(
        &fleet,
        "CREATE FUNCTION api.settings() RETURNS json LANGUAGE sql STABLE AS $$ SELECT json_build_object(
            'zone', current_setting('timezone'), 'work_mem', current_setting('work_mem'),
            'lock_timeout', current_setting('lock_timeout'), 'isolation', current_setting('transaction_isolation'),
            'statement', current_setting('statement_timeout'), 'path', current_setting('search_path')) $$;
         ALTER ROLE {}_user SET timezone = 'Asia/Kolkata'; ALTER ROLE {}_user SET work_mem = '8MB';
         ALTER ROLE {}_user SET lock_timeout = '777ms'; ALTER ROLE {}_user SET statement_timeout = '1d';
         ALTER ROLE {}_user SET default_transaction_isolation = 'serializable'; ALTER ROLE {}_user SET search_path = 'evil';",
    )
    .await;
    legacy.adopt(&fleet, "old", &[("app.settings.Host", "x")]).await;
    let user = format!("{}_user", legacy.name);
    let token = sign(JWT_SECRET.as_bytes(), json!({ "role": user }));
    let asked = async || fleet.get_as(&token, "/old/rpc/settings").await;
    eventually("the router serves it", || async { asked().await.status == 200 }).await;
    let found = asked().await.json();
    let expected = json!({ "zone": "Asia/Kolkata", "work_mem": "8MB", "lock_timeout": "777ms", "isolation": "serializable" });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(found[name], *value, "{name}");
    }
    assert_ne!(found["statement"], Value::from("1d"));
    assert!(found["path"].as_str().unwrap().contains("api"), "{found}");
    // Another login that can become the role could have written them.
    set(&legacy, "CREATE ROLE {}_other LOGIN; GRANT {}_user TO {}_other").await;
    assert_eq!(fleet.run(&["tenant", "reload", "old"]).await.0, 0);
    eventually("they are not obeyed", || async { asked().await.json()["lock_timeout"] == "0" }).await;
    let again = fleet.fleet.adopt(&"old".parse().unwrap(), &legacy.wanted(&[])).await.unwrap();
    assert!(again.warnings.len() == 1 && again.warnings[0].contains(&user), "{:?}", again.warnings);
}

#[tokio::test]
async fn who_asks_is_judged_before_the_schema_is_read() {
    let fleet = TestFleet::builder().serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.adopt(&fleet, "old", &[("db_anon_role", "none")]).await;
    eventually("the router knows it", || async { fleet.get("/old/todos").await.code() == "PGRST302" }).await;
    let wrong = sign(b"anothersecretanothersecretanothersecret", json!({ "role": "x" }));
    assert_eq!(fleet.get_as(&wrong, "/old/todos").await.status, 401);
    assert_eq!(crate::attack::schema::schema_reads(&fleet).await, 0);
    let token = sign(JWT_SECRET.as_bytes(), json!({ "role": format!("{}_user", legacy.name) }));
    assert_eq!(fleet.get_as(&token, "/old/todos").await.status, 200);
    assert_eq!(crate::attack::schema::schema_reads(&fleet).await, 1);
}

#[tokio::test]
async fn a_schema_that_changed_is_noticed_without_an_error() {
    let fleet = TestFleet::builder().serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.adopt(&fleet, "old", &[]).await;
    eventually("the router serves it", || async { fleet.get("/old/todos").await.status == 200 }).await;
    // A transaction that began before the schema was read, and is committed after.
    let late = legacy.client(&fleet).await;
    late.batch_execute("BEGIN; COMMENT ON TABLE api.todos IS 'what is to be done'").await.unwrap();
    for _ in 0..3 {
        // Each of these asks whether anything changed; none reads the schema again.
        assert_eq!(fleet.get("/old/nowhere").await.code(), "PGRST205");
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    assert_eq!(crate::attack::schema::schema_reads(&fleet).await, 1);
    late.batch_execute("COMMIT").await.unwrap();
    let knows = async || fleet.get("/old/").await.text.contains("what is to be done");
    eventually("the comment is noticed", || async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        knows().await
    })
    .await;
    assert_eq!(crate::attack::schema::schema_reads(&fleet).await, 2);
}

#[tokio::test]
async fn a_wide_table_is_read_at_once() {
    let fleet = TestFleet::builder().toml("[tiers.standard]\nstatement_timeout = '1s'").serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy
        .run(
            &fleet,
            "DO $$ BEGIN EXECUTE 'CREATE TABLE api.wide (' ||
                (SELECT string_agg(format('c%s int DEFAULT %s', i, i), ', ') FROM generate_series(1, 1590) i) || ')'; END $$;
             GRANT SELECT ON api.wide TO {}_anon",
        )
        .await;
    let adoption = fleet.fleet.adopt(&"old".parse().unwrap(), &legacy.wanted(&[])).await.unwrap();
    assert!(adoption.schema_ms.is_some(), "{:?}", adoption.warnings);
    eventually("the router serves it", || async {
        fleet.get("/old/wide?select=c1,c1590").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn connections_that_a_tenant_may_have_reach_its_login() {
    let mut fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let login = fleet.row("acme").await.record.login_role();
    let limit = async |fleet: &TestFleet| {
        let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
        let sql = "SELECT rolconnlimit FROM pg_roles WHERE rolname = $1";
        admin.query_one(sql, &[&login]).await.unwrap().get::<_, i32>(0)
    };
    let before = limit(&fleet).await;
    let (code, out, err) = fleet.run(&["tenant", "set", "acme", "max_connections=50"]).await;
    assert!(code == 0 && out.contains("max_per_tenant"), "{out} {err}");
    assert_eq!(limit(&fleet).await, 100);
    assert!(fleet.run(&["tenant", "show", "acme"]).await.1.contains("max_per_tenant"));
    assert_eq!(fleet.run(&["tenant", "set", "acme", "max_connections="]).await.0, 0);
    assert_eq!(limit(&fleet).await, before);
    // A tier that changes reaches it by `apply`.
    fleet.edit_settings(|text| format!("{text}\n[tiers.standard]\nmax_connections = 4\n")).await;
    let (code, out, err) = fleet.run(&["apply", "--dry-run"]).await;
    assert!(code == 2 && out.contains("acme") && out.contains("8 connections"), "{out} {err}");
    assert_eq!(fleet.run(&["apply"]).await.0, 0);
    assert_eq!(limit(&fleet).await, 8);
    assert!(!fleet.run(&["apply", "--dry-run"]).await.1.contains("acme"));
}
