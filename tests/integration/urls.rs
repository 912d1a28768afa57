//! URLs: what a request's may hold, and what answers say of them.

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, TestFleet};

#[tokio::test]
async fn locations_lead_back_to_the_tenant() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let token = fleet.token("acme", json!({ "role": "authenticated" })).await;
    for (base, id) in [("/acme", 71), ("/acme/rest/v1", 72)] {
        let body = json!({ "id": id, "name": format!("chair {id}") }).to_string();
        let made = fleet
            .send(Method::POST, &format!("{base}/items"), Some(&token), "return=headers-only", &body)
            .await;
        assert_eq!(made.status, 201, "{}", made.text);
        let place = &made.headers["location"];
        assert_eq!(*place, format!("{base}/items?id=eq.{id}"));
        let read = fleet.get_as(&token, &format!("{place}&select=id")).await;
        assert_eq!(read.json(), json!([{ "id": id }]));
        assert_eq!(read.headers["content-location"], format!("{base}/items?id=eq.{id}&select=id"));
    }
    // A host of the tenant's own has nothing in front.
    let port = fleet.url("").rsplit_once(':').unwrap().1.to_owned();
    let answer = fleet
        .request(Method::GET, "/items?limit=1")
        .header("Host", format!("acme.localhost:{port}"))
        .bearer_auth(&token)
        .send();
    assert_eq!(Answer::of(answer.await.unwrap()).await.headers["content-location"], "/items?limit=1");
}

#[tokio::test]
async fn options_lets_in_the_tenants_origins_only() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let mut overrides = manybox::policy::Overrides::default();
    overrides.set("server_cors_allowed_origins", "https://a.test").unwrap();
    let row = fleet.row("acme").await;
    fleet.fleet.configure(&row.record, &row.record.tier, &overrides).await.unwrap();
    let options = async |origin: &str, path: &str| {
        let request = fleet.request(Method::OPTIONS, path).header("Origin", origin);
        Answer::of(request.send().await.unwrap()).await
    };
    crate::support::eventually("the router follows", || async {
        options("https://b.test", "/acme/items").await.headers.contains_key("vary")
    })
    .await;
    for path in ["/acme/items", "/acme/", "/acme/rpc/none"] {
        let other = options("https://b.test", path).await;
        assert_eq!(other.headers.get("access-control-allow-origin"), None, "{path}");
        assert_eq!(
            options("https://a.test", path).await.headers["access-control-allow-origin"],
            "https://a.test"
        );
    }
}

/// Sends these bytes, and gives what comes back before the connection is closed.
async fn raw(fleet: &TestFleet, request: &[u8]) -> String {
    let address = fleet.url("").replace("http://", "");
    let mut socket = TcpStream::connect(&address).await.unwrap();
    socket.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn head(target: &str, more: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{more}\r\n").into_bytes()
}

const DOCUMENTS: &str = r#"
    CREATE TABLE docs (id int PRIMARY KEY, d jsonb); CREATE TABLE "a>b`c" (id int);
    INSERT INTO docs VALUES (1, '{"a": {"b": 5}}'), (2, '{"a": {"b": 7}}'); GRANT SELECT ON docs, "a>b`c" TO anon;"#;

#[tokio::test]
async fn raw_bytes_in_a_url() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    fleet.owner("acme").await.batch_execute(DOCUMENTS).await.unwrap();
    for (target, expected) in [
        ("/acme/docs?select=id,d->a->>b&id=eq.1", r#"[{"id":1,"b":"5"}]"#),
        ("/acme/docs?select=id&d->a->b=gt.5", r#"[{"id":2}]"#),
        ("/acme/docs?select=id&order=d->a->>b.desc", "[{\"id\":2}, \n {\"id\":1}]"),
        (r#"/acme/docs?select=id&id=in.("1","3")"#, r#"[{"id":1}]"#),
        (r#"/acme/docs?select=id&d=cs.{"a":{"b":7}}"#, r#"[{"id":2}]"#),
        ("/acme/docs?select=id&d->>a=eq.<none>", "[]"),
        ("http://127.0.0.1/acme/docs?select=d->a&id=eq.1", r#"[{"a":{"b": 5}}]"#),
        ("/acme/a>b`c", "[]"),
    ] {
        let answer = raw(&fleet, &head(target, "")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(expected), "{target}: {answer}");
    }
}

#[tokio::test]
async fn refused_heads_say_why() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let many: String = (0..120).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = format!("/acme/items?id=in.({})", "1,".repeat(33_000));
    let mut latin = head("/acme/items?name=eq.", "");
    let at = latin.windows(5).position(|w| w == b" HTTP").unwrap();
    latin.insert(at, 0xFC);
    for (request, status, code) in [
        (head("/acme/items", &many), 431, "MBX116"),
        (head(&long, ""), 414, "MBX115"),
        (latin, 400, "MBX114"),
        (head("/acme/items?a=\u{1}", ""), 400, "MBX114"),
        (b"GET /acme/items HTTP/3.7\r\n\r\n".to_vec(), 400, "MBX114"),
        // Behind another answer on the same connection.
        (
            [
                &b"GET /acme/items?limit=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"[..],
                &head("/acme/items", &many),
            ]
            .concat(),
            431,
            "",
        ),
    ] {
        let answer = raw(&fleet, &request).await;
        let refusal = &answer[answer.rfind("HTTP/1.1 ").unwrap_or_default()..];
        assert!(refusal.starts_with(&format!("HTTP/1.1 {status} ")) && refusal.contains(code), "{answer}");
        assert!(code.is_empty() || refusal.contains("connection: close"), "{refusal}");
    }
}
