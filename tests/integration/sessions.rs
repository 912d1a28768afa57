//! Sessions that requests share one after the other: what changes in the database counts at once, and nothing that one
//! request's code did reaches the next.

use manybox::pg::Connection;
use reqwest::Method;
use serde_json::json;

use crate::support::{TestFleet, eventually};

const THOUGHTS: &str = "
    CREATE TABLE thoughts (id int PRIMARY KEY, writer text, pinned boolean);
    CREATE TABLE answers (id int PRIMARY KEY, thought_id int REFERENCES thoughts, by text);
    INSERT INTO thoughts VALUES (1, 'ann', true), (2, 'ben', false);
    INSERT INTO answers VALUES (1, 1), (2, 2);
    GRANT SELECT ON thoughts, answers TO anon;
    CREATE FUNCTION left_over() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('left.over', true) $$;
    CREATE FUNCTION leave(name text) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN PERFORM set_config('left.over', name, false); RETURN true; END $$;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO anon;";

/// A fleet with a tenant whose thoughts have been read already, so that statements are prepared for them.
async fn known() -> (TestFleet, impl AsyncFn(&str)) {
    known_beside("").await
}

async fn known_beside(more: &str) -> (TestFleet, impl AsyncFn(&str) + use<>) {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let owner = fleet.owner("acme").await;
    owner.batch_execute(THOUGHTS).await.unwrap();
    owner.batch_execute(more).await.unwrap();
    // The first is sent twice by the router, for the edition has no such table, and then without names.
    for path in ["/acme/thoughts", "/acme/thoughts?select=id", "/acme/answers?select=id,thoughts(id)"] {
        assert_eq!(fleet.get(path).await.status, 200);
    }
    let ddl = async move |sql: &str| owner.batch_execute(sql).await.unwrap();
    (fleet, ddl)
}

async fn ids(fleet: &TestFleet, path: &str, writer: &str) -> serde_json::Value {
    let request = fleet.request(Method::GET, path).header("x-writer", writer);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

#[tokio::test]
async fn a_policy_counts_from_its_first_moment() {
    let (fleet, ddl) = known().await;
    ddl("CREATE POLICY own ON thoughts USING (writer = current_setting('request.headers', true)::json ->> 'x-writer');
         ALTER TABLE thoughts ENABLE ROW LEVEL SECURITY")
    .await;
    assert_eq!(ids(&fleet, "/acme/thoughts?select=id", "ben").await, json!([{ "id": 2 }]));
    let embedded = json!([{ "id": 1, "thoughts": { "id": 1 } }, { "id": 2, "thoughts": null }]);
    assert_eq!(ids(&fleet, "/acme/answers?select=id,thoughts(id)", "ann").await, embedded);
}

#[tokio::test]
async fn a_policy_that_fails_without_settings_does_not_fail() {
    let (fleet, ddl) = known().await;
    ddl(
        "CREATE POLICY own ON thoughts USING (writer = current_setting('request.headers')::json ->> 'x-writer');
         ALTER TABLE thoughts ENABLE ROW LEVEL SECURITY",
    )
    .await;
    assert_eq!(ids(&fleet, "/acme/thoughts?select=id", "ben").await, json!([{ "id": 2 }]));
}

#[tokio::test]
async fn a_view_in_a_tables_place_sees_the_request() {
    let (fleet, ddl) = known().await;
    ddl("BEGIN; ALTER TABLE thoughts RENAME TO hidden;
         CREATE VIEW thoughts AS SELECT * FROM hidden WHERE current_setting('request.method', true) = 'GET';
         GRANT SELECT ON thoughts TO anon; COMMIT")
    .await;
    assert_eq!(ids(&fleet, "/acme/thoughts?select=id&order=id", "").await, json!([{ "id": 1 }, { "id": 2 }]));
}

#[tokio::test]
async fn what_an_unknown_policy_leaves_in_the_session_is_gone() {
    let (fleet, ddl) = known().await;
    ddl(
        "CREATE POLICY own ON thoughts USING (leave(writer)); ALTER TABLE thoughts ENABLE ROW LEVEL SECURITY",
    )
    .await;
    // One connection, so that what one request leaves would be there for the next.
    assert_eq!(fleet.get("/acme/thoughts?select=id").await.status, 200);
    let left = fleet.send(Method::POST, "/acme/rpc/left_over", None, "", "{}").await;
    assert!(["null", "\"\""].contains(&left.text.as_str()), "{}", left.text);
}

/// A type whose JSON is made by code that looks at the request.
const MOOD: &str = "
    CREATE TYPE mood AS ENUM ('glad', 'sad');
    CREATE FUNCTION shown(mood) RETURNS json LANGUAGE sql STABLE AS $$
        SELECT json_build_object('mood', $1::text, 'method', current_setting('request.method', true)) $$;
    CREATE CAST (mood AS json) WITH FUNCTION shown(mood);
    GRANT EXECUTE ON FUNCTION shown(mood) TO anon;";

#[tokio::test]
async fn a_columns_new_type_sees_the_request() {
    let (fleet, ddl) = known().await;
    ddl(MOOD).await;
    let glad = json!([{ "mood": "glad", "method": "GET" }]);
    assert_eq!(fleet.get("/acme/thoughts?id=eq.1").await.status, 200);
    ddl("ALTER TABLE thoughts ADD COLUMN mood mood DEFAULT 'glad'").await;
    assert_eq!(ids(&fleet, "/acme/thoughts?id=eq.1", "").await[0]["mood"], glad[0]);
    assert_eq!(fleet.get("/acme/answers?select=by&id=eq.1").await.status, 200);
    ddl("ALTER TABLE answers ALTER COLUMN by TYPE mood USING 'glad'").await;
    assert_eq!(ids(&fleet, "/acme/answers?select=by&id=eq.1", "").await[0]["by"], glad[0]);
}

#[tokio::test]
async fn what_holds_for_its_lineage_need_not_for_a_tenant() {
    let fleet = TestFleet::builder().tenants(&["acme", "other"]).serve().await;
    // Both are of one edition and version, so that one schema is read for both.
    fleet.owner("other").await.batch_execute(MOOD).await.unwrap();
    let drift =
        "ALTER TABLE items ADD COLUMN mood mood DEFAULT 'glad'; INSERT INTO items VALUES (77, 'x', 1);
                 ALTER TABLE notes ADD COLUMN about regclass DEFAULT 'public.items'";
    fleet.owner("other").await.batch_execute(drift).await.unwrap();
    assert_eq!(fleet.get("/acme/items?id=eq.77").await.status, 200);
    let items = ids(&fleet, "/other/items?id=eq.77", "").await;
    assert_eq!(items[0]["mood"], json!({ "mood": "glad", "method": "GET" }));
    fleet.owner("other").await.batch_execute("INSERT INTO notes (id) VALUES (77)").await.unwrap();
    assert_eq!(fleet.get("/acme/notes?id=eq.77").await.status, 200);
    // Without its schema: the search path is the request's.
    assert_eq!(ids(&fleet, "/other/notes?id=eq.77", "").await[0]["about"], json!("items"));
}

/// Waits until so many of the database's sessions wait for a lock.
async fn until_waiting(admin: &Connection, number: usize) {
    let waits = "SELECT FROM pg_locks JOIN pg_database d ON d.oid = database WHERE NOT granted AND datname = current_database()";
    eventually("they wait", || async { admin.query(waits, &[]).await.unwrap().len() == number }).await;
}

/// Sends a read while a transaction has changed its table and not ended yet, then ends it.
async fn while_changing(fleet: &TestFleet, sql: &str, path: &str) -> serde_json::Value {
    let owner = fleet.owner("acme").await;
    let admin = fleet.admin("acme").await;
    owner.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
    let request = fleet.request(Method::GET, path).header("x-writer", "ben");
    let answer = tokio::spawn(request.send());
    until_waiting(&admin, 1).await;
    owner.batch_execute("COMMIT").await.unwrap();
    let answer = answer.await.unwrap().unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    answer.json().await.unwrap()
}

#[tokio::test]
async fn a_table_replaced_while_the_read_waits_has_its_policy() {
    let (fleet, _) = known().await;
    let replace = "ALTER TABLE answers DROP CONSTRAINT answers_thought_id_fkey;
        ALTER TABLE thoughts RENAME TO hidden; CREATE TABLE thoughts (LIKE hidden); INSERT INTO thoughts SELECT * FROM hidden;
        CREATE POLICY own ON thoughts USING (leave(writer)
            AND writer = current_setting('request.headers', true)::json ->> 'x-writer');
        ALTER TABLE thoughts ENABLE ROW LEVEL SECURITY; GRANT SELECT ON thoughts TO anon";
    assert_eq!(while_changing(&fleet, replace, "/acme/thoughts?select=id").await, json!([{ "id": 2 }]));
    let left = fleet.send(Method::POST, "/acme/rpc/left_over", None, "", "{}").await;
    assert!(["null", "\"\""].contains(&left.text.as_str()), "{}", left.text);
}

#[tokio::test]
async fn a_view_that_comes_while_the_read_waits_sees_the_request() {
    let (fleet, _) = known().await;
    let replace = "ALTER TABLE thoughts RENAME TO hidden;
        CREATE VIEW thoughts AS SELECT * FROM hidden WHERE current_setting('request.method', true) = 'GET';
        GRANT SELECT ON thoughts TO anon";
    let both = json!([{ "id": 1 }, { "id": 2 }]);
    assert_eq!(while_changing(&fleet, replace, "/acme/thoughts?select=id").await, both);
}

#[tokio::test]
async fn an_estimate_sees_what_the_read_saw() {
    let (fleet, ddl) = known().await;
    ddl("ALTER FUNCTION leave STABLE").await;
    let planned = fleet.request(Method::GET, "/acme/thoughts?select=id").header("prefer", "count=planned");
    assert_eq!(planned.send().await.unwrap().status(), 206);
    // Queues behind the read, and before whatever the read's connection sends next.
    let (locks, policy) = (fleet.owner("acme").await, fleet.owner("acme").await);
    let admin = fleet.admin("acme").await;
    locks.batch_execute("BEGIN; LOCK TABLE thoughts").await.unwrap();
    let read = fleet.request(Method::GET, "/acme/thoughts?select=id").header("prefer", "count=planned");
    let read = tokio::spawn(read.send());
    until_waiting(&admin, 1).await;
    let change = "BEGIN; ALTER TABLE thoughts ENABLE ROW LEVEL SECURITY;
                  CREATE POLICY own ON thoughts USING (pinned = leave('planner')); COMMIT";
    let change = tokio::spawn(async move { policy.batch_execute(change).await });
    until_waiting(&admin, 2).await;
    locks.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(read.await.unwrap().unwrap().status(), 206);
    change.await.unwrap().unwrap();
    let left = fleet.send(Method::POST, "/acme/rpc/left_over", None, "", "{}").await;
    assert!(["null", "\"\""].contains(&left.text.as_str()), "{}", left.text);
}

#[tokio::test]
async fn a_right_taken_away_is_missed_at_once() {
    let (fleet, ddl) = known().await;
    ddl("REVOKE SELECT ON thoughts FROM anon").await;
    let refused = fleet.get("/acme/thoughts?select=id").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (401, "42501"));
    ddl("GRANT SELECT ON thoughts TO anon").await;
    assert_eq!(fleet.get("/acme/thoughts?select=id").await.status, 200);
}

#[tokio::test]
async fn a_search_path_of_the_logins_own_finds_no_other_operators() {
    let (fleet, ddl) = known().await;
    ddl("CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO anon;
         CREATE FUNCTION evil.same(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.same)")
    .await;
    // Any function can write this for the login it runs under; it counts for new connections.
    let (admin, login) = (fleet.admin("acme").await, fleet.tenant("acme").await.login_role());
    admin.batch_execute(&format!("ALTER ROLE {login} SET search_path = evil, pg_catalog")).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    admin.query(end, &[&login]).await.unwrap();
    eventually("the tenant is served again", || async {
        fleet.get("/acme/thoughts?select=writer").await.status == 200
    })
    .await;
    assert_eq!(ids(&fleet, "/acme/thoughts?select=id&id=eq.1", "").await, json!([{ "id": 1 }]));
}

const MEMBERS: &str = "
    CREATE TABLE members (id int PRIMARY KEY);
    INSERT INTO members VALUES (7);
    GRANT SELECT ON members TO authenticated;
    CREATE FUNCTION whoami() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_user || current_setting('role') $$;
    GRANT EXECUTE ON FUNCTION whoami() TO anon;";

#[tokio::test]
async fn a_session_never_gives_one_callers_role_to_another() {
    let (fleet, _) = known_beside(MEMBERS).await;
    let member = fleet.token("acme", json!({ "role": "authenticated" })).await;
    for _ in 0..4 {
        assert_eq!(ids(&fleet, "/acme/thoughts?select=id&id=eq.2", "").await, json!([{ "id": 2 }]));
        assert_eq!(fleet.get_as(&member, "/acme/members?select=id").await.json(), json!([{ "id": 7 }]));
        assert_eq!(fleet.get("/acme/members?select=id").await.code(), "42501");
        assert_eq!(fleet.get_as(&member, "/acme/members?select=id").await.status, 200);
        assert_eq!(fleet.get_as(&member, "/acme/thoughts?select=id").await.code(), "42501");
        assert_eq!(fleet.get_as(&member, "/acme/members?select=id").await.status, 200);
        assert_eq!(fleet.get("/acme/rpc/whoami").await.text, "\"anonanon\"");
    }
}

#[tokio::test]
async fn a_login_that_may_be_a_role_no_more_is_not() {
    let (fleet, _) = known().await;
    let (admin, login) = (fleet.admin("acme").await, fleet.tenant("acme").await.login_role());
    for _ in 0..2 {
        assert_eq!(fleet.get("/acme/thoughts?select=id").await.status, 200);
        admin.batch_execute(&format!("REVOKE anon FROM {login}")).await.unwrap();
        let refused = fleet.get("/acme/thoughts?select=id").await;
        assert_eq!(refused.code(), "42501", "{}", refused.text);
        admin.batch_execute(&format!("GRANT anon TO {login}")).await.unwrap();
    }
}

/// A function that puts another text in the place of each statement that reads `thoughts`, with the columns of the main
/// query. It says that all is well, and leaves what it can.
const SWAP: &str = "
    CREATE TABLE marks (id int);
    CREATE FUNCTION mark() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN INSERT INTO public.marks VALUES (1); RETURN true; END $$;
    GRANT EXECUTE ON FUNCTION mark() TO anon;
    CREATE FUNCTION swap(also text) RETURNS int LANGUAGE plpgsql AS $$
    DECLARE name text; swapped int := 0;
    BEGIN
      FOR name IN SELECT p.name FROM pg_prepared_statements p WHERE statement LIKE '%\"thoughts\"%' LOOP
        EXECUTE format('DEALLOCATE %I', name);
        EXECUTE format('PREPARE %I AS SELECT 1::int8, NULL::int8, NULL::text[], NULL::int4, NULL::text, NULL::text,
            %s, ''[\"forged\"]''::json, NULL', name, also);
        swapped := swapped + 1;
      END LOOP;
      RETURN swapped;
    END $$;
    GRANT EXECUTE ON FUNCTION swap(text) TO anon;";

async fn swap(fleet: &TestFleet, also: &str) {
    let body = json!({ "also": also }).to_string();
    let swapped = fleet.send(Method::POST, "/acme/rpc/swap", None, "", &body).await;
    assert_eq!(swapped.status, 200, "{}", swapped.text);
    assert_ne!(swapped.text, "0");
}

/// What docs/security.md says of statements that a function has replaced: the forged text runs as that request's role, in
/// that request's transaction, which is undone, and the session is as it was for the next.
#[tokio::test]
async fn a_replaced_statement_leaves_the_session_nothing() {
    let (fleet, ddl) = known_beside(&format!("{MEMBERS} GRANT SELECT ON members TO anon; {SWAP}")).await;
    swap(&fleet, "set_config('role', 'authenticated', false) IS NOT NULL").await;
    ddl("REVOKE SELECT ON members FROM anon").await;
    assert_eq!(fleet.get("/acme/thoughts?select=id").await.json(), json!(["forged"]));
    let refused = fleet.get("/acme/members?select=id").await;
    assert_eq!(refused.code(), "42501", "{}", refused.text);
    assert_eq!(fleet.get("/acme/rpc/whoami").await.text, "\"anonanon\"");
}

/// The same of the query that frees advisory locks behind a COMMIT: it runs as the bare login, in front of the reset.
#[tokio::test]
async fn a_replaced_release_of_locks_leaves_the_session_nothing() {
    let replaces = "CREATE FUNCTION replaces(text text) RETURNS int LANGUAGE plpgsql AS $$
         DECLARE name text; replaced int := 0;
         BEGIN
           FOR name IN SELECT p.name FROM pg_prepared_statements p
                       WHERE statement = 'SELECT pg_catalog.pg_advisory_unlock_all()' LOOP
             EXECUTE format('DEALLOCATE %I', name);
             EXECUTE format('PREPARE %I AS %s', name, text);
             replaced := replaced + 1;
           END LOOP;
           RETURN replaced;
         END $$;
         GRANT EXECUTE ON FUNCTION replaces TO anon";
    for text in [
        "SELECT set_config('role', 'authenticated', false), set_config('search_path', 'x', false)",
        "SELECT public.mark()",
    ] {
        let (fleet, _) = known_beside(&format!("{MEMBERS} {SWAP} {replaces}")).await;
        let whoami = async || fleet.send(Method::POST, "/acme/rpc/whoami", None, "", "{}").await;
        for _ in 0..4 {
            assert_eq!(whoami().await.status, 200);
        }
        let body = json!({ "text": text }).to_string();
        let replaced = fleet.send(Method::POST, "/acme/rpc/replaces", None, "", &body).await;
        assert!(replaced.status == 200 && replaced.text != "0", "{text}: {}", replaced.text);
        for _ in 0..4 {
            assert_eq!(whoami().await.text, "\"anonanon\"", "{text}");
        }
        let marks = fleet.owner("acme").await.query("SELECT FROM marks", &[]).await.unwrap();
        assert_eq!(marks.len(), 0, "the bare login may do nothing");
    }
}

#[tokio::test]
async fn what_runs_in_a_reads_place_writes_nothing() {
    let (fleet, _) = known_beside(SWAP).await;
    swap(&fleet, "public.mark()").await;
    // Refused as a write in a read is; prepared anew, the statement is ours again.
    let refused = fleet.get("/acme/thoughts?select=id").await;
    assert_eq!(refused.code(), "25006", "{}", refused.text);
    let marks = fleet.owner("acme").await.query("SELECT FROM marks", &[]).await.unwrap();
    assert_eq!(marks.len(), 0);
}

/// One connection, so that each request meets what the one before did to the statements' names.
#[tokio::test]
async fn names_that_a_function_took_or_freed_cost_no_request() {
    let fleet =
        TestFleet::builder().toml("[tiers.standard]\nmax_connections = 1").tenants(&["acme"]).serve().await;
    fleet.owner("acme").await.batch_execute(THOUGHTS).await.unwrap();
    fleet
        .owner("acme")
        .await
        .batch_execute(
            "CREATE FUNCTION takes() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
               FOR n IN 1..100 LOOP
                 BEGIN EXECUTE format('PREPARE s%s AS SELECT 1', n); EXCEPTION WHEN OTHERS THEN NULL; END;
               END LOOP; END $$;
             CREATE FUNCTION frees() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DEALLOCATE ALL; END $$;
             GRANT EXECUTE ON FUNCTION takes, frees TO anon",
        )
        .await
        .unwrap();
    for function in ["takes", "frees", "takes", "takes", "frees", "frees"] {
        let called = fleet.send(Method::POST, &format!("/acme/rpc/{function}"), None, "", "{}").await;
        assert_eq!(called.status, 204, "{function}: {}", called.text);
        for path in ["/acme/thoughts?select=id&id=eq.1", "/acme/thoughts?select=id,pinned&id=eq.1"] {
            assert_eq!(ids(&fleet, path, "").await[0]["id"], json!(1), "{function} {path}");
        }
    }
}

/// The commands around a request have names as well. PREPARE takes queries only, and their tags tell.
#[tokio::test]
async fn a_command_that_a_function_replaced_is_noticed() {
    let replaces = "CREATE FUNCTION replaces(prefix text) RETURNS int LANGUAGE plpgsql AS $$
         DECLARE name text; replaced int := 0;
         BEGIN
           FOR name IN SELECT p.name FROM pg_prepared_statements p WHERE statement LIKE prefix || '%' LOOP
             EXECUTE format('DEALLOCATE %I', name);
             EXECUTE format('PREPARE %I AS SELECT public.mark()', name);
             replaced := replaced + 1;
           END LOOP;
           RETURN replaced;
         END $$;
         GRANT EXECUTE ON FUNCTION replaces TO anon";
    let (fleet, _) = known_beside(&format!("{SWAP} {replaces}")).await;
    let both = json!([{ "id": 1 }, { "id": 2 }]);
    for prefix in ["BEGIN", "ROLLBACK", "COMMIT", "RESET ALL", "DISCARD TEMP", "SET SESSION"] {
        // So that every session has a name for each of them.
        for _ in 0..4 {
            assert_eq!(fleet.get("/acme/rpc/left_over").await.status, 200);
        }
        let body = json!({ "prefix": prefix }).to_string();
        let replaced = fleet.send(Method::POST, "/acme/rpc/replaces", None, "", &body).await;
        let is_noticed = replaced.status == 503 && replaced.code() == "MBX202";
        assert!(replaced.status == 200 || is_noticed, "{prefix}: {}", replaced.text);
        for _ in 0..4 {
            let read = fleet.get("/acme/thoughts?select=id&order=id").await;
            if read.status == 200 {
                assert_eq!(read.json(), both, "{prefix}");
            } else {
                assert_eq!((read.status.as_u16(), read.code().as_str()), (503, "MBX202"), "{prefix}");
            }
        }
        assert_eq!(
            fleet.get("/acme/thoughts?select=id&order=id").await.json(),
            both,
            "{prefix}: closed by now"
        );
    }
}
