//! A server that is none: it sends garbage, lengths that lie, half a message, the right ones in a wrong order. The request
//! fails in time, and nothing panics or grows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use manybox::pg::Endpoint;
use manybox::pool::{Budget, Pools};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{NARROW, Reply, Tested};
use crate::support::proxy::{Fault, Proxy, Side};
use crate::support::{TestFleet, eventually};

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    frame(tag, u32::try_from(body.len() + 4).unwrap(), body)
}

/// A message that says it is so long.
fn frame(tag: u8, length: u32, body: &[u8]) -> Vec<u8> {
    [&[tag], length.to_be_bytes().as_slice(), body].concat()
}

fn error(severity: &str, code: &str) -> Vec<u8> {
    message(b'E', format!("S{severity}\0V{severity}\0C{code}\0Mforged\0\0").as_bytes())
}

/// What no server sends amid a request.
fn lies() -> Vec<(&'static str, Vec<u8>)> {
    let row = |values: u16, length: i32, body: &[u8]| {
        let value = [&values.to_be_bytes()[..], &length.to_be_bytes(), body].concat();
        message(b'D', &value)
    };
    vec![
        ("an unknown message", message(b'x', b"")),
        ("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("zeros", vec![0; 64]),
        ("a length of 3", frame(b'C', 3, b"")),
        ("a negative length", frame(b'D', u32::MAX, b"")),
        ("a row without values", frame(b'D', 5, &[0])),
        ("a value longer than its row", row(1, 1000, b"short")),
        ("a row of a value of less than nothing", row(8, -2, b"")),
        ("a row of more values than it has", row(9, -1, b"")),
        ("an error without an end", message(b'E', b"SERROR\0CXX000")),
        ("an error out of nowhere", error("ERROR", "XX000")),
        ("a fatal error", error("FATAL", "57P01")),
        ("a description of columns that are not there", message(b't', &[0xff, 0xff])),
        ("a status that is none", message(b'Z', b"?")),
        ("a status without one", message(b'Z', b"")),
        ("an early end", message(b'Z', b"I")),
        ("a copy", message(b'G', &[0, 0, 0])),
        ("a login", message(b'R', &[0, 0, 0, 0])),
        ("a tag that is no text", message(b'C', &[0xff, 0xfe])),
    ]
}

#[tokio::test]
async fn lies_before_any_message() {
    let proxy = Proxy::start().await;
    let tested = Tested::behind(&proxy, NARROW, "").await;
    let mut id = 0;
    // Behind BEGIN's Parse, amid the settings, before the row, its end, the Sync's, amid COMMIT and reset, the very end.
    for after in [1, 5, 8, 9, 11, 14, 19] {
        for (lie, bytes) in lies() {
            id += 2;
            let body = |id: i32| format!("{{\"id\":{id}}}");
            assert_eq!(tested.call("make", &body(id)).await, Reply::Whole(200, id.to_string()));
            proxy.arm(Side::Server, after, Fault::Insert(bytes));
            let reply = tested.call("make", &body(id + 1)).await;
            assert!(proxy.has_struck(), "{after}");
            proxy.watch(&tested.tenant.database());
            match &reply {
                // Without a word of it for the caller, or where nobody looks: a row of the reset's.
                Reply::Whole(200, text) => {
                    assert_eq!(
                        (text, tested.made(id + 1).await),
                        (&(id + 1).to_string(), 1),
                        "{lie} {after}"
                    );
                }
                reply => assert!(reply.says_so(), "{lie} {after}: {reply:?}"),
            }
            tested.clean().await;
        }
    }
}

/// Some messages may be of any length. They are waited for as long as the request may take, and not kept.
#[tokio::test]
async fn messages_without_an_end() {
    let proxy = Proxy::start().await;
    let tested = Tested::behind(&proxy, &format!("{NARROW}request_timeout = '1s'"), "").await;
    let mut id = 0;
    for (tag, start) in
        [(b'N', &b""[..]), (b'E', b"SERROR\0"), (b'D', &[0, 1, 0x7f, 0xff, 0xff, 0xff]), (b'T', b"")]
    {
        for after in [3, 8] {
            id += 1;
            proxy.arm(Side::Server, after, Fault::Insert(frame(tag, i32::MAX as u32, start)));
            let reply = tested.call("make", &format!("{{\"id\":{id}}}")).await;
            // A row of so many bytes is longer than an answer may be.
            assert!(reply.says_so() || reply.refused().1 == "MBX110", "{tag} {after}: {reply:?}");
            proxy.watch(&tested.tenant.database());
            tested.clean().await;
        }
    }
}

/// A server that answers each connection with these bytes, and then with `flood` without end or with silence.
async fn imposter(answer: Vec<u8>, flood: Vec<u8>) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://{}/postgres?sslmode=disable", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (answer, flood) = (answer.clone(), flood.clone());
            tokio::spawn(async move { lie(client, &answer, &flood).await });
        }
    });
    Endpoint::parse("imposter", &url, None).unwrap().0
}

async fn lie(mut client: TcpStream, answer: &[u8], flood: &[u8]) -> std::io::Result<()> {
    let mut length = [0; 4];
    client.read_exact(&mut length).await?;
    let mut packet = vec![0; (u32::from_be_bytes(length) as usize).clamp(4, 10_000) - 4];
    client.read_exact(&mut packet).await?;
    client.write_all(answer).await?;
    while !flood.is_empty() {
        client.write_all(flood).await?;
    }
    tokio::io::copy(&mut client, &mut tokio::io::sink()).await.map(drop)
}

#[tokio::test]
async fn a_login_to_an_imposter() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let tenant = fleet.tenant("acme").await;
    let mut hurried = tenant.as_ref().clone();
    hurried.limits.acquire_timeout = Duration::from_secs(2);
    let tenant = Arc::new(hurried);
    let most = i32::MAX as u32;
    let asks = |code: u32, more: &[u8]| message(b'R', &[&code.to_be_bytes(), more].concat());
    let ready = [asks(0, b""), message(b'K', &[0; 8]), message(b'Z', b"I")].concat();
    // A server-first message: the client's nonce has to be its start, which nobody can know beforehand.
    let scram = asks(10, b"SCRAM-SHA-256\0\0");
    let mut attempts = tokio::task::JoinSet::new();
    for (lie, answer, flood) in [
        ("silence", Vec::new(), Vec::new()),
        ("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Vec::new()),
        ("an endless login", frame(b'R', most, &[0, 0, 0, 10]), vec![b'x'; 65536]),
        ("a login of another kind", asks(7, b""), Vec::new()),
        ("a login of no kind", asks(99, b""), Vec::new()),
        ("no mechanism", asks(10, b"\0"), Vec::new()),
        ("another mechanism", asks(10, b"PLAIN\0\0"), Vec::new()),
        ("mechanisms without an end", asks(10, b"SCRAM-SHA-256"), Vec::new()),
        ("a challenge without a nonce", [scram.clone(), asks(11, b"r=,s=,i=4096")].concat(), Vec::new()),
        ("a challenge that is none", [scram.clone(), asks(11, &[0xff; 100])].concat(), Vec::new()),
        ("an end without a challenge", [scram.clone(), asks(12, b"v=AAAA")].concat(), Vec::new()),
        ("a welcome without a proof", [scram, asks(0, b"")].concat(), Vec::new()),
        ("a key that is too short", [asks(0, b""), message(b'K', &[0; 3])].concat(), Vec::new()),
        ("parameters without end", asks(0, b""), message(b'S', b"a\0b\0").repeat(1000)),
        ("notices without end", asks(0, b""), message(b'N', b"SNOTICE\0\0").repeat(1000)),
        ("errors without end", ready.clone(), error("ERROR", "XX000").repeat(1000)),
        ("rows without end", ready.clone(), message(b'D', &[0, 0]).repeat(1000)),
        ("the right start of nothing", ready, Vec::new()),
    ] {
        let endpoint = imposter(answer, flood).await;
        let servers = HashMap::from([("main".to_owned(), (endpoint, Budget::default()))]);
        let (pools, tenant) = (Pools::new(servers, Arc::clone(&fleet.fleet.keys)), Arc::clone(&tenant));
        attempts.spawn(async move {
            let refused = tokio::time::timeout(Duration::from_secs(4), pools.checkout(&tenant)).await;
            assert!(refused.unwrap_or_else(|_| panic!("{lie}: it hangs")).is_err(), "{lie}");
        });
    }
    while let Some(attempt) = attempts.join_next().await {
        attempt.unwrap();
    }
}

/// How its password is hashed, a login may write for itself, and the server then asks for just that: other tenants wait
/// for none of it, and the server is not taken for one that is down.
#[tokio::test]
async fn a_password_that_nobody_can_afford() {
    let dear = "CREATE FUNCTION dear(iterations text, salt text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            PERFORM set_config('role', 'none', true);
            EXECUTE format('ALTER ROLE %I PASSWORD %L', session_user, format('SCRAM-SHA-256$%s:%s$%s:%s', iterations,
                salt, encode(sha256('a'), 'base64'), encode(sha256('b'), 'base64'))); END $$;
        GRANT EXECUTE ON FUNCTION dear TO anon;";
    let fleet = TestFleet::builder().toml(NARROW).tenants(&["acme", "other"]).serve().await;
    let tested = Tested::on(fleet, dear).await;
    let admin = tested.fleet.admin("acme").await;
    // PostgreSQL itself hashes once, to see whether the password is empty.
    for (iterations, salt) in [("500000", "A".repeat(24)), ("4096", "A".repeat(2_000_000))] {
        let body = serde_json::json!({ "iterations": iterations, "salt": salt }).to_string();
        let changed = tested.call("dear", &body).await;
        if iterations == "4096" && changed.status() != 204 {
            continue; // From PostgreSQL 18 on no password is as long.
        }
        assert_eq!(changed.status(), 204, "{changed:?}");
        tested.without_sessions().await;
        for _ in 0..3 {
            let reply = tokio::time::timeout(Duration::from_secs(5), tested.call("state", "{}")).await;
            assert!(reply.expect("nobody computes that").says_so());
            let other = tested.fleet.get("/other/items").await;
            assert_eq!(other.status, 200, "{}", other.text);
            let other = tested.fleet.tenant("other").await;
            tested.fleet.app.as_ref().unwrap().pools.drain(&other.id);
        }
        let login = &tested.fleet.fleet.keys.tenant_logins(&tested.tenant)[0];
        let own = format!("ALTER ROLE {} PASSWORD '{}'", login.user, login.verifier().unwrap());
        admin.batch_execute(&own).await.unwrap();
        eventually("its own password counts again", || async { tested.state().await.is_ok() }).await;
    }
}
