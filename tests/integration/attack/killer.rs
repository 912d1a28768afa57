//! Functions that outlive their requests: they catch every request to cancel, and end what would end them.

use std::time::Duration;

use manybox::pg::{Connection, connect};
use reqwest::Method;
use serde_json::json;

use crate::adopt::Legacy;
use crate::support::{TestFleet, eventually};

/// A loop that no request to cancel ends, nor the client's end, nor a time limit of the session.
const LOOP: &str = "
    PERFORM set_config('client_connection_check_interval', '0', false);
    PERFORM set_config('statement_timeout', '0', false);
    PERFORM set_config('application_name', 'psql', false);
    EXECUTE 'LISTEN flood';
    LOOP BEGIN PERFORM pg_sleep(0.02); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;";

/// One loops at once; one while its transaction commits, where no time limit of PostgreSQL's holds.
fn killers(role: &str) -> String {
    format!(
        "CREATE FUNCTION killer() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN {LOOP} END $f$;
         CREATE TABLE late (id int);
         CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
             IF NEW.id = 1 THEN
                 SET CONSTRAINTS ALL DEFERRED;
                 INSERT INTO late VALUES (2);
                 RETURN NULL;
             END IF;
             {LOOP}
         END $f$;
         CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION at_commit();
         CREATE FUNCTION late_killer() RETURNS void LANGUAGE sql AS 'INSERT INTO late VALUES (1)';
         GRANT INSERT ON late TO {role};
         GRANT EXECUTE ON FUNCTION killer, late_killer, at_commit TO {role};"
    )
}

async fn hostile(toml: &str) -> TestFleet {
    let toml = format!("[tiers.standard]\nmax_connections = 1\n{toml}");
    let fleet = TestFleet::builder().toml(&toml).tenants(&["acme", "other"]).serve().await;
    fleet.owner("acme").await.batch_execute(&killers("anon")).await.unwrap();
    fleet
}

/// There is one connection, so that the tenant is served again only when its slot is free.
async fn served_again(fleet: &TestFleet, path: &str) {
    eventually("its session was ended", || async { fleet.get(path).await.status == 200 }).await;
}

fn call(fleet: &TestFleet, path: &str) -> reqwest::RequestBuilder {
    fleet.request(Method::POST, path).header("Content-Type", "application/json").body("{}")
}

#[tokio::test]
async fn whoever_hangs_up_leaves_no_session_behind() {
    let fleet = hostile("acquire_timeout = '200ms'").await;
    for killer in ["killer", "late_killer"] {
        let request = tokio::spawn(call(&fleet, &format!("/acme/rpc/{killer}")).send());
        fleet.until_under_way("acme").await;
        request.abort();
        served_again(&fleet, "/acme/items").await;
    }
    assert_eq!(fleet.get("/other/items").await.status, 200);
    // Nobody keeps what NOTIFY sends from being forgotten.
    let usage = "SELECT pg_notification_queue_usage()";
    let admin = fleet.admin("other").await;
    eventually("the queue is empty", || async {
        admin.query_one(usage, &[]).await.unwrap().get::<_, f64>(0) == 0.0
    })
    .await;
}

#[tokio::test]
async fn whoever_waits_is_answered_and_leaves_no_session_behind() {
    let fleet =
        hostile("acquire_timeout = '200ms'\nrequest_timeout = '500ms'\nstatement_timeout = '200ms'").await;
    for killer in ["killer", "late_killer"] {
        let answer = call(&fleet, &format!("/acme/rpc/{killer}")).send().await.unwrap();
        assert_eq!(answer.status(), 504, "{killer}");
        served_again(&fleet, "/acme/items").await;
    }
}

#[tokio::test]
async fn a_killer_that_ends_its_kin_and_changes_its_password_is_ended() {
    let fleet = hostile("acquire_timeout = '200ms'").await;
    let takeover = "
        CREATE FUNCTION takeover() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN
            EXECUTE 'RESET ROLE';
            EXECUTE format('ALTER ROLE %I PASSWORD ''taken'' ', session_user);
            PERFORM set_config('client_connection_check_interval', '0', false);
            LOOP BEGIN
                PERFORM pg_stat_clear_snapshot();
                PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE usename = session_user AND pid <> pg_backend_pid();
                PERFORM pg_sleep(0.01);
            EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;
        END $f$;
        CREATE FUNCTION known() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
        GRANT EXECUTE ON FUNCTION takeover, known TO anon";
    fleet.owner("acme").await.batch_execute(takeover).await.unwrap();
    eventually("the router knows it", || async { fleet.get("/acme/rpc/known").await.status == 200 }).await;
    let request = tokio::spawn(call(&fleet, "/acme/rpc/takeover").send());
    fleet.until_under_way("acme").await;
    request.abort();
    let login = fleet.row("acme").await.record.database();
    let admin = fleet.admin("other").await;
    let left = "SELECT FROM pg_stat_activity WHERE usename = $1";
    eventually("its session was ended", || async { admin.query(left, &[&login]).await.unwrap().is_empty() })
        .await;
}

#[tokio::test]
async fn an_adopted_tenants_killer_is_ended() {
    let fleet = hostile("acquire_timeout = '200ms'").await;
    let legacy = Legacy::make(&fleet).await;
    let killers = format!("SET search_path = api; {}", killers("{}_anon"));
    legacy.run(&fleet, &killers).await;
    legacy.adopt(&fleet, "old", &[]).await;
    served_again(&fleet, "/old/todos").await;
    let request = tokio::spawn(call(&fleet, "/old/rpc/killer").send());
    let admin = fleet.admin("acme").await;
    let under_way = "SELECT FROM pg_stat_activity JOIN pg_locks USING (pid)
                     WHERE usename = $1 AND locktype = 'virtualxid'";
    let login = format!("{}_login", legacy.name);
    eventually("it is under way", || async { !admin.query(under_way, &[&login]).await.unwrap().is_empty() })
        .await;
    request.abort();
    served_again(&fleet, "/old/todos").await;
}

/// The router's own session, where it ends others.
async fn router(fleet: &TestFleet) -> (Connection, String) {
    let login = fleet.fleet.keys.router_logins(&fleet.fleet.settings.catalog.database).newest;
    let endpoint = &fleet.fleet.servers.get("main").unwrap().endpoint;
    (connect(endpoint, &login, &login.user).await.unwrap(), login.user)
}

#[tokio::test]
async fn the_login_that_ends_sessions_reaches_tenants_sessions_only() {
    let fleet = hostile("").await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    let (router, name) = router(&fleet).await;
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let owner = fleet.owner("other").await;
    let sessions = "SELECT pid, usename::text, datname::text FROM pg_stat_activity
                    WHERE usename IS NOT NULL AND usename !~ '^mb_[0-9a-z]{16}$' AND usename !~ '^legacy_'";
    let others = admin.query(sessions, &[]).await.unwrap();
    assert!(others.len() >= 3, "the admin's, the owner's, the router's");
    let end = "SELECT public.end_session($1, $2, $3)";
    for row in &others {
        let (pid, login, database): (i32, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
        let ended = router.query_one(end, &[&pid, &login, &database]).await.unwrap();
        assert!(!ended.get::<_, bool>(0), "{login} in {database:?}");
        // It may end its own, as every login may.
        if login != name {
            // One that has gone meanwhile is no error.
            let ended = router.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await;
            assert!(!ended.is_ok_and(|row| row.get(0)), "{login}");
        }
    }
    owner.query_one("SELECT 1", &[]).await.unwrap();
    // Another's name, or another's database, does not fit.
    let acme = fleet.row("acme").await.record.database();
    let pid: i32 = {
        let row =
            admin.query_one("SELECT pid FROM pg_stat_activity WHERE usename = $1", &[&acme]).await.unwrap();
        row.get(0)
    };
    for (login, database) in [("mb_admin", "postgres"), (acme.as_str(), "postgres"), ("mb_admin", &acme)] {
        let ended = router.query_one(end, &[&pid, &login, &database]).await.unwrap();
        assert!(!ended.get::<_, bool>(0), "{login} in {database}");
    }
    assert!(router.query_one(end, &[&pid, &acme, &acme]).await.unwrap().get::<_, bool>(0));
    // It lists nobody, and makes nothing.
    for sql in [
        "SELECT * FROM public.adopted",
        "INSERT INTO public.adopted VALUES ('postgres', 'mb_admin')",
        "CREATE TABLE public.mine (id int)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE SCHEMA mine",
    ] {
        let error = router.batch_execute(sql).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{sql}");
    }
}

#[tokio::test]
async fn no_tenant_reaches_the_login_that_ends_sessions() {
    let fleet = hostile("").await;
    let owner = "CREATE FUNCTION run(q text) RETURNS text LANGUAGE plpgsql AS $f$
                 DECLARE r text; BEGIN EXECUTE 'RESET ROLE'; EXECUTE q INTO r; RETURN r; END $f$;
                 GRANT EXECUTE ON FUNCTION run TO anon";
    fleet.owner("acme").await.batch_execute(owner).await.unwrap();
    let (session, name) = router(&fleet).await;
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    for sql in [
        format!("SELECT pg_terminate_backend({pid})"),
        format!("SELECT pg_cancel_backend({pid})"),
        format!("ALTER ROLE {name} PASSWORD 'x'"),
        format!("ALTER ROLE {name} NOLOGIN"),
        format!("ALTER ROLE {name} SET statement_timeout = 1"),
        format!("SET ROLE {name}"),
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        "LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE".to_owned(),
        "LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE".to_owned(),
    ] {
        let answer =
            fleet.send(Method::POST, "/acme/rpc/run", None, "", &json!({ "q": sql }).to_string()).await;
        assert_eq!(answer.code(), "42501", "{sql}: {}", answer.text);
    }
    let endpoint = &fleet.fleet.servers.get("main").unwrap().endpoint;
    let login = fleet.fleet.keys.tenant_logins(&fleet.row("acme").await.record).remove(0);
    assert!(connect(endpoint, &login, &name).await.is_err());
    tokio::time::timeout(Duration::from_secs(10), session.query_one("SELECT 1", &[])).await.unwrap().unwrap();
}
