//! Locks that keep everybody from a server: PostgreSQL waits for some before it looks whether they are allowed.

use std::sync::Arc;
use std::time::Duration;

use manybox::embedded::Embedded;
use manybox::pg::{Connection, Endpoint, Login, connect};
use manybox::tenant::Verb;
use serde_json::json;
use tokio::task::JoinSet;

use super::two_tenants;
use crate::support::{TestFleet, eventually, private_server};

/// Somebody who reads what the lock is wanted on, and somebody who wants the lock; no request to cancel ends either.
const ATTACKERS: &str = "
    CREATE FUNCTION hold(command text) RETURNS void LANGUAGE plpgsql AS $f$ BEGIN
        EXECUTE 'RESET ROLE';
        EXECUTE format(command, session_user);
        PERFORM set_config('client_connection_check_interval', '0', false);
        LOOP BEGIN PERFORM pg_sleep(0.02); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;
    END $f$;
    CREATE FUNCTION want(command text) RETURNS void LANGUAGE plpgsql AS $f$ BEGIN
        PERFORM set_config('client_connection_check_interval', '0', false);
        LOOP BEGIN EXECUTE command; EXCEPTION WHEN query_canceled OR OTHERS THEN PERFORM pg_sleep(0.02); END; END LOOP;
    END $f$;
    CREATE TABLE told (id int); GRANT INSERT ON told TO anon;
    CREATE FUNCTION tell() RETURNS void LANGUAGE sql AS 'INSERT INTO told VALUES (1); NOTIFY told';
    GRANT EXECUTE ON FUNCTION hold, want, tell TO anon";

/// Calls it again and again, for each time that its session is ended.
async fn keep_calling(fleet: Arc<TestFleet>, function: &'static str, command: String) {
    let body = json!({ "command": command }).to_string();
    loop {
        let path = format!("/acme/rpc/{function}");
        let request = fleet.request(reqwest::Method::POST, &path).header("Content-Type", "application/json");
        let _ = request.body(body.clone()).send().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_lock_on_what_all_databases_share_keeps_nobody_from_the_server() {
    // Of its own: the other tests would wait as well.
    let folder = tempfile::tempdir().unwrap();
    let server = private_server(folder.path().join("pg"), false).await;
    let mut fleet = TestFleet::builder().tenants(&["acme", "globex"]).build_on(&server.admin_url()).await;
    fleet.owner("acme").await.batch_execute(ATTACKERS).await.unwrap();
    fleet.start_router().await;
    let fleet = Arc::new(fleet);
    let globex = fleet.row("globex").await.record;
    let pools = fleet.app.as_ref().unwrap().pools.clone();
    assert_eq!(fleet.get("/globex/items").await.status, 200);
    let rule = |table: &str| format!("CREATE RULE r AS ON INSERT TO pg_catalog.{table} DO NOTHING");
    let read = "DO 'BEGIN PERFORM FROM pg_database, pg_roles, pg_auth_members; END'";
    let database = globex.database();
    for (held, wanted) in [
        (read.to_owned(), rule("pg_database")),
        (read.to_owned(), rule("pg_authid")),
        (read.to_owned(), rule("pg_auth_members_member_role_index")),
        (
            format!("ALTER ROLE %I IN DATABASE {database} SET work_mem = '1MB'"),
            format!("ALTER DATABASE {database} RENAME TO taken"),
        ),
        (
            "ALTER ROLE %I SET work_mem = '1MB'".to_owned(),
            "CREATE TRIGGER t BEFORE INSERT ON pg_catalog.pg_db_role_setting
                 EXECUTE FUNCTION suppress_redundant_updates_trigger()"
                .to_owned(),
        ),
    ] {
        let mut attackers = JoinSet::new();
        attackers.spawn(keep_calling(Arc::clone(&fleet), "hold", held));
        fleet.until_under_way("acme").await;
        attackers.spawn(keep_calling(Arc::clone(&fleet), "want", wanted.clone()));
        tokio::time::sleep(Duration::from_millis(200)).await;
        for _ in 0..3 {
            // The next request needs a login.
            pools.drain(&globex.id);
            let answer = fleet.get("/globex/items").await;
            assert_eq!(answer.status, 200, "{wanted}: {}", answer.text);
        }
        fleet.fleet.carry_out("globex", Verb::Suspend).await.unwrap();
        fleet.fleet.carry_out("globex", Verb::Resume).await.unwrap();
        eventually("it is served", || async { fleet.get("/globex/items").await.status == 200 }).await;
        drop(attackers);
        // What their clients left is ended, too.
        let left = "SELECT FROM pg_stat_activity WHERE datname = $1 AND usename = $1";
        let (admin, acme) = (fleet.admin("globex").await, fleet.row("acme").await.record.database());
        pools.drain(&fleet.row("acme").await.record.id);
        eventually("they were ended", || async { admin.query(left, &[&acme]).await.unwrap().is_empty() })
            .await;
    }

    // What a COMMIT behind a NOTIFY takes is no such lock, however long the COMMIT lasts: here for a standby that is not there.
    let superuser = superuser_of(&server).await;
    let standby = async |name: &str| {
        let sql = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
        superuser.batch_execute(&sql).await.unwrap();
        superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    standby("nobody").await;
    let telling = tokio::spawn({
        let fleet = Arc::clone(&fleet);
        async move { fleet.send(reqwest::Method::POST, "/acme/rpc/tell", None, "", "{}").await }
    });
    let waiting = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = $1";
    let acme = fleet.row("acme").await.record.database();
    eventually("it waits", || async { !superuser.query(waiting, &[&acme]).await.unwrap().is_empty() }).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    standby("").await;
    let answer = telling.await.unwrap();
    assert_eq!(answer.status, 204, "{}", answer.text);
}

async fn superuser_of(server: &Embedded) -> Connection {
    let (endpoint, _) = Endpoint::parse("main", &server.superuser_url(), None).unwrap();
    let login = Login { user: "postgres".into(), password: None };
    connect(&endpoint, &login, "postgres").await.unwrap()
}

#[tokio::test]
async fn a_database_into_which_no_session_gets_is_its_tenants_trouble_alone() {
    let toml = "[tiers.standard]\nacquire_timeout = '20s'";
    let fleet = Arc::new(two_tenants(toml).await);
    let pools = fleet.app.as_ref().unwrap().pools.clone();
    let globex = fleet.row("globex").await.record.id;
    assert_eq!(fleet.get("/globex/items").await.status, 200);
    let (reads, wants) = (fleet.owner("acme").await, fleet.owner("acme").await);
    reads.batch_execute("BEGIN; SELECT count(*) FROM pg_class").await.unwrap();
    let locked = tokio::spawn(async move {
        // Each session of the database that begins wants to read there.
        let _ = wants.batch_execute("CREATE RULE r AS ON INSERT TO pg_catalog.pg_class DO NOTHING").await;
    });
    let waiting = "SELECT FROM pg_locks WHERE relation = 'pg_class'::regclass AND NOT granted";
    let admin = fleet.admin("globex").await;
    eventually("it waits", || async { !admin.query(waiting, &[]).await.unwrap().is_empty() }).await;
    let mut attackers = JoinSet::new();
    for _ in 0..8 {
        let fleet = Arc::clone(&fleet);
        attackers.spawn(async move { fleet.get("/acme/items").await.status });
    }
    // As soon as the first of them is told that it can't be served, others are all the same.
    for _ in 0..3 {
        let status = attackers.join_next().await.unwrap().unwrap();
        assert_eq!(status, 503);
        pools.drain(&globex);
        let answer = fleet.get("/globex/items").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    reads.batch_execute("ROLLBACK").await.unwrap();
    locked.await.unwrap();
    eventually("it is served again", || async { fleet.get("/acme/items").await.status == 200 }).await;
}
