//! SQL in every place where a request has a name or a value: it stays a name or a value.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Findings, two_tenants};
use crate::support::{Answer, TestFleet};

const TABLES: &str = r#"
    CREATE TABLE docs (id int PRIMARY KEY, data jsonb, body text);
    CREATE TABLE parents (id int PRIMARY KEY, label text);
    CREATE TABLE kids (id int PRIMARY KEY, parent_id int REFERENCES parents);
    CREATE TABLE "o""d'd $1" (id int, "na""m'e $1" text);
    INSERT INTO docs VALUES (1, '{"a": 1}', 'body');
    INSERT INTO "o""d'd $1" VALUES (1, 'odd');
    CREATE FUNCTION echo(v text) RETURNS text LANGUAGE sql STABLE AS 'SELECT v';
    CREATE FUNCTION whole(json) RETURNS json LANGUAGE sql STABLE AS 'SELECT $1';
    GRANT SELECT, INSERT, UPDATE, DELETE ON docs, parents, kids, "o""d'd $1" TO service;
    GRANT EXECUTE ON FUNCTION echo, whole TO service;"#;

const PAYLOADS: &[&str] = &[
    "'; DROP TABLE items; --",
    "\"; DROP TABLE items; --",
    "')); DROP TABLE items; --",
    "\\'; DROP TABLE items; --",
    "$1",
    "$$; DROP TABLE items; $$",
    "name FROM items; DROP TABLE items; --",
    "'||(SELECT word FROM secrets)||'",
    "(SELECT word FROM secrets)",
    "\") UNION SELECT word FROM secrets --",
    "/* */ UNION SELECT word FROM secrets",
    "E'\\x27",
    "U&\"\\0027\"",
    "id\u{2019}\u{ff07}; DROP TABLE items",
    "{\"a\":\"'\"}",
];

/// A place: the payload stands for `{}`, percent-encoded in a path, as it is in a header, as JSON in a body.
struct Place {
    name: &'static str,
    method: Method,
    path: &'static str,
    header: Option<(&'static str, &'static str)>,
    body: &'static str,
}

fn read(name: &'static str, path: &'static str) -> Place {
    Place { name, method: Method::GET, path, header: None, body: "" }
}

fn header(name: &'static str, header: &'static str, value: &'static str) -> Place {
    Place { name, method: Method::GET, path: "items", header: Some((header, value)), body: "" }
}

fn change(name: &'static str, method: Method, path: &'static str, body: &'static str) -> Place {
    Place { name, method, path, header: None, body }
}

fn places() -> Vec<Place> {
    let csv = Some(("Content-Type", "text/csv"));
    vec![
        read("a relation", "{}"),
        read("a relation, quoted", "%22{}%22"),
        read("a selected column", "items?select={}"),
        read("a quoted column", "items?select=%22{}%22"),
        read("an alias", "items?select={}:name"),
        read("a cast", "items?select=name::{}"),
        read("a JSON key", "docs?select=data->{}"),
        read("a JSON key as text", "docs?select=data->>{}"),
        read("a quoted JSON key", "docs?select=data->%22{}%22"),
        read("an aggregate", "items?select=price.{}()"),
        read("an aggregate's cast", "items?select=price.sum()::{}"),
        read("an embedded relation", "parents?select=*,{}(*)"),
        read("a hint to an embed", "parents?select=*,kids!{}(*)"),
        read("an embed's column", "parents?select=*,kids({})"),
        read("an embed's alias", "parents?select=*,{}:kids(*)"),
        read("a spread", "kids?select=*,...{}(*)"),
        read("a filtered column", "items?{}=eq.1"),
        read("a filtered JSON key", "docs?data->>{}=eq.1"),
        read("a filter of an embed", "parents?select=*,kids(*)&kids.{}=eq.1"),
        read("an operator", "items?name={}.1"),
        read("a negated operator", "items?name=not.{}.1"),
        read("a modifier", "items?name=eq({}).1"),
        read("eq", "items?name=eq.{}"),
        read("like", "items?name=like.{}"),
        read("match", "items?name=match.{}"),
        read("in", "items?name=in.({})"),
        read("in, quoted", "items?name=in.(%22{}%22)"),
        read("is", "items?name=is.{}"),
        read("isdistinct", "items?name=isdistinct.{}"),
        read("any", "items?name=eq(any).%7B{}%7D"),
        read("an array", "items?tags=cs.%7B{}%7D"),
        read("a number", "items?price=gt.{}"),
        read("a time", "items?made=lt.{}"),
        read("JSON in a filter", "docs?data=cs.{}"),
        read("a configuration of full-text search", "items?name=fts({}).x"),
        read("a full-text search", "items?name=wfts.{}"),
        read("a logical tree", "items?or=({})"),
        read("a column in a tree", "items?and=({}.eq.1,id.gt.0)"),
        read("a value in a tree", "items?or=(name.eq.%22{}%22,id.lt.0)"),
        read("an order", "items?order={}"),
        read("a direction", "items?order=name.{}"),
        read("an order by a JSON key", "docs?order=data->{}"),
        read("an order of an embed", "kids?select=*,parents(*)&order=parents({})"),
        read("a limit", "items?limit={}"),
        read("an offset", "items?offset={}"),
        read("an embed's limit", "parents?select=*,kids(*)&kids.limit={}"),
        read("a function", "rpc/{}"),
        read("an argument's name", "rpc/echo?{}=1"),
        read("an argument", "rpc/echo?v={}"),
        change("an argument's name in a body", Method::POST, "rpc/echo", "{\"{}\":1}"),
        change("an argument in a body", Method::POST, "rpc/echo", "{\"v\":\"{}\"}"),
        change("a key of a body that is one argument", Method::POST, "rpc/whole", "{\"{}\":\"{}\"}"),
        change("a new row's column", Method::POST, "docs", "{\"{}\":1}"),
        change("a new row's value", Method::POST, "docs", "{\"id\":900,\"body\":\"{}\"}"),
        change("a new row's JSON", Method::POST, "docs", "{\"id\":901,\"data\":{\"{}\":\"{}\"}}"),
        change("a list of columns", Method::POST, "docs?columns={}", "{\"id\":902}"),
        change("a conflict's columns", Method::POST, "docs?on_conflict={}", "{\"id\":1}"),
        change("a changed column", Method::PATCH, "docs?id=eq.-1", "{\"{}\":1}"),
        change("a changed row's filter", Method::PATCH, "docs?{}=eq.1", "{\"body\":\"x\"}"),
        change("a changed value", Method::PATCH, "docs?body=eq.{}", "{\"body\":\"{}\"}"),
        change("a deleted row's filter", Method::DELETE, "docs?body=eq.{}", ""),
        change("a deleted row's order", Method::DELETE, "docs?id=eq.-1&order={}", ""),
        change("a PUT's filter", Method::PUT, "docs?id=eq.{}", "{\"id\":1,\"body\":\"{}\"}"),
        Place { header: csv, ..change("a column of CSV", Method::POST, "docs", "id,{}\n903,x") },
        Place { header: csv, ..change("a value of CSV", Method::POST, "docs", "id,body\n904,{}") },
        header("Accept-Profile", "Accept-Profile", "{}"),
        Place {
            header: Some(("Content-Profile", "{}")),
            ..change("Content-Profile", Method::POST, "docs", "{}")
        },
        header("Accept", "Accept", "{}"),
        header(
            "Accept with a parameter",
            "Accept",
            "application/vnd.pgrst.plan+json; options={}; for=\"{}\"",
        ),
        Place { header: Some(("Content-Type", "{}")), ..change("Content-Type", Method::POST, "docs", "x") },
        header("Prefer", "Prefer", "{}"),
        header("Prefer: timezone", "Prefer", "timezone={}"),
        header("Prefer: timezone, strict", "Prefer", "handling=strict, timezone={}"),
        header("Prefer: count", "Prefer", "count={}"),
        header("Prefer: max-affected", "Prefer", "handling=strict, max-affected={}"),
        header("Range", "Range", "{}"),
        header("Range-Unit", "Range-Unit", "{}"),
        header("Cookie", "Cookie", "{}"),
        header("User-Agent", "User-Agent", "{}"),
        header("a header of one's own", "X-Own", "{}"),
        header("X-Request-Id", "X-Request-Id", "{}"),
        header("Origin", "Origin", "{}"),
    ]
}

async fn ask(fleet: &TestFleet, token: &str, place: &Place, payload: &str) -> Answer {
    let encoded: String = form_urlencoded::byte_serialize(payload.as_bytes()).collect();
    let path = format!("/acme/{}", place.path.replace("{}", &encoded.replace('+', "%20")));
    let text = Value::from(payload).to_string();
    let body = place.body.replace("{}", &text[1..text.len() - 1]);
    let mut request = fleet.request(place.method.clone(), &path).bearer_auth(token);
    let kind = place.header.filter(|(name, _)| *name == "Content-Type");
    if kind.is_none() && !body.is_empty() {
        request = request.header("Content-Type", "application/json");
    }
    if let Some((name, value)) = place.header {
        request = request.header(name, value.replace("{}", payload).as_bytes());
    }
    Answer::of(request.body(body).send().await.unwrap()).await
}

/// As the role that may do most: what SQL could reach would be reached.
#[tokio::test]
async fn sql_stays_a_name_or_a_value() {
    let fleet = two_tenants("[defaults.api]\ndb_aggregates_enabled = true\ndb_plan_enabled = true").await;
    fleet.owner("acme").await.batch_execute(TABLES).await.unwrap();
    let token = fleet.token("acme", json!({ "role": "service" })).await;
    let row = r#"{"id":1,"owner":"ann","word":"TOPSECRET"}"#;
    assert_eq!(fleet.send(Method::POST, "/acme/secrets", Some(&token), "", row).await.status, 201);
    let mut findings = Findings::default();
    for place in places() {
        for payload in PAYLOADS {
            let answer = ask(&fleet, &token, &place, payload).await;
            let name = format!("{} {payload:?}", place.name);
            findings.check(!answer.text.contains("TOPSECRET"), &name, &answer.text);
            findings.check(
                !answer.status.is_server_error(),
                &name,
                format!("{} {}", answer.status, answer.text),
            );
            let error = serde_json::from_str::<Value>(&answer.text).unwrap_or_default();
            let said = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            // A full-text query has a syntax of its own, and a quoted name can be empty.
            let message = said("message");
            let fine = message.contains("tsquery") || message.starts_with("zero-length delimited identifier");
            let of_sql = ["42601", "42P02", "42P18", "08P01"].contains(&said("code").as_str());
            findings.check(!of_sql || fine, &name, &answer.text);
        }
        let left = fleet.get_as(&token, "/acme/items?select=name&name=eq.acme-row").await;
        findings.check(
            left.text.contains("acme-row"),
            place.name,
            format!("the table is gone: {}", left.text),
        );
    }
    findings.none();
}

/// A value comes back as it went in, by every way into a statement.
#[tokio::test]
async fn values_come_back_as_they_are() {
    let fleet = two_tenants("").await;
    fleet.owner("acme").await.batch_execute(TABLES).await.unwrap();
    let token = fleet.token("acme", json!({ "role": "service" })).await;
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let quoted = |text: &str| encode(&format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
    let mut findings = Findings::default();
    for (number, payload) in PAYLOADS.iter().enumerate() {
        let row = json!({ "id": number + 100, "body": payload, "data": { *payload: payload } });
        let made = fleet
            .send(Method::POST, "/acme/docs", Some(&token), "return=representation", &row.to_string())
            .await;
        findings.check(made.status == 201 && made.json()[0]["body"] == *payload, payload, &made.text);
        for (name, path) in [
            ("eq", format!("/acme/docs?select=body&body=eq.{}", encode(payload))),
            ("in", format!("/acme/docs?select=body&body=in.({})", quoted(payload))),
            ("or", format!("/acme/docs?select=body&or=(body.eq.{})", quoted(payload))),
            (
                "isdistinct",
                format!("/acme/docs?select=body&id=gte.100&body=not.isdistinct.{}", encode(payload)),
            ),
        ] {
            let answer = fleet.get_as(&token, &path).await;
            findings.check(
                answer.json() == json!([{ "body": payload }]),
                &format!("{name} {payload:?}"),
                &answer.text,
            );
        }
        let echoed = fleet.get_as(&token, &format!("/acme/rpc/echo?v={}", encode(payload))).await;
        findings.check(echoed.json() == *payload, &format!("an argument {payload:?}"), &echoed.text);
        let request = fleet
            .request(Method::GET, "/acme/rpc/seen")
            .bearer_auth(&token)
            .header("X-Own", payload.as_bytes());
        let seen =
            Answer::of(request.header("Cookie", format!("a={payload}").as_bytes()).send().await.unwrap())
                .await
                .json();
        let headers: Value =
            serde_json::from_str(seen["headers"].as_str().unwrap_or_default()).unwrap_or_default();
        findings.check(headers["x-own"] == *payload, &format!("request.headers {payload:?}"), &headers);
        let claims = json!({ "role": "service", "sub": payload, *payload: payload });
        let seen = fleet.get_as(&fleet.token("acme", claims.clone()).await, "/acme/rpc/seen").await.json();
        let told: Value =
            serde_json::from_str(seen["claims"].as_str().unwrap_or_default()).unwrap_or_default();
        findings.check(told == claims, &format!("request.jwt.claims {payload:?}"), &told);
    }
    // A relation and a column whose names look like SQL.
    let odd =
        fleet.get_as(&token, &format!("/acme/{}?select={}", "o%22d'd%20$1", quoted("na\"m'e $1"))).await;
    findings.check(odd.json() == json!([{ "na\"m'e $1": "odd" }]), "an odd relation", &odd.text);
    findings.none();
}

/// A preference is one of those that are known, or nothing.
#[tokio::test]
async fn preferences_do_no_more_than_they_may() {
    let fleet = two_tenants("").await;
    let token = fleet.token("acme", json!({ "role": "service" })).await;
    let count =
        async || fleet.get_as(&token, "/acme/items?select=id").await.json().as_array().map_or(0, Vec::len);
    let mut findings = Findings::default();
    for (number, (name, prefer, status, rows)) in [
        ("tx=rollback where it isn't allowed", "tx=rollback", 201, 1),
        ("tx=commit where it isn't allowed", "tx=commit", 201, 1),
        ("max-affected below zero", "handling=strict, max-affected=-1", 201, 1),
        ("max-affected of 65 bits", "handling=strict, max-affected=18446744073709551616", 201, 1),
        ("an unknown one, strict", "handling=strict, nonsense=1", 400, 0),
        ("an unknown one", "nonsense=1", 201, 1),
        ("a time zone that is SQL", "timezone=UTC'; SET role mb_owner; --", 400, 0),
        ("two that exclude each other", "return=minimal, return=representation", 201, 1),
        ("a thousand", "count=exact,".repeat(1000).leak(), 201, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let before = count().await;
        let body = json!({ "id": number + 100, "name": name }).to_string();
        let answer = fleet.send(Method::POST, "/acme/items", Some(&token), prefer, &body).await;
        let more = count().await - before;
        findings.check(
            answer.status == status && more == rows,
            name,
            format!("{} {} {more}", answer.status, answer.text),
        );
    }
    findings.none();
}
