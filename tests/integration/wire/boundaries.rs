//! The wire breaks, or its reader goes away, at each place where it can.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use reqwest::Method;

use super::{NARROW, Reply, Tested};
use crate::support::eventually;
use crate::support::proxy::{Fault, Proxy, Side, notice, parameter_status};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Read,
    Long,
    Write,
    Judged,
    Call,
}

const ALL: [Kind; 5] = [Kind::Read, Kind::Long, Kind::Write, Kind::Judged, Kind::Call];

impl Kind {
    fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Judged | Self::Call)
    }

    /// Method, path, `Prefer` and body; `id` is new for each.
    fn request(self, id: i32) -> (Method, &'static str, &'static str, String) {
        let row = format!("{{\"id\":{id},\"word\":\"made\"}}");
        match self {
            Self::Read => (Method::GET, "marks?id=eq.0&select=word", "", String::new()),
            Self::Long => (Method::GET, "pages", "", String::new()),
            Self::Write => (Method::POST, "marks?select=id", "return=representation", row),
            Self::Judged => {
                (Method::POST, "rpc/make_some", "handling=strict, max-affected=1", format!("{{\"id\":{id}}}"))
            }
            Self::Call => (Method::POST, "rpc/make", "", format!("{{\"id\":{id}}}")),
        }
    }

    async fn ask(self, tested: &Tested, id: i32) -> Reply {
        let (method, path, prefer, body) = self.request(id);
        tested.ask(method, path, prefer, &body).await
    }

    fn right(self, id: i32) -> Reply {
        match self {
            Self::Read => Reply::Whole(200, "[{\"word\":\"kept\"}]".into()),
            Self::Long => Reply::Whole(200, format!("[{{\"text\":\"{}\"}}]", "long".repeat(50_000))),
            Self::Write => Reply::Whole(201, format!("[{{\"id\":{id}}}]")),
            Self::Judged => Reply::Whole(200, format!("[{id}]")),
            Self::Call => Reply::Whole(200, id.to_string()),
        }
    }
}

/// Asks once so that the session has the statements, then with the wire broken `after` so many messages of this side.
/// Gives back whether there were as many.
async fn struck(tested: &Tested, proxy: &Proxy, kind: Kind, id: i32, side: Side, after: usize) -> bool {
    proxy.arm(side, after, Fault::Cut);
    let reply = kind.ask(tested, id).await;
    let has_struck = proxy.has_struck();
    proxy.watch(&tested.tenant.database());
    let right = reply == kind.right(id);
    assert!(right || (has_struck && reply.says_so()), "{kind:?} {side:?} {after}: {reply:?}");
    if right && kind.changes() {
        assert_eq!(tested.made(id).await, 1, "{kind:?} {side:?} {after}: it said so");
    }
    has_struck
}

#[tokio::test]
async fn cut_before_any_message() {
    let proxy = Proxy::start().await;
    let tested = Tested::behind(&proxy, NARROW, "").await;
    let mut id = 0;
    for kind in ALL {
        for side in [Side::Client, Side::Server] {
            for after in 0.. {
                assert_eq!(kind.ask(&tested, id + 1).await, kind.right(id + 1));
                id += 2;
                let has_struck = struck(&tested, &proxy, kind, id, side, after).await;
                tested.clean().await;
                if !has_struck {
                    // BEGIN, the settings and the query are at least so many.
                    assert!(after > 6, "{kind:?} {side:?} {after}");
                    break;
                }
            }
        }
    }
}

/// The same from the first byte of the session on, with statements that are not prepared.
#[tokio::test]
async fn a_new_session_cut_before_any_message() {
    let proxy = Proxy::start().await;
    let tested = Tested::behind(&proxy, NARROW, "").await;
    for (side, first) in [(Side::Client, 1), (Side::Server, 1000)] {
        for after in 0.. {
            tested.without_sessions().await;
            let id = first + after;
            if !struck(&tested, &proxy, Kind::Write, id, side, after as usize).await {
                assert!(after > 12, "{side:?} {after}");
                break;
            }
            // A server that hung up on a login is left alone for some milliseconds.
            eventually("it is served again", || async { tested.state().await.is_ok() }).await;
            tested.clean().await;
        }
    }
}

#[tokio::test]
async fn a_notice_or_a_parameter_before_any_message() {
    let proxy = Proxy::start().await;
    let tested = Tested::behind(&proxy, NARROW, "").await;
    let backend = tested.clean().await;
    let large = notice(&"x".repeat(2 * 1024 * 1024));
    let mut id = 0;
    for kind in ALL {
        for after in 0.. {
            id += 1;
            let small = [notice("said"), parameter_status("TimeZone", "UTC")].concat();
            let bytes = if after % 4 == 0 { large.clone() } else { small };
            proxy.arm(Side::Server, after, Fault::Insert(bytes));
            assert_eq!(kind.ask(&tested, id).await, kind.right(id), "{kind:?} {after}");
            if !proxy.has_struck() {
                break;
            }
            proxy.watch(&tested.tenant.database());
        }
    }
    assert_eq!(tested.clean().await, backend);
}

#[tokio::test]
async fn silence_ends_with_the_requests_time() {
    let proxy = Proxy::start().await;
    let tested = Tested::behind(&proxy, &format!("{NARROW}request_timeout = '300ms'"), "").await;
    let mut id = 0;
    for kind in [Kind::Read, Kind::Write] {
        for (side, after) in [(Side::Client, 0), (Side::Client, 5), (Side::Server, 0), (Side::Server, 9)] {
            id += 2;
            assert_eq!(kind.ask(&tested, id).await, kind.right(id));
            proxy.arm(side, after, Fault::Stall);
            let reply = kind.ask(&tested, id + 1).await;
            assert_eq!(reply.status(), 504, "{kind:?} {side:?} {after}: {reply:?}");
            assert!(proxy.has_struck());
            proxy.resume();
            proxy.watch(&tested.tenant.database());
            tested.clean().await;
        }
    }
}

/// Drives the future until it has an outcome or was polled so many times; it is dropped then.
async fn polled<T>(future: impl Future<Output = T>, mut times: usize) -> Option<T> {
    let mut future: Pin<Box<_>> = Box::pin(future);
    poll_fn(move |cx| {
        if times == 0 {
            return Poll::Ready(None);
        }
        times -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

/// The proxy passes each message by itself, so that the router waits for each.
#[tokio::test]
async fn a_client_that_hangs_up_at_any_await() {
    let proxy = Proxy::start().await;
    let tested = Tested::behind(&proxy, NARROW, "").await;
    let rest = &tested.fleet.app.as_ref().unwrap().rest;
    let mut id = 0;
    for kind in ALL {
        for times in 1.. {
            assert!(times < 200, "{kind:?} never ends");
            id += 1;
            let (method, path, prefer, body) = kind.request(id);
            let mut request = Tested::request(method, path, &body);
            if !prefer.is_empty() {
                request.headers_mut().insert("prefer", prefer.parse().unwrap());
            }
            let answer = polled(
                async {
                    let answer = rest.serve(&tested.tenant, request.map(Full::new)).await;
                    let status = answer.status().as_u16();
                    let body = answer.into_body().collect().await.unwrap().to_bytes();
                    Reply::Whole(status, String::from_utf8(body.into()).unwrap())
                },
                times,
            )
            .await;
            tested.clean().await;
            if let Some(answer) = answer {
                assert_eq!(answer, kind.right(id));
                assert!(times > 1, "{kind:?}");
                break;
            }
        }
    }
    let login = tested.tenant.database();
    let admin = tested.fleet.admin("acme").await;
    let open = "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid)
                WHERE usename = $1 AND locktype = 'virtualxid'";
    eventually("no transaction stays open", || async {
        admin.query_one(open, &[&login]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

/// While a request waits for a lock: hung up on, it lets go of it, and the transaction with it.
#[tokio::test]
async fn a_client_that_hangs_up_amid_a_statement() {
    let tested = Tested::new(NARROW, "").await;
    let rest = &tested.fleet.app.as_ref().unwrap().rest;
    tested.owner.batch_execute("BEGIN; LOCK TABLE marks").await.unwrap();
    for kind in [Kind::Read, Kind::Write, Kind::Judged, Kind::Call] {
        let (method, path, _, body) = kind.request(7);
        let request = rest.serve(&tested.tenant, Tested::request(method, path, &body).map(Full::new));
        assert!(tokio::time::timeout(Duration::from_millis(100), request).await.is_err());
        tested.clean().await;
    }
    tested.owner.batch_execute("COMMIT").await.unwrap();
    assert_eq!(tested.made(7).await, 0);
}
