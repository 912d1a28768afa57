//! HTTP/2 by hand: pseudo-headers that no client would send, and frames by the ten thousand.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Findings, two_tenants};
use crate::support::TestFleet;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HPACK's simplest form: each header as a literal that is not indexed (RFC 7541, 6.2.2), without Huffman coding.
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let length = text.len();
        let mut bytes = match u8::try_from(length).ok().filter(|length| *length < 127) {
            Some(short) => vec![short],
            None => {
                // Seven bits at a time (RFC 7541, 5.1).
                let (mut bytes, mut rest) = (vec![127], length - 127);
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).unwrap());
                bytes
            }
        };
        bytes.extend(text.as_bytes());
        bytes
    };
    headers.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// What came back.
#[derive(Default)]
struct Heard {
    text: String,
    reset: bool,
    closed: bool,
}

/// Until when to listen.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    /// The stream is answered or reset.
    Answered,
    /// Everything that was sent has been read, or the connection is closed.
    Read,
}

/// What the last PING says: its acknowledgement comes when all before it has been read.
const LAST: [u8; 8] = *b"the last";

/// Sends frames behind a proper beginning, and listens.
async fn send(fleet: &TestFleet, frames: &[u8], until: Until) -> Heard {
    let address = fleet.url("").replace("http://", "");
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    socket.write_all(&begin).await.unwrap();
    let (mut read, mut write) = socket.into_split();
    let end = if until == Until::Read { frame(PING, 0, 0, &LAST) } else { Vec::new() };
    let frames = [frames, &end].concat();
    // Floods are longer than the buffers between: both sides must be able to go on.
    let writer = tokio::spawn(async move {
        let _ = write.write_all(&frames).await;
        write
    });
    let mut heard = Heard::default();
    let listen = async {
        let mut head = [0_u8; 9];
        loop {
            if read.read_exact(&mut head).await.is_err() {
                heard.closed = true;
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if read.read_exact(&mut payload).await.is_err() {
                heard.closed = true;
                return;
            }
            match head[3] {
                DATA => heard.text.push_str(&String::from_utf8_lossy(&payload)),
                RST_STREAM => heard.reset = true,
                GOAWAY => heard.closed = true,
                PING if payload == LAST => return,
                _ => {}
            }
            let answered = heard.reset || (matches!(head[3], DATA | HEADERS) && head[4] & END_STREAM != 0);
            if heard.closed || (answered && until == Until::Answered) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), listen).await;
    writer.abort();
    heard
}

fn request(headers: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(headers))
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/items");
const ACME: (&str, &str) = (":authority", "acme.localhost");

#[tokio::test]
async fn pseudo_headers_that_two_programs_could_read_differently() {
    let fleet = two_tenants("").await;
    let mut findings = Findings::default();
    let fine = send(&fleet, &request(&[METHOD, SCHEME, PATH, ACME]), Until::Answered).await;
    findings.check(fine.text.contains("acme-row"), "a plain request", &fine.text);
    let same =
        send(&fleet, &request(&[METHOD, SCHEME, PATH, ACME, ("host", "acme.localhost")]), Until::Answered)
            .await;
    findings.check(same.text.contains("acme-row"), "the same host twice", &same.text);
    let host =
        send(&fleet, &request(&[METHOD, SCHEME, PATH, ("host", "acme.localhost")]), Until::Answered).await;
    findings.check(host.text.contains("acme-row"), "a host and no :authority", &host.text);
    let other = (":authority", "globex.localhost");
    for (name, headers) in [
        (":authority against host", vec![METHOD, SCHEME, PATH, other, ("host", "acme.localhost")]),
        ("host against :authority", vec![METHOD, SCHEME, PATH, ACME, ("host", "globex.localhost")]),
        ("two :authority", vec![METHOD, SCHEME, PATH, ACME, other]),
        ("two hosts", vec![METHOD, SCHEME, PATH, ("host", "acme.localhost"), ("host", "globex.localhost")]),
        ("neither :authority nor host", vec![METHOD, SCHEME, PATH]),
        ("an empty :authority", vec![METHOD, SCHEME, PATH, (":authority", "")]),
        (
            "user info in :authority",
            vec![METHOD, SCHEME, PATH, (":authority", "acme.localhost@globex.localhost")],
        ),
        ("a path in :authority", vec![METHOD, SCHEME, PATH, (":authority", "globex.localhost/acme")]),
        (
            "two hosts in :authority",
            vec![METHOD, SCHEME, PATH, (":authority", "acme.localhost,globex.localhost")],
        ),
        ("two :path", vec![METHOD, SCHEME, PATH, (":path", "/globex/items"), ACME]),
        ("no :path", vec![METHOD, SCHEME, ACME]),
        ("an empty :path", vec![METHOD, SCHEME, (":path", ""), ACME]),
        ("a :path without a slash", vec![METHOD, SCHEME, (":path", "items"), ACME]),
        ("a URL in :path", vec![METHOD, SCHEME, (":path", "http://globex.localhost/items"), ACME]),
        (
            "steps in :path",
            vec![METHOD, SCHEME, (":path", "/acme/../globex/items"), (":authority", "127.0.0.1")],
        ),
        ("a line break in :path", vec![METHOD, SCHEME, (":path", "/items\r\nhost: globex.localhost"), ACME]),
        ("a space in :path", vec![METHOD, SCHEME, (":path", "/items HTTP/1.1"), ACME]),
        ("no :method", vec![SCHEME, PATH, ACME]),
        ("two :method", vec![METHOD, (":method", "DELETE"), SCHEME, PATH, ACME]),
        ("a line break in :method", vec![(":method", "GET / HTTP/1.1\r\nX"), SCHEME, PATH, ACME]),
        ("no :scheme", vec![METHOD, PATH, ACME]),
        ("a URL in :scheme", vec![METHOD, (":scheme", "http://globex.localhost/?"), PATH, ACME]),
        ("a pseudo-header behind others", vec![METHOD, SCHEME, PATH, ("x", "y"), ACME]),
        ("a pseudo-header that isn't one", vec![METHOD, SCHEME, PATH, ACME, (":tenant", "globex")]),
        ("a pseudo-header of answers", vec![METHOD, SCHEME, PATH, ACME, (":status", "200")]),
        ("CONNECT", vec![(":method", "CONNECT"), other]),
        (
            "CONNECT with :protocol",
            vec![(":method", "CONNECT"), (":protocol", "websocket"), SCHEME, PATH, ACME],
        ),
        ("a large letter in a name", vec![METHOD, SCHEME, PATH, ACME, ("Host", "globex.localhost")]),
        ("a line break in a name", vec![METHOD, SCHEME, PATH, ACME, ("x\r\nhost", "globex.localhost")]),
        ("a line break in a value", vec![METHOD, SCHEME, PATH, ACME, ("x", "y\r\nhost: globex.localhost")]),
        ("a NUL in a value", vec![METHOD, SCHEME, PATH, ACME, ("x", "y\0z")]),
        ("an empty name", vec![METHOD, SCHEME, PATH, ACME, ("", "y")]),
        ("Transfer-Encoding", vec![METHOD, SCHEME, PATH, ACME, ("transfer-encoding", "chunked")]),
        ("Connection", vec![METHOD, SCHEME, PATH, ACME, ("connection", "close")]),
        ("Upgrade", vec![METHOD, SCHEME, PATH, ACME, ("upgrade", "h2c")]),
        ("TE", vec![METHOD, SCHEME, PATH, ACME, ("te", "chunked")]),
        ("a length of what does not come", vec![METHOD, SCHEME, PATH, ACME, ("content-length", "5")]),
        ("two lengths", vec![METHOD, SCHEME, PATH, ACME, ("content-length", "0"), ("content-length", "5")]),
    ] {
        let heard = send(&fleet, &request(&headers), Until::Answered).await;
        let refused = heard.reset || heard.closed || heard.text.contains("\"code\":");
        let led = heard.text.contains("globex-row") || heard.text.contains("acme-row");
        findings.check(
            refused && !led,
            name,
            format!("reset {}, closed {}: {}", heard.reset, heard.closed, heard.text),
        );
    }
    findings.none();
}

/// Each on a connection of its own; another tenant's request is answered afterwards.
#[tokio::test]
async fn frames_by_the_ten_thousand_end_their_own_connection_at_most() {
    let fleet = two_tenants("").await;
    let good = block(&[METHOD, SCHEME, PATH, ACME]);
    let stream = |number: u32| 2 * number + 1;
    let many = |make: &dyn Fn(u32) -> Vec<u8>| (0..20_000).flat_map(make).collect::<Vec<u8>>();
    let opened = frame(HEADERS, 0, 1, &good);
    // An entry of 4,000 bytes in the table of headers, then a thousand references to it in each request.
    let long = "a".repeat(3_900);
    let entry = [&[0x40, 1, b'x', 0x7f], &[0xbd, 0x1d][..], long.as_bytes()].concat();
    let bomb = [good.as_slice(), &entry, &[0xbe; 12_000]].concat();
    let mut findings = Findings::default();
    for (name, ends, frames) in [
        (
            "rapid reset",
            false,
            many(&|n| {
                [
                    frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &good),
                    frame(RST_STREAM, 0, stream(n), &[0, 0, 0, 8]),
                ]
                .concat()
            }),
        ),
        (
            "reset by a wrong window",
            true,
            many(&|n| {
                [frame(HEADERS, END_HEADERS, stream(n), &good), frame(WINDOW_UPDATE, 0, stream(n), &[0; 4])]
                    .concat()
            }),
        ),
        (
            "CONTINUATION without an end",
            true,
            [opened.clone(), many(&|_| frame(CONTINUATION, 0, 1, &block(&[("x", "y")])))].concat(),
        ),
        (
            "empty CONTINUATIONs without an end",
            true,
            [opened.clone(), many(&|_| frame(CONTINUATION, 0, 1, &[]))].concat(),
        ),
        ("a compressed list of headers", false, frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)),
        ("another frame amid CONTINUATIONs", true, [opened.clone(), frame(PING, 0, 0, &[0; 8])].concat()),
        (
            "a CONTINUATION of another stream",
            true,
            [opened, frame(CONTINUATION, END_HEADERS, 3, &good)].concat(),
        ),
        ("a promise from a client", true, frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("a window too large", true, frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("a window setting too large", true, frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
        ("a frame too large", true, frame(DATA, 0, 1, &[0; 20_000])),
        ("DATA of no stream", true, frame(DATA, 0, 1, &[0; 10])),
        ("a stream of the server's", true, frame(HEADERS, END_HEADERS | END_STREAM, 2, &good)),
        ("HPACK of nothing", true, frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 40])),
        ("PINGs", false, many(&|_| frame(PING, 0, 0, &[0; 8]))),
        ("SETTINGS", false, many(&|_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]))),
        (
            "empty DATA",
            false,
            [frame(HEADERS, END_HEADERS, 1, &good), many(&|_| frame(DATA, 0, 1, &[]))].concat(),
        ),
        ("streams that are left open", false, many(&|n| frame(HEADERS, END_HEADERS, stream(n), &good))),
    ] {
        let heard = send(&fleet, &frames, Until::Read).await;
        findings.check(!ends || heard.closed || heard.reset, name, format!("it went on: {}", heard.text));
        let other = fleet.get("/globex/items").await;
        findings.check(
            other.status == 200 && other.text.contains("globex-row"),
            name,
            format!("globex: {}", other.status),
        );
    }
    findings.none();
}
