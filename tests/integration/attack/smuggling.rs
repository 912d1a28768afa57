//! Requests in requests: where one ends is read in one way, or the connection is closed.

use super::{Findings, raw, statuses, two_tenants};

/// What the attack wants answered: a request that a proxy in front took for another's body.
const HIDDEN: &str = "GET /globex/items HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// The statuses of all answers.
async fn send(cases: &[(&str, &[u16], String)]) {
    let fleet = two_tenants("").await;
    let mut findings = Findings::default();
    for (name, expected, bytes) in cases {
        let answers = raw(&fleet, bytes.as_bytes()).await;
        let hidden = answers.contains("globex-row");
        findings.check(
            !hidden && statuses(&answers) == *expected,
            name,
            format!("expected {expected:?}: {answers}"),
        );
    }
    assert_eq!(fleet.get("/globex/items").await.status, 200, "and the router lives on");
    findings.none();
}

fn post(headers: &str, body: &str) -> String {
    format!(
        "POST /acme/rpc/add HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{headers}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn lengths_that_two_programs_could_read_differently() {
    let body = r#"{"a": 1}"#;
    // The hidden request stands behind what a program that believes the other length takes for the end.
    let chunked = format!("8\r\n{body}\r\n0\r\n\r\n{HIDDEN}");
    let by_length = format!("{body}{HIDDEN}");
    let length = |text: &str| format!("Content-Length: {}", text.len());
    send(&[
        (
            "a length and chunks",
            &[200],
            post(&format!("{}\r\nTransfer-Encoding: chunked", length(&chunked)), &chunked),
        ),
        (
            "chunks and a length",
            &[200],
            post(&format!("Transfer-Encoding: chunked\r\n{}", length(&chunked)), &chunked),
        ),
        ("two lengths", &[400], post("Content-Length: 8\r\nContent-Length: 57", &by_length)),
        (
            "two lengths, the larger first",
            &[400],
            post("Content-Length: 57\r\nContent-Length: 8", &by_length),
        ),
        ("a list of lengths", &[400], post("Content-Length: 8, 8", &by_length)),
        ("a length with a sign", &[400], post("Content-Length: +8", &by_length)),
        ("a length below zero", &[400], post("Content-Length: -8", &by_length)),
        ("a length in hexadecimal", &[400], post("Content-Length: 0x8", &by_length)),
        ("a length with a space", &[400], post("Content-Length: 8 8", &by_length)),
        ("a length with a point", &[400], post("Content-Length: 8.0", &by_length)),
        ("a length with letters", &[400], post("Content-Length: 8a", &by_length)),
        ("a length in wide digits", &[400], post("Content-Length: ８", &by_length)),
        ("a length of 65 bits", &[400], post("Content-Length: 18446744073709551624", &by_length)),
        ("an empty length", &[400], post("Content-Length:", &by_length)),
        ("a folded length", &[400], post("Content-Length:\r\n 8", &by_length)),
        ("a space before the colon", &[400], post("Content-Length : 8", &by_length)),
        ("identity", &[400], post("Transfer-Encoding: identity", &chunked)),
        ("chunked, then identity", &[400], post("Transfer-Encoding: chunked, identity", &chunked)),
        (
            "chunked, then identity in two lines",
            &[400],
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", &chunked),
        ),
        ("nearly chunked", &[400], post("Transfer-Encoding: xchunked", &chunked)),
        ("chunked in quotes", &[400], post("Transfer-Encoding: \"chunked\"", &chunked)),
        ("chunked with a vertical tab", &[400], post("Transfer-Encoding:\u{b}chunked", &chunked)),
        ("chunked with a parameter", &[400], post("Transfer-Encoding: chunked;q=1", &chunked)),
        ("a space before chunked's colon", &[400], post("Transfer-Encoding : chunked", &chunked)),
        ("folded chunked", &[400], post("Transfer-Encoding:\r\n chunked", &chunked)),
        (
            "chunked over HTTP/1.0",
            &[400],
            post("Transfer-Encoding: chunked", &chunked)
                .replace("HTTP/1.1\r\nHost: 127.0.0.1\r\nContent", "HTTP/1.0\r\nHost: 127.0.0.1\r\nContent"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn chunks_that_two_programs_could_read_differently() {
    let chunks = |text: &str| post("Transfer-Encoding: chunked", &format!("{text}{HIDDEN}"));
    let body = r#"{"a": 1}"#;
    let refused: &[u16] = &[400];
    send(&[
        ("a size below zero", refused, chunks(&format!("-8\r\n{body}\r\n0\r\n\r\n"))),
        ("a size with a sign", refused, chunks(&format!("+8\r\n{body}\r\n0\r\n\r\n"))),
        ("a size with 0x", refused, chunks(&format!("0x8\r\n{body}\r\n0\r\n\r\n"))),
        ("a size of 65 bits", refused, chunks(&format!("10000000000000008\r\n{body}\r\n0\r\n\r\n"))),
        ("a size with an underscore", refused, chunks(&format!("0_8\r\n{body}\r\n0\r\n\r\n"))),
        ("no size", refused, chunks(&format!("\r\n{body}\r\n0\r\n\r\n"))),
        ("a size ended by a line feed alone", refused, chunks(&format!("8\n{body}\r\n0\r\n\r\n"))),
        ("a size ended by a return alone", refused, chunks(&format!("8\r{body}\r\n0\r\n\r\n"))),
        ("a line feed in an extension", refused, chunks(&format!("8;a\nb\r\n{body}\r\n0\r\n\r\n"))),
        ("a long extension", refused, chunks(&format!("8;{}\r\n{body}\r\n0\r\n\r\n", "a".repeat(40_000)))),
        ("a chunk longer than its size", refused, chunks(&format!("8\r\n{body}xx\r\n0\r\n\r\n"))),
        ("a chunk ended by a line feed alone", refused, chunks(&format!("8\r\n{body}\n0\r\n\r\n"))),
    ])
    .await;
}

#[tokio::test]
async fn heads_that_two_programs_could_read_differently() {
    let get = |more: &str| format!("GET /acme/items?select=id HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}");
    let close = "Connection: close\r\n\r\n";
    let wide = "x".repeat(1_000_000);
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    send(&[
        ("a return in a value", &[400], get(&format!("X: a\rY: b\r\n{close}"))),
        ("a NUL in a value", &[400], get(&format!("X: a\0b\r\n{close}"))),
        ("a NUL in a name", &[400], get(&format!("X\0Y: b\r\n{close}"))),
        ("a space in a name", &[400], get(&format!("X Y: b\r\n{close}"))),
        ("a line without a colon", &[400], get(&format!("nothing\r\n{close}"))),
        ("an empty name", &[400], get(&format!(": b\r\n{close}"))),
        ("a folded value", &[400], get(&format!("X: a\r\n\tb\r\n{close}"))),
        ("returns alone for line ends", &[], get(close).replace("\r\n", "\r")),
        ("a folded first line", &[400], get(close).replacen(" HTTP/1.1", "\r\n HTTP/1.1", 1)),
        ("a method with a colon", &[400], get(close).replacen("GET", "GE:T", 1)),
        ("too many headers", &[431], get(&format!("{many}{close}"))),
        ("a header of a million bytes", &[431], get(&format!("X: {wide}\r\n{close}"))),
        ("a request in a body of GET", &[200], get(&format!("Content-Length: {}\r\n{close}{HIDDEN}", HIDDEN.len()))),
        ("a request in a body of HEAD", &[200], get(&format!("Content-Length: {}\r\n{close}{HIDDEN}", HIDDEN.len())).replacen("GET", "HEAD", 1)),
        ("a request in a body of OPTIONS", &[200], get(&format!("Content-Length: {}\r\n{close}{HIDDEN}", HIDDEN.len())).replacen("GET", "OPTIONS", 1)),
        ("a request behind one that closes", &[200], get(&format!("{close}{HIDDEN}"))),
        ("a request behind an upgrade to HTTP/2", &[200], get(&format!("Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n{HIDDEN}"))),
        ("a request behind an upgrade to WebSocket", &[200], get(&format!("Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n{HIDDEN}"))),
        ("Connection names the Host", &[200], get(&format!("Connection: close, Host, Authorization\r\n\r\n{HIDDEN}"))),
    ])
    .await;
}

/// A proxy keeps its connections; a tenant's answer must not be taken for that of another tenant's request.
#[tokio::test]
async fn pipelined_requests_of_two_tenants_are_answered_in_their_order() {
    let fleet = two_tenants("").await;
    let get = |slug: &str, more: &str| format!("GET /{slug}/items HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n");
    let bytes = [
        get("acme", ""),
        get("globex", ""),
        get("nobody", ""),
        get("acme", ""),
        get("globex", "Connection: close\r\n"),
    ];
    let answers = raw(&fleet, bytes.concat().as_bytes()).await;
    let told: Vec<&str> =
        answers.match_indices("-row").filter_map(|(at, _)| answers[..at].rsplit('"').next()).collect();
    assert_eq!(
        (statuses(&answers), told),
        (vec![200, 200, 404, 200, 200], vec!["acme", "globex", "acme", "globex"])
    );
}
