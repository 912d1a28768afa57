//! Connections that are held: silent ones, half a head, an idle HTTP/2, more than anybody may have.

use std::time::Duration;

use manybox::front::Clients;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{TestFleet, eventually};

/// What an HTTP/2 client says first: the preface and empty SETTINGS.
pub(super) const H2_START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SLEEPS: &str = "CREATE FUNCTION sleeps(seconds float) RETURNS int LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(seconds); RETURN 7; END'; GRANT EXECUTE ON FUNCTION sleeps TO anon;";

async fn fleet(clients: &str) -> TestFleet {
    let toml = format!("[listen.clients]\n{clients}\n[tiers.standard]\nmax_connections = 3");
    let fleet = TestFleet::builder().toml(&toml).tenants(&["acme", "globex"]).serve().await;
    for tenant in ["acme", "globex"] {
        fleet.owner(tenant).await.batch_execute(SLEEPS).await.unwrap();
        assert_eq!(fleet.get(&format!("/{tenant}/items")).await.status, 200);
    }
    fleet
}

/// A connection on which so much was said, and no more.
async fn said(fleet: &TestFleet, text: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(fleet.address()).await.unwrap();
    socket.write_all(text).await.unwrap();
    socket
}

async fn many(fleet: &TestFleet, count: usize, text: &[u8]) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(said(fleet, text).await);
    }
    all
}

/// All that the router sends until it closes.
pub(super) async fn to_the_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut bytes))
        .await
        .expect("it is closed");
    bytes
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
}

/// Reads an answer's head, whose body the test knows to be short.
async fn answer(socket: &mut TcpStream) -> String {
    let mut bytes = vec![0; 4096];
    let read = socket.read(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

pub(super) fn count(fleet: &TestFleet, name: &str, reason: &str) -> u64 {
    let mut registry = prometheus_client::registry::Registry::default();
    fleet.app.as_ref().unwrap().metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = format!("client_{name}_total{{port=\"http\",reason=\"{reason}\"}} ");
    text.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
}

const BEGINNINGS: [(&str, &[u8]); 6] = [
    ("nothing", b""),
    ("one byte", b"G"),
    ("half a head", b"GET /globex/items HTTP/1.1\r\nHost: 127."),
    ("half a preface", b"PRI * HTTP/2.0\r\n"),
    ("a preface", H2_START),
    // HEADERS for stream 1 without END_HEADERS.
    ("half the headers", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x82"),
];

#[tokio::test]
async fn whoever_says_too_little_shuts_nobody_out() {
    let fleet = fleet("max_connections = 30").await;
    for (what, beginning) in BEGINNINGS {
        let held = many(&fleet, 100, beginning).await;
        assert_eq!(fleet.get("/acme/items").await.status, 200, "{what}");
        drop(held);
    }
    assert!(count(&fleet, "closes", "evicted") > 100);
}

#[tokio::test]
async fn one_address_takes_its_own_places_only() {
    let fleet = fleet("max_connections = 60\nmax_per_address = 20").await;
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.77:0".parse().unwrap()).unwrap();
    let mut quiet = other.connect(fleet.address()).await.unwrap();
    quiet.write_all(&request("/globex/items")).await.unwrap();
    assert!(answer(&mut quiet).await.starts_with("HTTP/1.1 200"));
    let held = many(&fleet, 100, b"").await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    // Older than all of those, idle, and of another address.
    quiet.write_all(&request("/globex/items")).await.unwrap();
    assert!(answer(&mut quiet).await.starts_with("HTTP/1.1 200"));
    drop(held);
}

#[tokio::test]
async fn a_first_head_that_does_not_come() {
    let fleet = fleet("head_timeout = '200ms'").await;
    for (what, beginning) in BEGINNINGS {
        let mut socket = said(&fleet, beginning).await;
        let end = to_the_end(&mut socket).await;
        assert!(beginning == H2_START || !end.starts_with(b"HTTP/1.1 200"), "{what}");
    }
    assert_eq!(count(&fleet, "closes", "head_timeout"), BEGINNINGS.len() as u64);
    // A byte now and then is no head either.
    let mut socket = said(&fleet, b"GET /acme/items HTTP/1.1\r\n").await;
    let drips = async {
        while socket.write_all(b"X-A: b\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), drips).await.expect("it is closed");
}

#[tokio::test]
async fn the_admin_port_has_the_same_deadline() {
    let fleet = fleet("head_timeout = '200ms'").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = fleet.app.as_ref().unwrap().metrics.clone();
    let operators = Clients::of_admin(&fleet.fleet.settings.listen, metrics);
    let routes = axum::Router::new().route("/live", axum::routing::get(|| async { "live" }));
    tokio::spawn(manybox::front::serve(listener, routes, operators, std::future::pending()));
    let mut held = Vec::new();
    for _ in 0..600 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    let mut operator = TcpStream::connect(address).await.unwrap();
    operator.write_all(&request("/live")).await.unwrap();
    assert!(answer(&mut operator).await.ends_with("live"));
    for socket in &mut held {
        assert_eq!(to_the_end(socket).await, b"");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time() {
    // A client is looked at again after the time for a head, and while it is busy after that for a stall.
    let fleet = fleet("idle_timeout = '300ms'\nhead_timeout = '1s'\nstall_timeout = '1s'").await;
    // A request of HTTP/2 is HEADERS on stream 1: GET, http, "/", with indexed fields only.
    let h2 = [H2_START, b"\0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84"].concat();
    for (what, asked) in [("HTTP/1", request("/acme/items")), ("HTTP/2", h2)] {
        let mut socket = said(&fleet, &asked).await;
        assert!(!to_the_end(&mut socket).await.is_empty(), "{what}");
    }
}

#[tokio::test]
async fn idle_connections_make_room_and_busy_ones_do_not() {
    let fleet = fleet("max_connections = 4").await;
    let mut busy = said(&fleet, &request("/acme/rpc/sleeps?seconds=2")).await;
    fleet.until_under_way("acme").await;
    let mut idle = said(&fleet, &request("/globex/items")).await;
    assert!(answer(&mut idle).await.starts_with("HTTP/1.1 200"));
    let mut others = Vec::new();
    for _ in 0..20 {
        let mut next = said(&fleet, &request("/globex/items")).await;
        assert!(answer(&mut next).await.starts_with("HTTP/1.1 200"));
        others.push(next);
    }
    assert_eq!(to_the_end(&mut idle).await, b"", "its place was taken");
    assert!(answer(&mut busy).await.ends_with('7'));
}

#[tokio::test]
async fn where_all_are_busy_the_newcomer_is_refused_and_counted() {
    let fleet = fleet("max_connections = 2").await;
    let mut busy = many(&fleet, 2, &request("/acme/rpc/sleeps?seconds=2")).await;
    fleet.until_under_way("acme").await;
    eventually("both are under way, and a newcomer finds no place", || async {
        let mut next = said(&fleet, &request("/globex/items")).await;
        to_the_end(&mut next).await.is_empty()
    })
    .await;
    assert!(count(&fleet, "refusals", "all") > 0);
    for socket in &mut busy {
        assert!(answer(socket).await.ends_with('7'));
    }
    assert_eq!(fleet.get("/globex/items").await.status, 200);
}

#[tokio::test]
async fn a_tenants_clients_leave_places_to_the_others() {
    let fleet = fleet("max_per_tenant = 3").await;
    let mut busy = many(&fleet, 3, &request("/acme/rpc/sleeps?seconds=2")).await;
    eventually("its places are taken", || async {
        let refused = fleet.get("/acme/items").await;
        refused.status == 503 && refused.code() == "MBX111" && refused.headers["connection"] == "close"
    })
    .await;
    assert_eq!(fleet.get("/globex/items").await.status, 200);
    assert!(count(&fleet, "refusals", "tenant") > 0);
    for socket in &mut busy {
        assert!(answer(socket).await.ends_with('7'));
    }
    // Idle ones give way.
    for _ in 0..20 {
        assert_eq!(fleet.get("/acme/items").await.status, 200);
    }
}

#[tokio::test]
async fn a_connection_counts_for_the_tenant_that_it_asked_last() {
    let fleet = fleet("max_per_tenant = 1").await;
    let mut socket = TcpStream::connect(fleet.address()).await.unwrap();
    for tenant in ["acme", "globex", "acme", "globex"] {
        socket.write_all(&request(&format!("/{tenant}/items"))).await.unwrap();
        assert!(answer(&mut socket).await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    assert_eq!(count(&fleet, "closes", "evicted"), 0);
}

#[tokio::test]
async fn a_trusted_proxy_may_have_more() {
    let limits = "[listen.clients]\nmax_per_address = 2\nmax_per_tenant = 2";
    let mut fleet = TestFleet::builder().toml(limits).tenants(&["acme"]).build().await;
    fleet.edit_settings(|text| text.replace("[listen]", "[listen]\ntrusted_proxies = ['127.0.0.0/8']")).await;
    fleet.start_router().await;
    let mut all = many(&fleet, 10, &request("/acme/items")).await;
    for _ in 0..2 {
        for socket in &mut all {
            assert!(answer(socket).await.starts_with("HTTP/1.1 200"));
            socket.write_all(&request("/acme/items")).await.unwrap();
        }
    }
}

/// 100 heads of 90 KB that never end, over and over: read buffers are memory too.
#[tokio::test]
async fn long_heads_that_never_end() {
    let fleet = fleet("max_connections = 50").await;
    let long = [b"GET /acme/items?".as_slice(), &vec![b'x'; 60_000]].concat();
    let held = many(&fleet, 100, &long).await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    // More than a buffer holds is refused, and not read on.
    let mut endless = said(&fleet, b"GET /acme/items HTTP/1.1\r\nX-A: ").await;
    tokio::time::timeout(Duration::from_secs(20), async {
        while endless.write_all(&[b'x'; 1024]).await.is_ok() {}
    })
    .await
    .expect("it is closed");
    drop(held);
}

/// HTTP/2 streams that are opened and reset at once cost the router no more than their heads.
#[tokio::test]
async fn streams_that_are_reset_at_once() {
    let fleet = fleet("").await;
    let mut flood = H2_START.to_vec();
    for stream in (1_u32..20_001).step_by(2) {
        flood.extend(b"\0\0\x03\x01\x05");
        flood.extend(stream.to_be_bytes());
        flood.extend(b"\x82\x86\x84\0\0\x04\x03\0");
        flood.extend(stream.to_be_bytes());
        flood.extend(8_u32.to_be_bytes());
    }
    let mut socket = TcpStream::connect(fleet.address()).await.unwrap();
    let _ = socket.write_all(&flood).await;
    to_the_end(&mut socket).await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
}
