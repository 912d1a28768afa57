//! A table that is altered while requests use it: no request fails for what manybox remembered of it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use reqwest::Method;

use crate::support::{TestFleet, eventually};

const TABLES: &str = "
    CREATE TABLE things (id int PRIMARY KEY, name text, size int);
    CREATE TABLE parts (id int PRIMARY KEY, thing_id int REFERENCES things, name text);
    GRANT SELECT, INSERT, UPDATE ON things, parts TO anon;
    INSERT INTO things VALUES (1, 'one', 1), (2, 'two', 2);
    INSERT INTO parts VALUES (1, 1, 'a'), (2, 1, 'b');";

/// Each leaves what the requests name as it was before, or makes it anew.
const CHANGES: [&str; 6] = [
    "ALTER TABLE things ALTER COLUMN size TYPE bigint",
    "ALTER TABLE things ADD COLUMN more text DEFAULT 'x'",
    "ALTER TABLE things DROP COLUMN more",
    "BEGIN; ALTER TABLE parts RENAME TO old; CREATE TABLE parts (id bigint PRIMARY KEY, thing_id int REFERENCES things, name text);
     INSERT INTO parts SELECT id, thing_id, name FROM old; GRANT SELECT ON parts TO anon; DROP TABLE old; COMMIT",
    "ALTER TABLE things ALTER COLUMN size TYPE text USING size::text",
    "ALTER TABLE things ALTER COLUMN size TYPE int USING size::int",
];

#[tokio::test]
async fn a_table_altered_under_load() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let owner = fleet.owner("acme").await;
    owner.batch_execute(TABLES).await.unwrap();
    let (done, served) = (AtomicBool::new(false), AtomicU32::new(0));
    let load = |path: &'static str, method: Method, body: &'static str| {
        let (fleet, done, served) = (&fleet, &done, &served);
        async move {
            while !done.load(Ordering::Relaxed) {
                let answer = fleet.send(method.clone(), path, None, "", body).await;
                assert!(answer.status.is_success(), "{method} {path}: {} {}", answer.status, answer.text);
                served.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let alter = async {
        for change in CHANGES.iter().cycle().take(12) {
            let before = served.load(Ordering::Relaxed);
            // Both plans and schema are in use again before the next change.
            eventually("requests go on", || async { served.load(Ordering::Relaxed) > before + 20 }).await;
            owner.batch_execute(change).await.unwrap();
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        alter,
        load("/acme/things?order=id", Method::GET, ""),
        load("/acme/things?select=*,parts(*)&size=gte.1", Method::GET, ""),
        load("/acme/things?select=name,size&id=eq.1", Method::GET, ""),
        load("/acme/parts?select=id,things!inner(name)", Method::GET, ""),
        load("/acme/things?id=eq.2", Method::PATCH, r#"{"name":"deux"}"#),
    );
    assert!(served.load(Ordering::Relaxed) > 200);
}

const FUNCTIONS: &str = "
    CREATE TYPE mood AS ENUM ('fine', 'grim');
    CREATE FUNCTION total() RETURNS text LANGUAGE plpgsql AS $$
        DECLARE r record; s numeric := 0;
        BEGIN FOR r IN SELECT * FROM things LOOP s := s + r.size; END LOOP; RETURN s; END $$;
    CREATE FUNCTION feels() RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE now mood; BEGIN now := 'fine'; RETURN now::text; END $$;
    CREATE FUNCTION named() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.name := 'size ' || NEW.size; RETURN NEW; END $$;
    CREATE TRIGGER named BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION named();
    GRANT EXECUTE ON FUNCTION total, feels TO anon;";

/// In a session that ran a function before, it would fail for as long as the session lasts.
#[tokio::test]
async fn functions_do_not_fail_for_what_their_sessions_remember() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let owner = fleet.owner("acme").await;
    owner.batch_execute(TABLES).await.unwrap();
    owner.batch_execute(FUNCTIONS).await.unwrap();
    let calls = || async {
        let (total, feels) = ("/acme/rpc/total", "/acme/rpc/feels");
        let answers = [
            fleet.send(Method::POST, total, None, "", "").await,
            fleet.send(Method::POST, feels, None, "", "").await,
            fleet.send(Method::PATCH, "/acme/things?id=eq.2", None, "", r#"{"name":"two"}"#).await,
        ];
        for answer in answers {
            assert!(answer.status.is_success(), "{} {}", answer.status, answer.text);
        }
    };
    // Several sessions, all of which know the functions.
    for _ in 0..5 {
        tokio::join!(calls(), calls(), calls());
    }
    for change in [
        "ALTER TABLE things ALTER COLUMN size TYPE float8",
        "BEGIN; DROP TYPE mood; CREATE TYPE mood AS ENUM ('grim', 'fine'); COMMIT",
        "ALTER TABLE things ALTER COLUMN size TYPE bigint",
    ] {
        // Sessions are renewed once a second at most.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        owner.batch_execute(change).await.unwrap();
        for _ in 0..3 {
            tokio::join!(calls(), calls(), calls());
        }
    }
}

#[tokio::test]
async fn a_function_that_asks_for_new_sessions_gets_few() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let raises = "CREATE FUNCTION raises() RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = 'XX000'; END $$;
        GRANT EXECUTE ON FUNCTION raises TO anon";
    fleet.owner("acme").await.batch_execute(raises).await.unwrap();
    let opened = || fleet.app.as_ref().unwrap().pools.servers()[0].connects;
    let (before, begun) = (opened(), std::time::Instant::now());
    for _ in 0..40 {
        let answer = fleet.send(Method::POST, "/acme/rpc/raises", None, "", "").await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (500, "XX000"));
    }
    let seconds = begun.elapsed().as_secs() + 1;
    assert!(opened() - before <= 3 + seconds, "{} in {seconds} s", opened() - before);
}

#[tokio::test]
async fn what_has_gone_is_named_and_what_came_is_found() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let owner = fleet.owner("acme").await;
    owner.batch_execute(TABLES).await.unwrap();
    assert_eq!(fleet.get("/acme/things?select=size").await.status, 200);
    owner
        .batch_execute("ALTER TABLE things RENAME COLUMN size TO width; ALTER TABLE parts RENAME TO pieces")
        .await
        .unwrap();
    let gone = fleet.get("/acme/things?select=size").await;
    assert_eq!((gone.status.as_u16(), gone.code().as_str()), (400, "42703"));
    eventually("the new name is found", || async {
        fleet.get("/acme/things?select=width,pieces(id)").await.status == 200
    })
    .await;
    eventually("the old name is not", || async {
        let answer = fleet.get("/acme/parts").await;
        (answer.status.as_u16(), answer.code().as_str()) == (404, "PGRST205")
    })
    .await;
}
