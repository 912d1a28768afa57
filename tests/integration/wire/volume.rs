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
    GRANT SELECT, INSERT, UPDATE, DELETE ON bulk TO anon;
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

fn row(id: i32, size: usize) -> String {
    json!({ "id": id, "size": size }).to_string()
}

#[tokio::test]
async fn answers_within_the_limit_and_beyond() {
    let tested = Tested::new(NARROW, LARGE).await;
    let representation = "return=representation";
    for (method, read, path, prefer) in [
        (Method::GET, "read", "", ""),
        (Method::POST, "", "bulk", representation),
        (Method::POST, "", "rpc/grown", ""),
    ] {
        for size in [63, 65] {
            let (path, body) = match read {
                "" => (path.to_owned(), row(size, size as usize * MIB)),
                read => (format!("{read}{size}"), String::new()),
            };
            match tested.ask(method.clone(), &path, prefer, &body).await {
                Reply::Whole(200 | 201, text) if size == 63 => assert_eq!(text.len() / MIB, 63),
                reply => assert_eq!((reply.refused(), size), ((400, "MBX110".into()), 65), "{method} {path}"),
            }
            tested.clean().await;
        }
    }
    let lasting = "SELECT (SELECT string_agg(id::text, ',') FROM bulk), (SELECT max(id) FROM marks)";
    let lasting = tested.owner.query_one(lasting, &[]).await.unwrap();
    assert_eq!((lasting.get(0), lasting.get(1)), ("63", 63));
}

#[tokio::test]
async fn answers_beyond_a_small_limit() {
    let tested = Tested::new(&format!("{NARROW}max_answer = 100000"), LARGE).await;
    let representation = "return=representation";
    let fits = tested.ask(Method::POST, "bulk", representation, &row(1, 90_000)).await;
    assert_eq!(fits.status(), 201);
    let larger = r#"{"size":100000}"#.to_owned();
    for (method, path, prefer, body) in [
        (Method::GET, "read63?limit=1", "count=exact", String::new()),
        (Method::GET, "rpc/grown_rows?id=2&size=100000", "", String::new()),
        (Method::PATCH, "bulk?id=eq.1", representation, larger.clone()),
        (Method::DELETE, "bulk?id=gt.0&select=id,word,again:word", representation, String::new()),
        (Method::PUT, "bulk?id=eq.2", representation, row(2, 100_000)),
        (Method::POST, "rpc/grown_rows", "handling=strict, max-affected=1", row(2, 100_000)),
    ] {
        let reply = tested.ask(method.clone(), path, prefer, &body).await;
        let expected = if method == Method::GET && path.starts_with("rpc") { "25006" } else { "MBX110" };
        assert_eq!(reply.refused().1, expected, "{method} {path}");
        tested.clean().await;
    }
    let lasting = "SELECT string_agg(id || ' ' || size, ',') FROM bulk";
    assert_eq!(tested.owner.query_one(lasting, &[]).await.unwrap().get::<_, String>(0), "1 90000");
    assert_eq!(tested.made(2).await, 0);
}

/// Clients that ask and take nothing; two use up what the router holds of long answers.
async fn takers_of_nothing(tested: &Tested, client: &reqwest::Client, path: &str) -> Vec<Response> {
    let mut answers = Vec::new();
    for number in 0..2 {
        let request = match path {
            "/acme/rpc/grown" => client.post(tested.fleet.url(path)).body(row(number + 100, 60 * MIB)),
            path => client.get(tested.fleet.url(path)),
        };
        let answer = request.header("content-type", "application/json").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answers.push(answer);
    }
    answers
}

#[tokio::test]
async fn clients_that_take_nothing_keep_nothing_from_others() {
    let tested = Tested::new("", LARGE).await;
    let pools = &tested.fleet.app.as_ref().unwrap().pools;
    let one = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    // It opens no window.
    let two = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for (client, path) in [(&one, "/acme/read63"), (&two, "/acme/read63"), (&two, "/acme/rpc/grown")] {
        let untaken = takers_of_nothing(&tested, client, path).await;
        eventually("their backends are free", || async {
            pools.status().iter().all(|pool| pool.open == pool.idle)
        })
        .await;
        // Another's long answer comes whole.
        let read = tested.ask(Method::GET, "read63", "", "").await;
        assert_eq!(read.status(), 200, "{path}");
        tested.state().await.unwrap();
        drop(untaken);
        tested.owner.batch_execute("DELETE FROM marks WHERE id >= 100").await.unwrap();
    }
}
