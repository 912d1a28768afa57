//! Bytes that are held: bodies that come slowly or for nothing, answers that nobody takes.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use super::connections::{count, to_the_end};
use crate::support::{TestFleet, eventually};

const LONG: &str =
    "CREATE FUNCTION long(bytes int) RETURNS text LANGUAGE sql AS 'SELECT repeat(''x'', bytes)';
    CREATE TABLE papers (id int, text text); GRANT SELECT, INSERT ON papers TO anon;
    CREATE VIEW pages AS SELECT n, repeat('x', 100000) AS text FROM generate_series(1, 300) n;
    GRANT EXECUTE ON FUNCTION long TO anon; GRANT SELECT ON pages TO anon;";

async fn fleet(toml: &str) -> TestFleet {
    let fleet = TestFleet::builder().toml(toml).tenants(&["acme", "globex"]).serve().await;
    for tenant in ["acme", "globex"] {
        fleet.owner(tenant).await.batch_execute(LONG).await.unwrap();
        // So that no schema has to be read any more, and none is stale.
        assert_eq!(fleet.get(&format!("/{tenant}/pages?limit=1&select=n")).await.status, 200);
    }
    fleet
}

/// A socket that holds little, on which so much was said.
async fn said(fleet: &TestFleet, text: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(fleet.address()).await.unwrap();
    socket.write_all(text).await.unwrap();
    socket
}

/// The head of a request whose body is to come.
fn announced(line: &str, headers: &str, length: usize) -> Vec<u8> {
    let json = "Content-Type: application/json";
    format!("{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n{json}\r\n{headers}Content-Length: {length}\r\n\r\n")
        .into_bytes()
}

async fn first_line(socket: &mut TcpStream) -> String {
    let mut bytes = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(20), socket.read(&mut bytes))
        .await
        .expect("an answer")
        .unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

/// Nothing of any of these bodies is ever sent.
#[tokio::test]
async fn what_a_body_does_not_decide_is_answered_before_it_comes() {
    let fleet = fleet("[tiers.standard]\nmax_body = 100000\nmax_requests_per_second = 40").await;
    let stranger = fleet.token("globex", json!({ "role": "service" })).await;
    let (stranger, garbage) =
        (format!("Authorization: Bearer {stranger}\r\n"), "Authorization: Bearer x.y.z\r\n");
    for (line, headers, length, status, code) in [
        ("POST /nobody/papers", "", 1000, 404, "MBX102"),
        ("POST /acme/papers/1/2", "", 1000, 404, "PGRST125"),
        ("POST /acme/", "", 1000, 405, "PGRST117"),
        ("PATCH /acme/rpc/long", "", 1000, 405, "PGRST101"),
        ("LOCK /acme/papers", "", 1000, 405, "PGRST117"),
        ("POST /acme/papers", garbage, 1000, 401, "PGRST301"),
        ("POST /acme/papers", stranger.as_str(), 1000, 401, "PGRST301"),
        ("POST /acme/papers", "Content-Profile: secret\r\n", 1000, 406, "PGRST106"),
        ("POST /acme/papers", "", 100_001, 413, "MBX105"),
        ("POST /acme/papers", "", usize::MAX / 4, 413, "MBX105"),
        ("POST /acme/papers", "Expect: 100-continue\r\n", 100_001, 413, "MBX105"),
    ] {
        let mut socket = said(&fleet, &announced(line, headers, length)).await;
        let answer = first_line(&mut socket).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line} {headers}: {answer}");
        assert!(answer.contains(code), "{line} {headers}: {answer}");
    }
    let mut all = Vec::new();
    for _ in 0..120 {
        all.push(said(&fleet, &announced("POST /acme/papers", garbage, 1000)).await);
    }
    let mut refused = 0;
    for socket in &mut all {
        refused += u32::from(first_line(socket).await.contains("MBX109"));
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn a_body_that_comes_too_slowly() {
    let fleet = fleet("[listen.clients]\nstall_timeout = '300ms'\nmin_rate = 1000").await;
    // Nothing, something, and a byte now and then.
    for (begins, drips) in [("", false), ("[", false), ("[", true)] {
        let text = [&announced("POST /acme/papers", "", 10_000)[..], begins.as_bytes()].concat();
        let (mut reads, mut writes) = said(&fleet, &text).await.into_split();
        let drip = async {
            while drips && writes.write_all(b" ").await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut answer = vec![0; 4096];
        let read =
            tokio::select! { read = reads.read(&mut answer) => read.unwrap(), () = drip => unreachable!() };
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(
            answer.starts_with("HTTP/1.1 408") && answer.contains("MBX113"),
            "{begins} {drips}: {answer}"
        );
    }
    // As slow as it may be is fast enough.
    let mut socket = said(&fleet, &announced("POST /acme/papers", "", 3002)).await;
    for piece in [vec![b'['], vec![b' '; 1000], vec![b' '; 1000], vec![b' '; 1000], vec![b']']] {
        socket.write_all(&piece).await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    assert!(first_line(&mut socket).await.starts_with("HTTP/1.1 201"));
}

/// One tenant's bodies hold all that they may, and the other has its own part.
#[tokio::test]
async fn bodies_that_never_end() {
    let fleet = fleet("[listen.clients]\nmax_buffered = 1000000\nstall_timeout = '3s'").await;
    let body = vec![b' '; 199_999];
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut socket = said(&fleet, &announced("POST /acme/papers", "", 200_000)).await;
        let _ = socket.write_all(&body).await;
        held.push(socket);
    }
    // One after another gives way to the next, for it moves nothing; none of them takes what is globex's.
    let text = vec![b'x'; 100_000];
    let note = [b"[{\"text\":\"", &text[..], b"\"}]"].concat();
    let post = |tenant: &str| {
        let request = fleet.request(reqwest::Method::POST, &format!("/{tenant}/papers")).body(note.clone());
        async { request.header("Content-Type", "application/json").send().await.unwrap().status() }
    };
    assert_eq!(post("globex").await, 201);
    let mut refused = 0;
    for socket in &mut held {
        let answer = first_line(socket).await;
        refused += u32::from(answer.starts_with("HTTP/1.1 503") && answer.contains("MBX112"));
    }
    assert!(refused > 15, "{refused} of 20");
    drop(held);
    eventually("there is room again", || async { post("acme").await == 201 }).await;
    // A quarter of it all is the most that can be read whatever the tier says.
    let mut socket = said(&fleet, &announced("POST /acme/papers", "", 250_001)).await;
    assert!(first_line(&mut socket).await.contains("MBX105"));
}

/// Each frame of a byte would take 30 bytes where frames are collected as they are.
#[tokio::test]
async fn a_body_in_chunks_of_one_byte() {
    let fleet = fleet("").await;
    let head = "POST /acme/papers HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n";
    let text = [head.as_bytes(), &b"1\r\n \r\n".repeat(200_000), b"1\r\n]\r\n0\r\n\r\n"].concat();
    let mut socket = said(&fleet, &text).await;
    assert!(first_line(&mut socket).await.starts_with("HTTP/1.1 201"));
}

/// Each name stands in every row of the JSON that CSV becomes, and a field of a form is a pair of strings.
#[tokio::test]
async fn a_body_that_becomes_many_times_as_long() {
    let fleet = fleet("[listen.clients]\nmax_buffered = 2000000").await;
    let rows = format!("{}\n{}", "n".repeat(60), "1\n".repeat(14_000));
    for (path, kind, body) in
        [("papers", "text/csv", rows), ("rpc/long", "application/x-www-form-urlencoded", "a&".repeat(30_000))]
    {
        let request = fleet.request(reqwest::Method::POST, &format!("/acme/{path}")).body(body);
        let answer = request.header("Content-Type", kind).send().await.unwrap();
        assert_eq!(answer.status(), 503, "{path}");
        assert!(answer.text().await.unwrap().contains("MBX112"), "{path}");
    }
}

/// 30 MB, more than sockets hold.
const PAGES: &[u8] = b"GET /acme/pages HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

#[tokio::test]
async fn an_answer_that_nobody_takes() {
    let fleet = fleet("[listen.clients]\nstall_timeout = '300ms'\nmin_rate = 100000").await;
    let held = said(&fleet, PAGES).await;
    eventually("it is cut off", || async { count(&fleet, "closes", "slow_reader") == 1 }).await;
    drop(held);
    // Drop by drop.
    let mut held = said(&fleet, PAGES).await;
    let drops = async {
        while held.read(&mut [0; 10]).await.is_ok_and(|read| read > 0) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = drops => {}
        () = eventually("it is cut off", || async { count(&fleet, "closes", "slow_reader") == 2 }) => {}
    }
    // One that takes its time but takes it.
    let mut steady =
        said(&fleet, b"GET /acme/pages?limit=10 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            .await;
    let (mut taken, mut piece) = (0, vec![0; 50_000]);
    loop {
        match steady.read(&mut piece).await.unwrap() {
            0 => break,
            read => taken += read,
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert!(taken > 1_000_000, "{taken}");
}

/// Requests over HTTP/2 on these many streams, from a client that opens no window.
fn closed_window(path: &str, streams: u32) -> Vec<u8> {
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0".to_vec();
    // GET, http, then path and authority spelled out.
    let mut fields = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    fields.extend(path.bytes());
    fields.extend(b"\x01\x09127.0.0.1");
    for stream in 0..streams {
        said.extend([0, 0, u8::try_from(fields.len()).unwrap(), 1, 5]);
        said.extend((2 * stream + 1).to_be_bytes());
        said.extend(&fields);
    }
    said
}

#[tokio::test]
async fn an_answer_behind_a_closed_window() {
    let fleet = fleet("[listen.clients]\nstall_timeout = '300ms'").await;
    for path in ["/acme/pages", "/acme/rpc/long?bytes=50000", "/acme/items?limit=1", "/nobody/items"] {
        let mut socket = said(&fleet, &closed_window(path, 3)).await;
        to_the_end(&mut socket).await;
    }
    assert_eq!(count(&fleet, "closes", "slow_reader"), 4);
}

/// Short answers that are not taken count as well.
#[tokio::test]
async fn short_answers_behind_closed_windows() {
    let fleet = fleet("[listen.clients]\nmax_buffered = 4000000").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(said(&fleet, &closed_window("/acme/rpc/long?bytes=50000", 100)).await);
    }
    eventually("they hold all that the tenant may hold", || async {
        let refused = fleet.get("/acme/items").await;
        refused.status == 503 && refused.code() == "MBX112"
    })
    .await;
    assert_eq!(fleet.get("/globex/items").await.status, 200);
    assert_eq!(fleet.get("/globex/rpc/long?bytes=50000").await.status, 200);
    drop(held);
    eventually("there is room again", || async { fleet.get("/acme/items").await.status == 200 }).await;
}

/// Long ones as well: what the client does not take is held within the tenant's part.
#[tokio::test]
async fn long_answers_that_nobody_takes_leave_room_to_others() {
    let fleet = fleet("[listen.clients]\nmax_buffered = 8000000").await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(said(&fleet, PAGES).await);
    }
    held.push(said(&fleet, &closed_window("/acme/pages", 20)).await);
    for _ in 0..20 {
        let whole = fleet.get("/globex/pages?limit=20").await;
        assert_eq!((whole.status.as_u16(), whole.json().as_array().unwrap().len()), (200, 20));
    }
    drop(held);
}

/// An answer to a change is whole and here before its COMMIT.
#[tokio::test]
async fn an_answer_longer_than_the_tier_allows() {
    let fleet = fleet("[tiers.standard]\nmax_answer = 100000").await;
    for path in ["/acme/pages", "/acme/rpc/long?bytes=200000"] {
        let refused = fleet.get(path).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "MBX110"), "{path}");
    }
    assert_eq!(fleet.get("/acme/rpc/long?bytes=90000").await.status, 200);
}
