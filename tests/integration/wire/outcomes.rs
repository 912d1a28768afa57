//! What fails inside PostgreSQL: an error in each statement of a request, sessions that end themselves, names that change
//! hands.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::{NARROW, Reply, Tested};
use crate::support::eventually;

const FAMILY: &str = "
    CREATE TABLE parents (id int PRIMARY KEY);
    CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE closed (id int PRIMARY KEY);
    CREATE FUNCTION bear(id int) RETURNS SETOF int LANGUAGE sql AS
        $$ INSERT INTO children VALUES (id, 404) RETURNING id $$;
    CREATE FUNCTION many(id int) RETURNS SETOF marks LANGUAGE sql AS
        $$ INSERT INTO marks SELECT n, 'many' FROM generate_series(id, id + 2) n RETURNING * $$;
    CREATE FUNCTION litters() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('left.behind', 'yes', false), set_config('search_path', 'pg_temp', false),
            set_config('statement_timeout', '0', false), set_config('default_transaction_read_only', 'on', false),
            pg_advisory_lock(42), pg_advisory_lock_shared(43);
        LISTEN gossip;
        EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT 1';
        PERFORM set_config('role', 'service', false);
        RETURN true; END $$;
    CREATE FUNCTION litters_rows() RETURNS SETOF boolean LANGUAGE sql AS 'SELECT public.litters()';
    CREATE VIEW littering AS SELECT id, litters() AS done FROM marks;
    CREATE VIEW dividing AS SELECT id, litters() AND 1 / id > 0 AS done FROM marks;
    CREATE FUNCTION litters_and_fails() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        PERFORM litters(); RAISE EXCEPTION 'no luck'; END $$;
    CREATE FUNCTION litters_and_bears(id int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO children VALUES (id, 404); PERFORM litters(); END $$;
    GRANT SELECT, INSERT, UPDATE, DELETE ON children TO anon;
    GRANT SELECT ON littering, dividing TO anon;
    GRANT EXECUTE ON FUNCTION bear, many, litters, litters_rows, litters_and_fails, litters_and_bears TO anon;";

/// `Prefer: tx=rollback` is heard.
fn may_roll_back() -> String {
    format!("[defaults.api]\ndb_tx_end = 'commit-allow-override'\n{NARROW}")
}

#[tokio::test]
async fn an_error_in_each_statement() {
    let tested = Tested::new(&may_roll_back(), FAMILY).await;
    let backend = tested.clean().await;
    let object = "application/vnd.pgrst.object+json";
    let child = r#"{"id":1,"parent":404}"#;
    for (method, path, prefer, accept, body, expected) in [
        // The estimate, and the main query: when it is parsed, bound, run.
        (Method::GET, "closed", "count=planned", "", "", (401, "42501")),
        (Method::GET, "closed", "", "", "", (401, "42501")),
        (Method::GET, "marks?id=eq.none", "", "", "", (400, "22P02")),
        (Method::GET, "dividing", "", "", "", (400, "22012")),
        (Method::GET, "dividing", "count=exact", "", "", (400, "22012")),
        (Method::POST, "rpc/litters_and_fails", "", "", "{}", (400, "P0001")),
        (Method::POST, "marks", "", "", r#"{"id":0}"#, (409, "23505")),
        // What is found when a transaction ends.
        (Method::POST, "children", "", "", child, (409, "23503")),
        (Method::POST, "children", "return=representation", "", child, (409, "23503")),
        (Method::POST, "children", "tx=rollback", "", child, (409, "23503")),
        (Method::POST, "rpc/bear", "", "", r#"{"id":1}"#, (409, "23503")),
        (Method::POST, "rpc/litters_and_bears", "", "", r#"{"id":1}"#, (409, "23503")),
        // What is found in the outcome; the second of each when the transaction ends as well.
        (Method::POST, "rpc/many", "handling=strict, max-affected=2", "", r#"{"id":10}"#, (400, "PGRST124")),
        (Method::POST, "rpc/bear", "handling=strict, max-affected=1", "", r#"{"id":1}"#, (409, "23503")),
        (Method::POST, "rpc/many", "", object, r#"{"id":10}"#, (406, "PGRST116")),
        (Method::PUT, "marks?id=eq.11", "", "", r#"{"id":12}"#, (400, "PGRST115")),
        (Method::PUT, "children?id=eq.1", "return=representation", "", child, (409, "23503")),
        (Method::GET, "marks?id=eq.404", "", object, "", (406, "PGRST116")),
    ] {
        let mut request = tested.fleet.request(method.clone(), &format!("/acme/{path}")).body(body);
        for (name, value) in [("prefer", prefer), ("accept", accept), ("content-type", "application/json")] {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        let answer = crate::support::Answer::of(request.send().await.unwrap()).await;
        let found = (answer.status.as_u16(), answer.code());
        assert_eq!((found.0, found.1.as_str()), expected, "{method} {path} {prefer}: {}", answer.text);
        assert_eq!(tested.clean().await, backend, "{method} {path} {prefer}: reset, not replaced");
    }
    let kept = "SELECT (SELECT count(*) FROM marks) + (SELECT count(*) FROM children)";
    assert_eq!(tested.owner.query_one(kept, &[]).await.unwrap().get::<_, i64>(0), 1, "nothing lasts");
}

#[tokio::test]
async fn what_code_leaves_in_a_session_is_gone() {
    let tested = Tested::new(&may_roll_back(), FAMILY).await;
    let backend = tested.clean().await;
    for (method, path, prefer) in [
        (Method::GET, "littering", ""),
        (Method::GET, "littering", "count=planned"),
        (Method::GET, "rpc/litters", ""),
        (Method::POST, "rpc/litters", ""),
        (Method::POST, "rpc/litters", "tx=rollback"),
        (Method::POST, "rpc/litters_rows", "handling=strict, max-affected=1"),
    ] {
        let body = if method == Method::POST { "{}" } else { "" };
        let reply = tested.ask(method.clone(), path, prefer, body).await;
        assert!((200..300).contains(&reply.status()), "{method} {path} {prefer}: {reply:?}");
        assert_eq!(tested.clean().await, backend, "{method} {path} {prefer}");
    }
}

/// The function that runs before each request fails, or leaves what it can.
#[tokio::test]
async fn an_error_before_the_main_query() {
    let before = "CREATE FUNCTION before() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            IF current_setting('request.headers')::json ->> 'x-fail' IS NOT NULL THEN
                PERFORM litters_and_fails();
            ELSIF current_setting('request.headers')::json ->> 'x-litter' IS NOT NULL THEN
                PERFORM litters(); PERFORM set_config('role', 'anon', true);
            END IF; END $$;
        GRANT EXECUTE ON FUNCTION before TO anon;";
    let toml = format!("[defaults.api]\ndb_pre_request = 'public.before'\n{NARROW}");
    let tested = Tested::new(&toml, &format!("{FAMILY} {before}")).await;
    let backend = tested.clean().await;
    for (method, path, body) in [
        (Method::GET, "marks?id=eq.0", ""),
        (Method::HEAD, "marks?id=eq.0", ""),
        (Method::GET, "", ""),
        (Method::POST, "rpc/make", r#"{"id":1}"#),
        (Method::PUT, "marks?id=eq.1", r#"{"id":1}"#),
    ] {
        for header in ["x-fail", "x-litter"] {
            let request = tested.fleet.request(method.clone(), &format!("/acme/{path}")).header(header, "1");
            let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
            let status = answer.status().as_u16();
            assert_eq!(status == 400, header == "x-fail", "{method} {path} {header}: {status}");
            assert_eq!(tested.clean().await, backend, "{method} {path} {header}");
        }
    }
}

const TIMED_OUT: &str =
    r#"{"code":"57014","details":null,"hint":null,"message":"canceling statement due to statement timeout"}"#;

#[tokio::test]
async fn an_answer_is_not_taken_back_by_what_comes_after_commit() {
    // By the time that all these locks are let go of, the time that the function left is over.
    let slow = "CREATE FUNCTION hurried(id int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO marks VALUES (id, 'hurried');
            PERFORM pg_advisory_lock(n) FROM generate_series(1, 8000) n;
            PERFORM set_config('statement_timeout', '1', false);
            RETURN id; END $$;
        CREATE FUNCTION hurried_rows(id int) RETURNS SETOF int LANGUAGE sql AS 'SELECT public.hurried(id)';
        GRANT EXECUTE ON FUNCTION hurried, hurried_rows TO anon;";
    let tested = Tested::new(&may_roll_back(), slow).await;
    for (id, function, prefer) in [
        (1, "hurried", ""),
        (2, "hurried_rows", "handling=strict, max-affected=1"),
        (3, "hurried", "tx=rollback"),
    ] {
        let body = json!({ "id": id }).to_string();
        let reply = tested.ask(Method::POST, &format!("rpc/{function}"), prefer, &body).await;
        let made = tested.made(id).await;
        // What stands before COMMIT, or COMMIT itself, may have run out of time.
        let expected = match (made, prefer) {
            (0, _) if reply.status() == 504 => Reply::Whole(504, TIMED_OUT.into()),
            (1, "") | (0, "tx=rollback") => Reply::Whole(200, id.to_string()),
            _ => Reply::Whole(200, format!("[{id}]")),
        };
        assert_eq!(reply, expected, "{prefer}: {made} made");
        tested.clean().await;
    }
}

const OUT_OF_ROLE: &str = "PERFORM set_config('role', 'none', true);";

#[tokio::test]
async fn a_session_that_ends_itself() {
    let functions = format!(
        "CREATE FUNCTION ends(id int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO marks VALUES (id, 'ends'); {OUT_OF_ROLE}
            PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); END $$;
        CREATE FUNCTION ends_rows(id int) RETURNS SETOF int LANGUAGE sql AS 'SELECT public.ends(id)::text::int';
        CREATE FUNCTION cancels(id int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO marks VALUES (id, 'ends'); {OUT_OF_ROLE}
            PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(1); END $$;
        CREATE FUNCTION leaves() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN {OUT_OF_ROLE}
            PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); RETURN true; END $$;
        CREATE VIEW leaving AS SELECT leaves() FROM marks; GRANT SELECT ON leaving TO anon;
        GRANT EXECUTE ON FUNCTION ends, ends_rows, cancels, leaves TO anon;"
    );
    let tested = Tested::new(NARROW, &functions).await;
    let mut backend = tested.clean().await;
    for (prefer, function, expected) in [
        ("", "ends", (503, "57P01")),
        ("handling=strict, max-affected=1", "ends_rows", (503, "57P01")),
        ("", "cancels", (504, "57014")),
    ] {
        let reply = tested.ask(Method::POST, &format!("rpc/{function}"), prefer, r#"{"id":1}"#).await;
        assert_eq!(reply.refused(), (expected.0, expected.1.to_owned()), "{function} {prefer}");
        let next = tested.clean().await;
        assert_eq!(next == backend, function == "cancels");
        backend = next;
        assert_eq!(tested.made(1).await, 0);
    }
    assert_eq!(tested.ask(Method::GET, "leaving", "", "").await.refused(), (503, "57P01".into()));
    assert_ne!(tested.clean().await, backend);
    assert_eq!(
        tested.ask(Method::GET, "marks?select=id", "", "").await,
        Reply::Whole(200, "[{\"id\":0}]".into())
    );
}

#[tokio::test]
async fn a_session_ended_while_nobody_uses_it() {
    let tested = Tested::new(NARROW, "").await;
    let admin = tested.fleet.admin("acme").await;
    let mut backend = tested.clean().await;
    for id in 1..10 {
        let end = "SELECT pg_terminate_backend($1, 5000)";
        admin.execute(end, &[&i32::try_from(backend).unwrap()]).await.unwrap();
        let reply = tested.call("make", &json!({ "id": id }).to_string()).await;
        match reply {
            Reply::Whole(200, _) => assert_eq!(tested.made(id).await, 1),
            reply => assert!(reply.says_so(), "{reply:?}"),
        }
        backend = tested.clean().await;
    }
}

/// What a function may write for the login that it runs under counts for sessions to come, where it may not change what
/// requests see.
#[tokio::test]
async fn defaults_that_a_function_wrote_for_its_login() {
    let writes = format!(
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO anon;
        CREATE FUNCTION evil.same(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT true';
        CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.same);
        CREATE FUNCTION writes(name text, value text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN {OUT_OF_ROLE}
            EXECUTE format('ALTER ROLE %I SET %I = %L', session_user, name, value); END $$;
        GRANT EXECUTE ON FUNCTION writes TO anon;"
    );
    let tested = Tested::new(NARROW, &writes).await;
    for (name, value) in [
        ("role", "service"),
        ("search_path", "evil, pg_catalog"),
        ("statement_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("client_min_messages", "debug5"),
        ("client_encoding", "LATIN1"),
        ("application_name", "somebody"),
    ] {
        let body = json!({ "name": name, "value": value }).to_string();
        assert_eq!(tested.call("writes", &body).await.status(), 204, "{name}");
        tested.without_sessions().await;
        tested.clean().await;
    }
    for (name, value) in [
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("standard_conforming_strings", "off"),
        ("DateStyle", "SQL, DMY"),
        ("bytea_output", "escape"),
        ("row_security", "off"),
        ("extra_float_digits", "-15"),
    ] {
        let body = json!({ "name": name, "value": value }).to_string();
        assert_eq!(tested.call("writes", &body).await.status(), 204, "{name}");
    }
    tested.without_sessions().await;
    let (first, _) = tested.state().await.unwrap();
    assert_eq!(tested.call("make", r#"{"id":1}"#).await, Reply::Whole(200, "1".into()));
    let read = tested.ask(Method::GET, "marks?id=eq.1&select=id", "", "").await;
    assert_eq!(read, Reply::Whole(200, "[{\"id\":1}]".into()));
    assert_eq!(tested.state().await.unwrap().0, first, "these are its own, and nothing is added");
}

#[tokio::test]
async fn a_statement_that_takes_too_long() {
    let slow = "CREATE VIEW slow AS SELECT id, pg_sleep(5)::text AS slept FROM marks; GRANT SELECT ON slow TO anon;
        CREATE FUNCTION unlimited(id int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO marks VALUES (id, 'unlimited');
            PERFORM set_config('statement_timeout', '0', false), set_config('left.behind', 'yes', false);
            PERFORM pg_sleep(5); END $$;
        CREATE FUNCTION checks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(5); RETURN NULL; END $$;
        CREATE TABLE checked (id int PRIMARY KEY);
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON checked DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION checks();
        GRANT SELECT, INSERT ON checked TO anon;
        GRANT EXECUTE ON FUNCTION unlimited, checks TO anon;";
    let tested = Tested::new(&format!("{NARROW}statement_timeout = '200ms'"), slow).await;
    let backend = tested.clean().await;
    for (method, path, body) in [
        (Method::GET, "slow", ""),
        (Method::POST, "rpc/unlimited", r#"{"id":1}"#),
        (Method::POST, "checked", r#"{"id":1}"#),
    ] {
        let reply = tested.ask(method, path, "", body).await;
        assert_eq!(reply.refused(), (504, "57014".into()), "{path}");
        assert_eq!(tested.clean().await, backend, "{path}");
    }
    let none = "SELECT (SELECT count(*) FROM checked) + (SELECT count(*) FROM marks WHERE id = 1)";
    assert_eq!(tested.owner.query_one(none, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// A function of a tenant puts another text behind the names that its session's statements have.
#[tokio::test]
async fn statements_that_a_function_took_away_or_replaced() {
    const COLUMNS: &str = "1::int8, NULL::int8, NULL::text[], NULL::int4, NULL::text, NULL::text, true";
    let swaps = "CREATE FUNCTION swaps(called text, instead text) RETURNS int LANGUAGE plpgsql AS $$
        DECLARE found text; swapped int := 0; BEGIN
          FOR found IN SELECT p.name FROM pg_prepared_statements p WHERE statement LIKE called LOOP
            EXECUTE format('DEALLOCATE %I', found);
            IF instead <> '' THEN EXECUTE format('PREPARE %I AS %s', found, instead); END IF;
            swapped := swapped + 1;
          END LOOP; RETURN swapped; END $$;
        GRANT EXECUTE ON FUNCTION swaps TO anon;";
    let tested = Tested::new(NARROW, swaps).await;
    let (main, settings) = ("%\"make\"%", "SELECT pg_catalog.num_nulls%");
    let mut id = 0;
    for (called, instead) in [
        (main, String::new()),
        (settings, String::new()),
        // Fewer columns than there are, none, others, and more rows than one.
        (main, "SELECT 1".into()),
        (main, "SELECT".into()),
        (main, "SELECT 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight'".into()),
        (main, "SELECT 1::int8 WHERE false".into()),
        (main, format!("SELECT {COLUMNS}, repeat('x', 200000000), 1")),
        (main, format!("SELECT {COLUMNS}, repeat('x', 1000), 1 FROM generate_series(1, 100000)")),
        (main, "SELECT repeat('x', 200000000)".into()),
        (settings, "SELECT repeat('x', 200000000)".into()),
        (settings, "SELECT generate_series(1, 1000000)".into()),
        (settings, "SELECT 1 / 0".into()),
    ] {
        id += 1;
        let body = json!({ "id": id }).to_string();
        assert_eq!(tested.call("make", &body).await, Reply::Whole(200, id.to_string()));
        id += 1;
        let swap = json!({ "called": called, "instead": instead }).to_string();
        assert_eq!(tested.call("swaps", &swap).await, Reply::Whole(200, "1".into()), "{called} {instead}");
        let reply = tested.call("make", &json!({ "id": id }).to_string()).await;
        match &reply {
            Reply::Whole(200, text) if *text == id.to_string() => assert_eq!(tested.made(id).await, 1),
            // What was forged is an answer of its tenant's own, and it is bounded.
            Reply::Whole(200, text) => assert!(text.len() <= 1000, "{called} {instead:.60}"),
            reply => assert!(reply.status() >= 400, "{called} {instead:.60}: {reply:?}"),
        }
        // A session whose text was forged is its tenant's own to mend: nobody else ever has it.
        tested.without_sessions().await;
        tested.clean().await;
    }
}

#[tokio::test]
async fn a_request_that_two_transactions_keep_from_each_other_is_sent_again() {
    let tested = Tested::new("", "INSERT INTO marks VALUES (1, 'one'), (2, 'two')").await;
    tested.owner.batch_execute("BEGIN; UPDATE marks SET word = 'first' WHERE id = 2").await.unwrap();
    let asked = {
        let request = tested.fleet.request(Method::PATCH, "/acme/marks?id=gte.1&order=id");
        let request = request.header("content-type", "application/json").body(r#"{"word":"asked"}"#);
        tokio::spawn(request.send())
    };
    let admin = tested.fleet.admin("acme").await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    eventually("it waits", || async { admin.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0 })
        .await;
    // Whichever of the two gives way, both succeed or say so.
    let second = tested.owner.batch_execute("UPDATE marks SET word = 'second' WHERE id = 1; COMMIT").await;
    if second.is_err() {
        tested.owner.batch_execute("ROLLBACK").await.unwrap();
    }
    let answer = tokio::time::timeout(Duration::from_secs(10), asked).await.unwrap().unwrap().unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    assert_eq!(status, 204, "{text}");
    let words = "SELECT string_agg(word, ' ' ORDER BY id) FROM marks WHERE id > 0";
    assert_eq!(tested.owner.query_one(words, &[]).await.unwrap().get::<_, String>(0), "asked asked");
}
