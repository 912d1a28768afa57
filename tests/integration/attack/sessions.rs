//! What a request's code leaves in the session that the next request gets: each leftover, for each way a request ends.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestFleet, eventually};

/// What code can leave, as the statement that leaves it. Some are refused; then there is nothing to leave.
const LEFTOVERS: [&str; 38] = [
    "SET work_mem = '9MB'",
    "SET search_path = evil, pg_catalog",
    "SET client_encoding = 'LATIN1'",
    "SET DateStyle = 'German'",
    "SET IntervalStyle = 'iso_8601'",
    "SET TimeZone = 'Asia/Tokyo'",
    "SET standard_conforming_strings = off",
    "SET bytea_output = 'escape'",
    "SET extra_float_digits = -10",
    "SET client_min_messages = 'debug5'",
    "SET application_name = 'psql'",
    "SET default_transaction_read_only = on",
    "SET default_transaction_isolation = 'serializable'",
    "SET statement_timeout = '1ms'",
    "SET lock_timeout = '1ms'",
    "SET idle_in_transaction_session_timeout = '1h'",
    "SET client_connection_check_interval = 0",
    "SET row_security = off",
    "SET plan_cache_mode = 'force_generic_plan'",
    "SET session_replication_role = 'replica'",
    "SELECT set_config('app.left', 'over', false)",
    "SELECT set_config('request.jwt.claims', '{\"role\":\"service\"}', false)",
    "SELECT set_config('response.headers', '[{\"X-Left\": \"over\"}]', false)",
    "SET ROLE service",
    "RESET ROLE",
    "DO $$ BEGIN EXECUTE 'SET SESSION AUTHORIZATION ' || quote_ident(session_user); END $$",
    "LISTEN gossip",
    "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
    "SELECT pg_advisory_lock(42)",
    "SELECT pg_advisory_lock_shared(4, 2)",
    "CREATE TEMPORARY TABLE items (id int)",
    "CREATE TEMPORARY VIEW items AS SELECT 1 AS id",
    "CREATE TEMPORARY SEQUENCE numbers",
    "CREATE FUNCTION pg_temp.add(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT 0'",
    "CREATE TYPE pg_temp.text AS ENUM ('left')",
    "SELECT nextval('numbers')",
    "SELECT lo_open(lo_create(0), 131072)",
    // It stays, and harms nobody: docs/security.md, "What stays in a session".
    "PREPARE left_over AS SELECT 1",
];

const OBJECTS: &str = "
    CREATE SEQUENCE numbers;
    CREATE TABLE leavers (id int PRIMARY KEY, sql text, sleep float DEFAULT 0, fails boolean DEFAULT false);
    CREATE FUNCTION run(q text, sleep float, fails boolean) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE q;
        PERFORM pg_sleep(sleep);
        IF fails THEN RAISE 'on purpose'; END IF;
        RETURN 'left';
    END $$;
    CREATE FUNCTION leave(leavers) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT run($1.sql, $1.sleep, $1.fails)';
    CREATE FUNCTION read(q text) RETURNS text LANGUAGE sql STABLE AS 'SELECT run(q, 0, false)';
    CREATE FUNCTION left_by() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM run(NEW.sql, NEW.sleep, NEW.fails); RETURN NEW; END';
    CREATE TABLE changes (LIKE leavers INCLUDING ALL);
    CREATE TRIGGER left_by BEFORE INSERT ON changes FOR EACH ROW EXECUTE FUNCTION left_by();
    CREATE FUNCTION last() RETURNS bigint LANGUAGE plpgsql STABLE AS
        'BEGIN RETURN lastval(); EXCEPTION WHEN object_not_in_prerequisite_state THEN RETURN NULL; END';
    CREATE FUNCTION session_state() RETURNS json LANGUAGE sql STABLE AS $$ SELECT json_build_object(
        'pid', pg_backend_pid(),
        'users', ARRAY[session_user, current_user, current_setting('role'), current_setting('session_authorization')],
        'settings', (SELECT json_object_agg(name, setting ORDER BY name) FROM pg_settings),
        'placeholder', COALESCE(current_setting('app.left', true), ''),
        'claims', current_setting('request.jwt.claims'),
        'cursors', (SELECT json_agg(name) FROM pg_cursors WHERE is_holdable),
        'locks', (SELECT json_agg(l) FROM pg_locks l WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
        'channels', (SELECT json_agg(c) FROM pg_listening_channels() c),
        'temporary', (SELECT json_agg(o.name) FROM (
            SELECT relname AS name FROM pg_class WHERE relnamespace = pg_my_temp_schema()
            UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = pg_my_temp_schema()
            UNION ALL SELECT typname FROM pg_type WHERE typnamespace = pg_my_temp_schema()) o),
        'items', (SELECT count(*) FROM items),
        'sum', add(1, 1),
        'last', last()) $$;
    INSERT INTO items (name) VALUES ('one'), ('two');
    GRANT USAGE ON SEQUENCE numbers TO anon;
    GRANT SELECT, INSERT, UPDATE ON leavers, changes TO anon;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO anon;";

/// How a request ends after it left something.
const ENDINGS: [&str; 9] = [
    "a read of a relation",
    "a read by a function",
    "a call that commits",
    "a call that is rolled back as preferred",
    "a change",
    "a change that is judged by its outcome",
    "an error",
    "an error in a read",
    "the end of its time",
];

async fn request(fleet: &TestFleet, slug: &str, ending: &str, number: usize, sql: &str) -> Answer {
    let call = async |prefer: &str, body: Value| {
        fleet.send(Method::POST, &format!("/{slug}/rpc/run"), None, prefer, &body.to_string()).await
    };
    let row = json!({ "id": number, "sql": sql });
    match ending {
        "a read of a relation" => fleet.get(&format!("/{slug}/leavers?select=leave&id=eq.{number}")).await,
        "a read by a function" => {
            let query: String =
                form_urlencoded::Serializer::new(String::new()).append_pair("q", sql).finish();
            fleet.get(&format!("/{slug}/rpc/read?{query}")).await
        }
        "a call that commits" => call("", json!({ "q": sql, "sleep": 0, "fails": false })).await,
        "a call that is rolled back as preferred" => {
            call("tx=rollback", json!({ "q": sql, "sleep": 0, "fails": false })).await
        }
        "a change" => fleet.send(Method::POST, &format!("/{slug}/changes"), None, "", &row.to_string()).await,
        "a change that is judged by its outcome" => {
            let path = format!("/{slug}/changes?id=eq.{}", number + 1000);
            let row = json!({ "id": number + 1000, "sql": sql, "sleep": 0, "fails": false });
            fleet.send(Method::PUT, &path, None, "", &row.to_string()).await
        }
        "an error" => call("", json!({ "q": sql, "sleep": 0, "fails": true })).await,
        "an error in a read" => {
            fleet.get(&format!("/{slug}/leavers?select=leave,sql::int&id=eq.{number}")).await
        }
        "the end of its time" => call("", json!({ "q": sql, "sleep": 30, "fails": false })).await,
        other => panic!("{other}"),
    }
}

/// What the next request finds, and by which backend.
async fn state(fleet: &TestFleet, slug: &str) -> (Value, Value) {
    let answer = fleet.get(&format!("/{slug}/rpc/session_state")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(!answer.headers.contains_key("x-left"));
    let mut state = answer.json();
    let pid = state["pid"].take();
    (state, pid)
}

/// One connection for each tenant, so that the next request gets the session, or a new one if it was closed.
async fn fleet(slugs: &[&'static str]) -> TestFleet {
    let toml = "temporary_tables = true\n[tiers.standard]\nmax_connections = 1\nstatement_timeout = '500ms'
                [defaults.api]\ndb_tx_end = 'commit-allow-override'";
    let fleet = TestFleet::builder().toml(toml).tenants(slugs).serve().await;
    for slug in slugs {
        let owner = fleet.owner(slug).await;
        owner.batch_execute(OBJECTS).await.unwrap();
        for (number, sql) in LEFTOVERS.iter().enumerate() {
            let number = i32::try_from(number).unwrap();
            owner.execute("INSERT INTO leavers (id, sql) VALUES ($1, $2)", &[&number, sql]).await.unwrap();
        }
        eventually("the schema was read again", || async {
            fleet.get(&format!("/{slug}/leavers?id=eq.-1")).await.status == 200
                && fleet.get(&format!("/{slug}/rpc/session_state")).await.status == 200
        })
        .await;
    }
    fleet
}

/// For each ending, how many of a tenant's share of the leftovers kept their session, and how many succeeded.
async fn leave(fleet: &TestFleet, slug: &str, share: &[(usize, &str)]) -> Vec<(usize, usize)> {
    let (clean, _) = state(fleet, slug).await;
    let mut counts = Vec::new();
    for ending in ENDINGS {
        let (mut kept, mut succeeded) = (0, 0);
        for (number, sql) in share {
            let (_, before) = state(fleet, slug).await;
            let answer = request(fleet, slug, ending, *number, sql).await;
            succeeded += usize::from(answer.status.is_success());
            let (after, pid) = state(fleet, slug).await;
            assert_eq!(after, clean, "{sql}: {ending}: {}", answer.text);
            kept += usize::from(pid == before);
        }
        counts.push((kept, succeeded));
    }
    counts
}

#[tokio::test]
async fn nothing_is_left_however_a_request_ends() {
    // The leftovers are shared out: a tenant's requests follow each other, and those of several wait for their time's end together.
    let slugs = ["acme", "globex", "initech", "hooli"];
    let fleet = fleet(&slugs).await;
    let shares = slugs.iter().enumerate().map(|(first, slug)| {
        let share: Vec<_> = LEFTOVERS.into_iter().enumerate().skip(first).step_by(slugs.len()).collect();
        let fleet = &fleet;
        async move { leave(fleet, slug, &share).await }
    });
    let shares = futures_util::future::join_all(shares).await;
    for (number, ending) in ENDINGS.into_iter().enumerate() {
        let kept: usize = shares.iter().map(|share| share[number].0).sum();
        let succeeded: usize = shares.iter().map(|share| share[number].1).sum();
        // The sessions are used again, and not all closed: or else this would show nothing.
        assert!(kept > LEFTOVERS.len() / 2, "{ending}: {kept}");
        assert_eq!(
            succeeded > LEFTOVERS.len() / 2,
            !ending.contains("error") && !ending.contains("end of"),
            "{ending}"
        );
    }
}

#[tokio::test]
async fn nothing_is_left_by_whoever_hangs_up() {
    let fleet = fleet(&["acme"]).await;
    let (clean, _) = state(&fleet, "acme").await;
    let is_refused = |sql: &&str| sql.contains("session_replication_role");
    for sql in LEFTOVERS.into_iter().filter(|sql| !is_refused(sql)) {
        let body = json!({ "q": sql, "sleep": 30, "fails": false }).to_string();
        let request = fleet.request(Method::POST, "/acme/rpc/run").header("Content-Type", "application/json");
        let request = tokio::spawn(request.body(body).send());
        fleet.until_under_way("acme").await;
        request.abort();
        assert_eq!(state(&fleet, "acme").await.0, clean, "{sql}");
    }
}
