//! REST: what clients of PostgREST send, and what they get.

use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, TestFleet, eventually};

/// A fleet with three items, and a token of role `service`.
async fn shop() -> (TestFleet, String) {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let token = fleet.token("acme", json!({ "role": "service", "sub": "ann" })).await;
    let rows = r#"[{"id":1,"name":"nail","price":0.10},{"id":2,"name":"hammer","price":12.50},{"id":3,"name":"saw","price":20}]"#;
    let answer = fleet.send(Method::POST, "/acme/items", Some(&token), "", rows).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (201, ""));
    (fleet, token)
}

#[tokio::test]
async fn reads() {
    let (fleet, _) = shop().await;
    for (query, expected) in [
        ("select=id&order=id", json!([{ "id": 1 }, { "id": 2 }, { "id": 3 }])),
        ("select=called:name&id=eq.1", json!([{ "called": "nail" }])),
        ("select=id::text&id=eq.1", json!([{ "id": "1" }])),
        ("select=id&id=neq.1&order=id.desc", json!([{ "id": 3 }, { "id": 2 }])),
        ("select=id&price=gt.12&price=lte.20&order=id", json!([{ "id": 2 }, { "id": 3 }])),
        ("select=id&name=like.*a*&order=name.desc", json!([{ "id": 3 }, { "id": 1 }, { "id": 2 }])),
        ("select=id&name=ilike.NAIL", json!([{ "id": 1 }])),
        ("select=id&name=in.(nail,\"saw\")&order=id", json!([{ "id": 1 }, { "id": 3 }])),
        ("select=id&name=not.in.(nail,saw)", json!([{ "id": 2 }])),
        ("select=id&made=is.null&order=id&limit=1&offset=1", json!([{ "id": 2 }])),
        ("select=id&made=not.is.null", json!([])),
    ] {
        let answer = fleet.get(&format!("/acme/items?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        assert_eq!(answer.json(), expected, "{query}");
    }
    assert_eq!(fleet.get("/acme/cheap?select=name").await.json(), json!([{ "name": "nail" }]));
    let head = Answer::of(fleet.request(Method::HEAD, "/acme/items").send().await.unwrap()).await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
}

#[tokio::test]
async fn counts_and_ranges() {
    let (fleet, _) = shop().await;
    let counted =
        fleet.request(Method::GET, "/acme/items?select=id&order=id&limit=2").header("Prefer", "count=exact");
    let counted = Answer::of(counted.send().await.unwrap()).await;
    assert_eq!((counted.status.as_u16(), counted.headers["content-range"].as_str()), (206, "0-1/3"));
    let ranged = fleet.request(Method::GET, "/acme/items?select=id&order=id").header("Range", "1-1");
    let ranged = Answer::of(ranged.send().await.unwrap()).await;
    assert_eq!(ranged.json(), json!([{ "id": 2 }]));
    assert_eq!(ranged.headers["content-range"], "1-1/*");
    let beyond = fleet.request(Method::GET, "/acme/items?offset=9").header("Prefer", "count=exact");
    let beyond = Answer::of(beyond.send().await.unwrap()).await;
    assert_eq!((beyond.status.as_u16(), beyond.code().as_str()), (416, "PGRST103"));
}

#[tokio::test]
async fn writes() {
    let (fleet, token) = shop().await;
    let one = fleet
        .send(
            Method::POST,
            "/acme/items?select=id,name",
            Some(&token),
            "return=representation",
            r#"{"id":4,"name":"axe"}"#,
        )
        .await;
    assert_eq!((one.status.as_u16(), one.json()), (201, json!([{ "id": 4, "name": "axe" }])));
    let changed = fleet
        .send(
            Method::PATCH,
            "/acme/items?id=eq.4&select=name,price",
            Some(&token),
            "return=representation",
            r#"{"price":7}"#,
        )
        .await;
    assert_eq!((changed.status.as_u16(), changed.text.as_str()), (200, r#"[{"name":"axe","price":7.00}]"#));
    assert_eq!(
        fleet.send(Method::PATCH, "/acme/items?id=eq.4", Some(&token), "", r#"{"price":8}"#).await.status,
        204
    );
    assert_eq!(fleet.send(Method::DELETE, "/acme/items?id=eq.4", Some(&token), "", "").await.status, 204);
    assert_eq!(fleet.get("/acme/items?id=eq.4").await.json(), json!([]));
    // A text that is SQL is a text.
    let nasty = r#"{"id":9,"name":"'; DROP TABLE items; --"}"#;
    assert_eq!(fleet.send(Method::POST, "/acme/items", Some(&token), "", nasty).await.status, 201);
    let found = fleet.get("/acme/items?select=price&name=eq.'; DROP TABLE items; --").await;
    assert_eq!(found.text, r#"[{"price":0.00}]"#);
}

#[tokio::test]
async fn errors_have_postgrests_shape() {
    let (fleet, token) = shop().await;
    let post = |body: &'static str| fleet.send(Method::POST, "/acme/items", Some(&token), "", body);
    for (answer, status, code) in [
        (post(r#"{"name":"nail"}"#).await, 409, "23505"),
        (post(r#"{"name":"x","price":-1}"#).await, 400, "23514"),
        (post(r#"{"name":"x","price":"dear"}"#).await, 400, "22P02"),
        (post(r#"{"nome":"x"}"#).await, 400, "PGRST204"),
        (post("{").await, 400, "PGRST102"),
        (fleet.get("/acme/items?nome=eq.x").await, 400, "42703"),
        (fleet.get("/acme/items?id=about.1").await, 400, "PGRST100"),
        (fleet.get("/acme/items?id=eq.x").await, 400, "22P02"),
        (fleet.send(Method::POST, "/acme/items", None, "", r#"{"name":"x"}"#).await, 401, "42501"),
        (fleet.send(Method::POST, "/acme/rpc/nothing", None, "", "{}").await, 404, "PGRST202"),
        (fleet.send(Method::POST, "/acme/rpc/fails", None, "", "{}").await, 400, "P0001"),
        (fleet.get("/acme/a/b").await, 404, "PGRST125"),
    ] {
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{}", answer.text);
        let body = answer.json();
        for key in ["code", "message", "details", "hint"] {
            assert!(body.get(key).is_some(), "{key}: {body}");
        }
    }
    let failed = fleet.send(Method::POST, "/acme/rpc/fails", None, "", "{}").await.json();
    assert_eq!(
        failed,
        json!({ "code": "P0001", "message": "no luck", "details": "at all", "hint": "try again" })
    );
}

#[tokio::test]
async fn functions() {
    let (fleet, token) = shop().await;
    let call =
        |path: &'static str, body: &'static str| fleet.send(Method::POST, path, Some(&token), "", body);
    assert_eq!(call("/acme/rpc/add", r#"{"a":1,"b":2}"#).await.json(), json!(3));
    assert_eq!(call("/acme/rpc/add", r#"{"a":1}"#).await.json(), json!(2));
    assert_eq!(call("/acme/rpc/add", r#"{"c":1}"#).await.code(), "PGRST202");
    assert_eq!(
        call("/acme/rpc/cheaper_than?select=id", r#"{"most":13}"#).await.json(),
        json!([{ "id": 1 }, { "id": 2 }])
    );
    let seen = call("/acme/rpc/seen", "{}").await.json();
    assert_eq!((seen["role"].as_str(), seen["method"].as_str()), (Some("service"), Some("POST")));
    assert!(seen["claims"].as_str().unwrap().contains("\"ann\""), "{seen}");
    assert!(seen["headers"].as_str().unwrap().contains("content-type"), "{seen}");
    assert_eq!(seen["path"], "/rpc/seen");
    assert_eq!(seen["session"], fleet.row("acme").await.record.id.database());
}

#[tokio::test]
async fn ddl_behind_our_back_is_noticed() {
    let (fleet, token) = shop().await;
    assert_eq!(fleet.get("/acme/items?select=id&limit=1").await.status, 200);
    let owner = fleet.owner("acme").await;
    owner.batch_execute("ALTER TABLE public.items RENAME COLUMN name TO title").await.unwrap();
    let renamed = fleet.get("/acme/items?select=title&id=eq.1").await;
    assert_eq!((renamed.status.as_u16(), renamed.text.as_str()), (200, r#"[{"title":"nail"}]"#));
    owner.batch_execute("ALTER TABLE public.items ALTER COLUMN made TYPE text").await.unwrap();
    let retyped = fleet.get("/acme/items?select=made&made=is.null&id=eq.1").await;
    assert_eq!((retyped.status.as_u16(), retyped.text.as_str()), (200, r#"[{"made":null}]"#));
    // What no SQL was made from shows only when the schema is read again, at most once a second.
    eventually("the new column can be written", || async {
        let body = r#"{"id":7,"title":"x","made":"yesterday, I think"}"#;
        fleet.send(Method::POST, "/acme/items", Some(&token), "", body).await.status == 201
    })
    .await;
}

#[tokio::test]
async fn the_body_limit_of_the_tier_holds() {
    let fleet =
        TestFleet::builder().toml("[tiers.standard]\nmax_body = 100").tenants(&["acme"]).serve().await;
    let answer = fleet.send(Method::POST, "/acme/items", None, "", &"x".repeat(101)).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "MBX105"));
}
