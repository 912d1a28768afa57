//! Too much: notices, notifications, errors and answers of a size that nobody wants, and clients that take nothing.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::json;

use super::{NARROW, Reply, Tested};
use crate::support::eventually;

const MIB: usize = 1024 * 1024;

const LARGE: &str = "
    CREATE TABLE bulk (id int PRIMARY KEY, size int, word text);
    CREATE FUNCTION filled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        NEW.word := repeat('x', NEW.size); RETURN NEW; END $$;
    ALTER TABLE bulk ALTER word SET STORAGE EXTERNAL;
    CREATE TRIGGER filled BEFORE INSERT OR UPDATE ON bulk FOR EACH ROW EXECUTE FUNCTION filled();
    CREATE VIEW read63 AS SELECT repeat('x', 63 * 1024 * 1024) AS word;
    CREATE VIEW read65 AS SELECT repeat('x', 65 * 1024 * 1024) AS word;
    CREATE FUNCTION grown(id int, size int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO marks VALUES (id, 'grown'); RETURN repeat('x', size); END $$;
    CREATE FUNCTION grown_rows(id int, size int) RETURNS SETOF text LANGUAGE sql AS 'SELECT public.grown(id, size)';
    CREATE FUNCTION loud(size int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('client_min_messages', 'debug1', false); RAISE NOTICE '%', repeat('x', size);
        RETURN true; END $$;
    CREATE VIEW shouting AS SELECT id, loud(1000000) FROM marks;
    CREATE FUNCTION raises(size int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION '%', repeat('x', size) USING DETAIL = repeat('y', size), HINT = repeat('z', size); END $$;
    CREATE FUNCTION chooses(size int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('response.headers', repeat('x', size), false); END $$;
    CREATE FUNCTION listens() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        LISTEN gossip;
        PERFORM pg_notify('gossip', n || repeat('x', 7000)) FROM generate_series(1, 1000) n; END $$;
    GRANT SELECT, INSERT, UPDATE ON bulk TO anon;
    GRANT SELECT ON read63, read65, shouting TO anon;
    GRANT EXECUTE ON FUNCTION filled, grown, grown_rows, loud, raises, chooses, listens TO anon;";

#[tokio::test]
async fn notices_that_nobody_asked_for() {
    let tested = Tested::new(NARROW, LARGE).await;
    let backend = tested.clean().await;
    assert_eq!(tested.call("loud", r#"{"size":50000000}"#).await, Reply::Whole(200, "true".into()));
    assert_eq!(tested.clean().await, backend);
    let shouting = tested.ask(Method::GET, "shouting", "", "").await;
    assert_eq!(shouting, Reply::Whole(200, r#"[{"id":0,"loud":true}]"#.into()));
    assert_eq!(tested.clean().await, backend);
    // What it listened to was over with its transaction.
    assert_eq!(tested.call("listens", "{}").await.status(), 204);
    let notify = "SELECT pg_notify('gossip', n || repeat('y', 7000)) FROM generate_series(1, 1000) n";
    tested.owner.query(notify, &[]).await.unwrap();
    assert_eq!(tested.clean().await, backend);
}

/// A session that listens while nobody uses it, as no request leaves one: it is closed before it holds much.
#[tokio::test]
async fn notifications_for_a_session_that_is_idle() {
    let tested = Tested::new(NARROW, LARGE).await;
    let backend = tested.clean().await;
    let pools = tested.fleet.app.as_ref().unwrap().pools.clone();
    for (count, stays) in [(10, true), (1000, false)] {
        let mut checkout = pools.checkout(&tested.tenant).await.unwrap();
        checkout.wire().run("LISTEN gossip").await.unwrap();
        checkout.clean();
        let notify =
            format!("SELECT pg_notify('gossip', n || repeat('y', 7000)) FROM generate_series(1, {count}) n");
        tested.owner.query(&notify, &[]).await.unwrap();
        // Until the last of them is in the socket.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (_, now) = tested.state().await.unwrap();
        assert_eq!(now == backend, stays, "{count}");
    }
}

#[tokio::test]
async fn errors_as_long_as_a_book() {
    let tested = Tested::new(NARROW, LARGE).await;
    let backend = tested.clean().await;
    for size in [1000, 300_000, 5 * MIB] {
        let body = json!({ "size": size }).to_string();
        let reply = tested.call("raises", &body).await;
        assert_eq!(reply.refused(), (400, "P0001".into()), "{size}");
        let Reply::Whole(_, text) = reply else { unreachable!() };
        assert!(text.len() < 2 * MIB, "{size}: {}", text.len());
        assert_eq!(tested.clean().await, backend, "{size}");
    }
    for size in [100_000, 2 * MIB] {
        let reply = tested.call("chooses", &json!({ "size": size }).to_string()).await;
        assert_eq!(reply.status(), 500, "{size}: {reply:?}");
        tested.clean().await;
    }
}

#[tokio::test]
async fn answers_within_the_limit_and_beyond() {
    let tested = Tested::new(NARROW, LARGE).await;
    let length = |reply: &Reply| match reply {
        Reply::Whole(200 | 201, text) => text.len() / MIB,
        reply => panic!("{:?}", reply.refused()),
    };
    let row = |id: i32, size: usize| json!({ "id": id, "size": size * MIB }).to_string();
    let representation = "return=representation";
    assert_eq!(length(&tested.ask(Method::GET, "read63", "", "").await), 63);
    assert_eq!(length(&tested.ask(Method::POST, "bulk", representation, &row(63, 63)).await), 63);
    assert_eq!(length(&tested.call("grown", &row(63, 63)).await), 63);
    let too_long = (400, "MBX110".to_owned());
    let judged = "handling=strict, max-affected=1";
    for (method, path, prefer, body) in [
        (Method::GET, "read65", "", String::new()),
        (Method::GET, "read65", "count=exact", String::new()),
        (Method::POST, "bulk", representation, row(65, 65)),
        (Method::PATCH, "bulk?id=eq.63", representation, json!({ "size": 65 * MIB }).to_string()),
        (Method::POST, "rpc/grown", "", row(65, 65)),
        (Method::POST, "rpc/grown_rows", judged, row(65, 65)),
    ] {
        let reply = tested.ask(method.clone(), path, prefer, &body).await;
        assert_eq!(reply.refused(), too_long, "{method} {path}");
        tested.clean().await;
    }
    let lasting = "SELECT (SELECT string_agg(id || ' ' || size, ',') FROM bulk), (SELECT max(id) FROM marks)";
    let lasting = tested.owner.query_one(lasting, &[]).await.unwrap();
    assert_eq!(lasting.get::<_, String>(0), format!("63 {}", 63 * MIB));
    assert_eq!(lasting.get::<_, i32>(1), 63);
}

/// Clients that ask and take nothing: as many as would use up what the router holds of long answers.
async fn takers_of_nothing(
    tested: &Tested,
    client: &reqwest::Client,
    path: &str,
    body: &str,
) -> Vec<Response> {
    let mut answers = Vec::new();
    for number in 0..6 {
        let request = match body {
            "" => client.get(tested.fleet.url(path)),
            body => client.post(tested.fleet.url(path)).body(body.replace("ID", &(number + 100).to_string())),
        };
        let answer = request.header("content-type", "application/json").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answers.push(answer);
    }
    answers
}

async fn others_are_served(client: reqwest::Client) {
    let tested = Tested::new("", LARGE).await;
    let pools = &tested.fleet.app.as_ref().unwrap().pools;
    let idle = || async { pools.status().iter().all(|pool| pool.open == pool.idle) };
    let grown = format!("{{\"id\":ID,\"size\":{}}}", 60 * MIB);
    for (path, body) in [("/acme/read63", ""), ("/acme/rpc/grown", grown.as_str())] {
        let untaken = takers_of_nothing(&tested, &client, path, body).await;
        eventually("their backends are free", idle).await;
        // Another's long answer comes whole, and at once.
        let read =
            tokio::time::timeout(Duration::from_secs(4), tested.ask(Method::GET, "read63", "", "")).await;
        assert_eq!(read.expect("nobody waits for clients that sleep").status(), 200);
        tested.state().await.unwrap();
        drop(untaken);
    }
}

#[tokio::test]
async fn clients_that_never_read_keep_nothing_from_others() {
    others_are_served(reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap()).await;
}

#[tokio::test]
async fn clients_that_open_no_window_keep_nothing_from_others() {
    others_are_served(reqwest::Client::builder().http2_prior_knowledge().build().unwrap()).await;
}
