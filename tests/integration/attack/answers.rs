//! Heads of answers that a tenant's function chooses: none frames the message, speaks for the host or orders a proxy.

use reqwest::Method;
use serde_json::json;

use super::{Findings, raw, statuses, two_tenants};
use crate::support::{Answer, TestFleet};

const FUNCTIONS: &str = "
    CREATE FUNCTION chooses(headers text, status text) RETURNS text LANGUAGE sql AS
        $$ SELECT set_config('response.headers', headers, true), set_config('response.status', status, true); SELECT 'content' $$;
    CREATE FUNCTION raises(detail text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RAISE SQLSTATE 'PGRST' USING MESSAGE = '{\"code\":\"X\",\"message\":\"content\"}', DETAIL = detail; END $$;
    CREATE FUNCTION raises_status(code text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION USING ERRCODE = code, MESSAGE = 'content'; END $$;
    GRANT EXECUTE ON FUNCTION chooses, raises, raises_status TO anon;";

async fn fleet() -> TestFleet {
    let fleet = two_tenants("").await;
    fleet.owner("acme").await.batch_execute(FUNCTIONS).await.unwrap();
    fleet
}

async fn call(fleet: &TestFleet, function: &str, arguments: serde_json::Value) -> Answer {
    let path = format!("/acme/rpc/{function}");
    fleet.send(Method::POST, &path, None, "", &arguments.to_string()).await
}

/// Headers that only the server, or only the host as a whole, may send.
const FORBIDDEN: &[(&str, &str)] = &[
    ("Connection", "close, x-secret"),
    ("Content-Length", "3"),
    ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ("Keep-Alive", "timeout=9999"),
    ("keep-ALIVE", "timeout=9999"),
    ("Proxy-Connection", "keep-alive"),
    ("TE", "trailers"),
    ("Trailer", "X-Late"),
    ("Transfer-Encoding", "chunked"),
    ("Upgrade", "h2c"),
    ("Proxy-Authenticate", "Basic realm=x"),
    ("Alt-Svc", "h2=\"mallory.example:443\"; ma=9999"),
    ("Strict-Transport-Security", "max-age=99999999; includeSubDomains"),
    ("Clear-Site-Data", "\"*\""),
    ("NEL", "{\"report_to\":\"m\",\"max_age\":99999}"),
    (
        "Report-To",
        "{\"group\":\"m\",\"max_age\":99999,\"endpoints\":[{\"url\":\"https://mallory.example\"}]}",
    ),
    ("Service-Worker-Allowed", "/"),
    ("X-Accel-Redirect", "/globex/items"),
    ("X-Accel-Buffering", "no"),
    ("X-Sendfile", "/etc/passwd"),
    ("X-Reproxy-URL", "http://127.0.0.1/globex/items"),
];

#[tokio::test]
async fn headers_that_are_not_the_tenants_are_left_out() {
    let fleet = fleet().await;
    let mut findings = Findings::default();
    for (name, value) in FORBIDDEN {
        let headers = json!([{ *name: value }, { "X-Own": "1" }]).to_string();
        let detail = json!({ "status": 400, "headers": { *name: value, "X-Own": "1" } }).to_string();
        for (how, answer) in [
            ("response.headers", call(&fleet, "chooses", json!({ "headers": headers, "status": "" })).await),
            ("RAISE PGRST", call(&fleet, "raises", json!({ "detail": detail })).await),
        ] {
            let sent = answer.headers.get(&name.to_ascii_lowercase());
            findings.check(
                sent.is_none_or(|sent| sent != value),
                &format!("{how}: {name}"),
                format!("{sent:?}"),
            );
            let others = answer.headers.get("x-own").map(String::as_str);
            findings.check(others == Some("1"), &format!("{how}: X-Own beside {name}"), &answer.text);
            findings.check(
                answer.text.contains("content"),
                &format!("{how}: the body beside {name}"),
                &answer.text,
            );
        }
    }
    findings.none();
}

#[tokio::test]
async fn headers_that_would_be_two_are_none() {
    let fleet = fleet().await;
    let mut findings = Findings::default();
    for (name, header, value) in [
        ("CRLF in a value", "X-A", "1\r\nX-Injected: 2"),
        ("LF in a value", "X-A", "1\nX-Injected: 2"),
        ("CR in a value", "X-A", "1\rX-Injected: 2"),
        ("an answer in a value", "X-A", "1\r\n\r\nHTTP/1.1 200 OK\r\nX-Injected: 2\r\n\r\n"),
        ("CRLF in a cookie", "Set-Cookie", "a=1\r\nX-Injected: 2"),
        ("CRLF in a place", "Location", "/\r\nX-Injected: 2"),
        ("CRLF in a media type", "Content-Type", "text/html\r\nX-Injected: 2"),
        ("obs-fold", "X-A", "1\r\n X-Injected: 2"),
        ("NUL in a value", "X-A", "1\0"),
        ("DEL in a value", "X-A", "1\u{7f}"),
        ("CRLF in a name", "X-A\r\nX-Injected", "2"),
        ("a colon in a name", "X-Injected: 2\r\nX-A", "2"),
        ("a space in a name", "X A", "2"),
        ("an empty name", "", "2"),
        ("a pseudo-header", ":status", "200"),
        ("a name outside ASCII", "X-Ä", "2"),
    ] {
        let headers = json!([{ header: value }]).to_string();
        let detail = json!({ "status": 400, "headers": { header: value } }).to_string();
        for (how, answer) in [
            ("response.headers", call(&fleet, "chooses", json!({ "headers": headers, "status": "" })).await),
            ("RAISE PGRST", call(&fleet, "raises", json!({ "detail": detail })).await),
        ] {
            let name = format!("{how}: {name}");
            findings.check(
                !answer.headers.contains_key("x-injected"),
                &name,
                format!("{:?}", answer.headers),
            );
            findings.check(!answer.text.contains("X-Injected: 2\r"), &name, &answer.text);
            let refused = answer.code().as_str() == "PGRST111";
            findings.check(refused || how == "RAISE PGRST", &name, &answer.text);
        }
    }
    findings.none();
}

#[tokio::test]
async fn statuses_that_http_does_not_have_are_none() {
    let fleet = fleet().await;
    let mut findings = Findings::default();
    for status in
        ["0", "99", "100", "101", "103", "199", "600", "700", "999", "1000", "65736", "-200", "x", " 200"]
    {
        let answer = call(&fleet, "chooses", json!({ "headers": "[]", "status": status })).await;
        let refused = (answer.status == 500, answer.code().as_str() == "PGRST112");
        findings.check(refused == (true, true), &format!("response.status {status:?}"), answer.status);
    }
    for status in [0, 99, 100, 101, 199, 600, 999, 65535] {
        let detail = json!({ "status": status, "headers": {} }).to_string();
        let answer = call(&fleet, "raises", json!({ "detail": detail })).await;
        findings.check(answer.status == 500, &format!("RAISE PGRST with {status}"), answer.status);
    }
    for code in ["PT100", "PT101", "PT199", "PT600", "PT999", "PT000", "PTABC"] {
        let answer = call(&fleet, "raises_status", json!({ "code": code })).await;
        findings.check(answer.status == 500, &format!("RAISE {code}"), answer.status);
    }
    findings.none();
}

/// What comes behind such a head would be taken for the next answer.
#[tokio::test]
async fn statuses_without_content_have_none() {
    let fleet = fleet().await;
    let mut findings = Findings::default();
    let next = "GET /acme/rpc/add?a=41 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    for status in ["204", "205", "304"] {
        let detail = json!({ "status": status.parse::<u16>().unwrap(), "headers": {} });
        for (how, function, arguments) in [
            ("response.status", "chooses", json!({ "headers": "[]", "status": status })),
            ("RAISE PGRST", "raises", json!({ "detail": detail.to_string() })),
            ("RAISE PT", "raises_status", json!({ "code": format!("PT{status}") })),
        ] {
            let name = format!("{how} {status} over HTTP/1");
            let body = arguments.to_string();
            let request = format!(
                "POST /acme/rpc/{function} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}{next}",
                body.len()
            );
            let answers = raw(&fleet, request.as_bytes()).await;
            findings.check(!answers.contains("content\""), &name, &answers);
            findings.check(statuses(&answers) == [status.parse().unwrap(), 200], &name, &answers);
        }
    }
    findings.none();
}

#[tokio::test]
async fn answers_by_http2_have_no_content_either_where_there_is_none() {
    let fleet = fleet().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let mut findings = Findings::default();
    for status in ["204", "205", "304"] {
        let body = json!({ "headers": "[]", "status": status }).to_string();
        let request = client.post(fleet.url("/acme/rpc/chooses")).header("Content-Type", "application/json");
        let answer = Answer::of(request.body(body).send().await.unwrap()).await;
        let name = format!("response.status {status} over HTTP/2");
        findings.check(answer.status.as_str() == status && answer.text.is_empty(), &name, &answer.text);
    }
    // A header that HTTP/2 forbids would break the connection of everybody behind a proxy.
    let headers = json!([{ "Keep-Alive": "timeout=5" }, { "Connection": "close" }]).to_string();
    let body = json!({ "headers": headers, "status": "200" }).to_string();
    let request = client.post(fleet.url("/acme/rpc/chooses")).header("Content-Type", "application/json");
    let answer = Answer::of(request.body(body).send().await.unwrap()).await;
    findings.check(answer.text == "\"content\"", "headers that HTTP/2 forbids", &answer.text);
    findings.none();
}
