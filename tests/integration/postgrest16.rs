//! What PostgREST 16 answers and 14 did not: time zones by PostgreSQL, `Vary`, `Warning`, shorter errors.

use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, TestFleet, eventually};

/// An artist with two albums, each with a place in the charts.
const MUSIC: &str = "
    CREATE TABLE artists (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE albums (id int PRIMARY KEY, artist int NOT NULL REFERENCES artists, title text NOT NULL, rank int);
    INSERT INTO artists VALUES (1, 'Ann');
    INSERT INTO albums VALUES (1, 1, 'Blue', 2), (2, 1, 'Red', 1);
    CREATE VIEW now_at_noon WITH (security_invoker = true) AS SELECT timestamptz '2026-01-01 12:00+00' AS t;
    GRANT SELECT ON artists, albums, now_at_noon TO anon, service;
    CREATE FUNCTION own_vary() RETURNS void LANGUAGE sql VOLATILE AS
        $$ SELECT set_config('response.headers', '[{\"Vary\": \"X-Own\"}]', true) $$;
    GRANT EXECUTE ON FUNCTION own_vary TO anon;";

async fn music(settings: &[&str]) -> TestFleet {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    fleet.owner("acme").await.batch_execute(MUSIC).await.unwrap();
    if !settings.is_empty() {
        let (code, _, err) = fleet.run(&[&["tenant", "set", "acme"], settings].concat()).await;
        assert_eq!(code, 0, "{err}");
    }
    let (code, _, err) = fleet.run(&["tenant", "reload", "acme"]).await;
    assert_eq!(code, 0, "{err}");
    eventually("the router knows the tables", || async { fleet.get("/acme/artists").await.status == 200 })
        .await;
    fleet
}

async fn at_noon(fleet: &TestFleet, prefer: &str) -> Answer {
    let request = fleet.request(Method::GET, "/acme/now_at_noon").header("Prefer", prefer);
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn postgresql_knows_which_time_zones_there_are() {
    let fleet = music(&[]).await;
    for (zone, time) in [
        ("America/Los_Angeles", "2026-01-01T04:00:00-08:00"),
        ("america/los_angeles", "2026-01-01T04:00:00-08:00"),
        ("-4", "2026-01-01T08:00:00-04:00"),
        // PostgreSQL reads a time as POSIX does: west of Greenwich.
        ("+05:30", "2026-01-01T06:30:00-05:30"),
    ] {
        for handling in ["", "handling=strict, ", "handling=lenient, "] {
            let answer = at_noon(&fleet, &format!("{handling}timezone={zone}")).await;
            assert_eq!((answer.status.as_u16(), answer.json()), (200, json!([{ "t": time }])), "{zone}");
            assert_eq!(answer.headers["preference-applied"], format!("{handling}timezone={zone}"));
        }
    }
    for zone in ["Mars/Olympus", "", "05:30:15", "'; DROP TABLE artists; --"] {
        for handling in ["", "handling=strict, ", "handling=lenient, "] {
            let answer = at_noon(&fleet, &format!("{handling}timezone={zone}")).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "22023"), "{zone}");
        }
    }
    // The next request has the session's own again.
    assert_eq!(fleet.get("/acme/now_at_noon").await.json(), json!([{ "t": "2026-01-01T12:00:00+00:00" }]));
}

/// The server keeps what it knows of each zone for as long as the session lives.
#[tokio::test]
async fn a_session_that_has_seen_many_time_zones_is_replaced() {
    let narrow = "[tiers.standard]\nmax_connections = 1\nacquire_timeout = '10s'";
    let fleet = TestFleet::builder().toml(narrow).tenants(&["acme"]).serve().await;
    let backend = async |zone: &str| {
        let request =
            fleet.request(Method::GET, "/acme/rpc/seen").header("Prefer", format!("timezone={zone}"));
        Answer::of(request.send().await.unwrap()).await.json()["backend"].clone()
    };
    let first = backend("X0").await;
    assert_eq!(first, backend("X1").await);
    for number in 2..200 {
        backend(&format!("X{}Y{number}", number % 24)).await;
    }
    assert_ne!(first, backend("UTC").await);
}

#[tokio::test]
async fn an_answer_says_what_it_depends_on() {
    let fleet = music(&[]).await;
    for path in ["/acme", "/acme/artists", "/acme/rpc/add?a=1"] {
        assert_eq!(fleet.get(path).await.headers["vary"], "Accept, Prefer, Range", "{path}");
    }
    let answer = fleet.send(Method::POST, "/acme/rpc/own_vary", None, "", "{}").await;
    assert_eq!((answer.status.as_u16(), answer.headers["vary"].as_str()), (204, "X-Own"), "{}", answer.text);
}

const BY_TARGET: &str = "/acme/artists?select=name,records:albums(title)&albums.order=rank&albums.limit=1";

#[tokio::test]
async fn an_embed_named_by_its_target_although_it_has_an_alias_is_warned_of() {
    let fleet = music(&[]).await;
    let answer = fleet.get(BY_TARGET).await;
    assert_eq!(answer.json(), json!([{ "name": "Ann", "records": [{ "title": "Red" }] }]));
    let warning = &answer.headers["warning"];
    assert!(
        warning.starts_with("299 PostgRESTv16") && warning.contains("`albums` to `records`"),
        "{warning}"
    );
    let by_alias = fleet.get(&BY_TARGET.replace("&albums.", "&records.")).await;
    assert_eq!(by_alias.json(), answer.json());
    assert!(!by_alias.headers.contains_key("warning"));
    // Names come from the URL: what no header can hold is left out.
    let odd = BY_TARGET.replace("records", "%22r%0d%0aSet-Cookie:%20a=b%22");
    let answer = fleet.get(&odd).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(
        answer.headers["warning"].contains("its name to the alias")
            && !answer.headers.contains_key("set-cookie")
    );
    let long = BY_TARGET.replace("records", &"r".repeat(3000));
    assert!(fleet.get(&long).await.headers["warning"].contains("its name to the alias"));
}

#[tokio::test]
async fn an_embed_named_by_its_target_is_refused_where_that_is_switched_off() {
    let fleet = music(&["url_use_legacy_target_names=false"]).await;
    let answer = fleet.get(BY_TARGET).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()),
        (
            400,
            json!({
                "code": "PGRST108",
                "message": "'albums' is not an embedded resource in this request",
                "details": "Target names are not allowed in filters if they have an alias",
                "hint": "Change 'albums' to 'records' in filters, orders or limits.",
            })
        )
    );
    // The same table twice: each name means one of them.
    let twice = "/acme/artists?select=albums(title),first:albums(title)&albums.rank=eq.2&first.rank=eq.1";
    assert_eq!(
        fleet.get(twice).await.json(),
        json!([{ "albums": [{ "title": "Blue" }], "first": [{ "title": "Red" }] }])
    );
}

#[tokio::test]
async fn errors_can_be_short() {
    let fleet = music(&["client_error_verbosity=minimal"]).await;
    for (path, code) in
        [("/acme/artist", "PGRST205"), ("/acme/artists?id=eq.x", "22P02"), ("/acme/rpc/fails", "P0001")]
    {
        let answer = fleet.get(path).await;
        assert_eq!(answer.code(), code);
        let keys: Vec<_> = answer.json().as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["code", "message"], "{path}");
    }
}

#[tokio::test]
async fn an_upsert_of_nothing_made_nothing() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let token = fleet.token("acme", json!({ "role": "service" })).await;
    for (prefer, status) in
        [("resolution=merge-duplicates", 200), ("resolution=ignore-duplicates", 201), ("return=minimal", 201)]
    {
        let request = fleet.request(Method::POST, "/acme/notes").header("Prefer", prefer).bearer_auth(&token);
        let answer = Answer::of(request.json(&json!([])).send().await.unwrap()).await;
        assert_eq!(answer.status, status, "{prefer}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_serialization_failure_is_not_tried_again() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    // A sequence keeps what a transaction that failed has taken.
    fleet
        .owner("acme")
        .await
        .batch_execute(
            "CREATE SEQUENCE tries; GRANT USAGE ON SEQUENCE tries TO anon;
             CREATE FUNCTION loses() RETURNS void LANGUAGE plpgsql VOLATILE AS $$ BEGIN
                 PERFORM nextval('public.tries');
                 RAISE EXCEPTION 'lost' USING ERRCODE = 'serialization_failure';
             END $$;
             GRANT EXECUTE ON FUNCTION loses TO anon",
        )
        .await
        .unwrap();
    let answer = fleet.send(Method::POST, "/acme/rpc/loses", None, "", "{}").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (500, "40001"), "{}", answer.text);
    let tries: i64 =
        fleet.owner("acme").await.query_one("SELECT last_value FROM tries", &[]).await.unwrap().get(0);
    assert_eq!(tries, 1);
}
