//! Serve: the listener, with every wait for a client bounded, and a stop that lets requests under way finish.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulConnection;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::clients::{Client, Clients, Look, Pace, UnderWay};
use super::refused::{Exchange, ExplainedSocket, Refusals};
use super::socket::Socket;
use super::tls::Transport;
use crate::backoff::spread;
use crate::settings::ClientSettings;

/// How often a quiet HTTP/2 client is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Most requests of an HTTP/2 connection at once: what RFC 9113, 6.5.2 calls the least that is useful.
const MAX_STREAMS: u32 = 100;
/// Bytes that an HTTP/2 client may send before they are taken: for a request, and for all of a connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Most bytes that a connection's buffers hold: the longest URL, some headers, and a piece of an answer.
const MAX_BUFFER: usize = 96 * 1024;
/// Connections taken one after the other before others have their turn on this thread: some tenths of a millisecond. Thousands
/// that come at once would keep it for a second.
const MAX_IN_A_ROW: u32 = 8;
/// The pause after the process has run out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where clients connect, by TLS or without.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

impl Listener {
    /// One whose clients speak TLS.
    pub fn with_tls(tcp: TcpListener, tls: Arc<ServerConfig>) -> Self {
        Self { tcp, tls: Some(tls) }
    }
}

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, tls: None }
    }
}

/// Serves, on the data or the admin port, until `shutdown` ends, then takes no new requests and gives those under way as long
/// to finish as `shutdown` has said. What a client may hold is for `clients` to say.
///
/// # Errors
/// None now; a listener that fails for a moment is tried again.
pub async fn serve<S>(
    listener: impl Into<Listener>,
    service: S,
    clients: Clients,
    shutdown: impl Future<Output = Duration> + Send + 'static,
) -> io::Result<()>
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let Listener { tcp: listener, tls } = listener.into();
    let port = Arc::new(Port { http: http(clients.settings()), service, clients: clients.clone(), tls });
    let (stop, stopping) = watch::channel(false);
    // Ends when the last connection has.
    let (alive, mut ended) = mpsc::channel::<()>(1);
    tokio::pin!(shutdown);
    let mut in_a_row = 0;
    let drain = loop {
        in_a_row += 1;
        if in_a_row == MAX_IN_A_ROW {
            in_a_row = 0;
            yield_now().await;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            drain = &mut shutdown => break drain,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a client could not be accepted");
                clients.close_oldest();
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(client) = clients.admit(peer.ip()) else { continue };
        let place = Place(client);
        let (port, stopping, alive) = (Arc::clone(&port), stopping.clone(), alive.clone());
        tokio::spawn(async move {
            port.welcome(socket, peer, &place.0, stopping).await;
            drop((place, alive));
        });
    };
    drop((listener, alive));
    stop.send_replace(true);
    tokio::select! {
        _ = ended.recv() => {}
        () = sleep(drain) => {
            tracing::warn!(ms = drain.as_millis() as u64, "requests still under way were cut off");
        }
    }
    Ok(())
}

/// What the connections of a listener have in common.
struct Port<S> {
    http: Builder<TokioExecutor>,
    service: S,
    clients: Clients,
    tls: Option<Arc<ServerConfig>>,
}

impl<S> Port<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    /// Serves one client to its end. What HTTP needs is made once it says something: whoever opens thousands of silent
    /// connections a second shall cost others as little as can be.
    async fn welcome(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        client: &Arc<Client>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let head_timeout = self.clients.settings().head_timeout;
        let speaks = tokio::select! {
            biased;
            readable = socket.readable() => readable.is_ok(),
            _ = client.evicted() => false,
            _ = stopping.wait_for(|stop| *stop) => false,
            () = sleep(spread(head_timeout)) => {
                self.clients.closed("head_timeout");
                false
            }
        };
        if speaks {
            // Boxed, so that the silent don't carry its room.
            Box::pin(self.converse(socket, peer, client, stopping)).await;
        }
    }

    async fn converse(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        client: &Arc<Client>,
        stopping: watch::Receiver<bool>,
    ) {
        let own = Arc::clone(client);
        let exchange = Exchange::default();
        let answers = exchange.clone();
        let leaving = Leaving { stops: self.clients.winding_down(), speaks_http2: Arc::default() };
        let (leaves, refusals) = (leaving.clone(), Refusals { clients: self.clients.clone(), peer });
        let told = refusals.clone();
        let service = self.service.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            let leaves = leaves.of(request.version());
            let (answering, under_way) = (answers.begin(), own.begin());
            if under_way.is_none() {
                told.log(StatusCode::SERVICE_UNAVAILABLE, None);
            }
            let answer = answer(service.clone(), request, under_way);
            async move {
                let mut response = answer.await?;
                leaves.tell(&mut response);
                Ok::<_, Infallible>(response.map(|body| answering.of(body)))
            }
        });
        let _ = socket.set_nodelay(true);
        let socket = Socket::new(Transport::new(socket, self.tls.as_ref()), Arc::clone(client));
        let socket = ExplainedSocket::new(socket, exchange).telling(refusals);
        let connection = self.http.serve_connection(TokioIo::new(socket), service);
        keep(connection, client, &self.clients, stopping, leaving).await;
    }
}

fn http(settings: &ClientSettings) -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    // Also the longest time between two requests, which hyper does not tell apart. The first has a deadline of ours: none
    // of hyper's runs before the first bytes, nor for HTTP/2.
    let head_timeout = settings.idle_timeout.max(settings.head_timeout);
    http.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(MAX_BUFFER);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_BUFFER);
    http
}

/// How a connection's client is told that the router is about to stop, before anything is closed.
#[derive(Clone)]
struct Leaving {
    stops: watch::Receiver<bool>,
    /// Known with the first request.
    speaks_http2: Arc<(AtomicBool, Notify)>,
}

impl Leaving {
    /// For a request of this version.
    fn of(&self, version: Version) -> Told {
        let is_http2 = version == Version::HTTP_2;
        if is_http2 && !self.speaks_http2.0.swap(true, Ordering::AcqRel) {
            self.speaks_http2.1.notify_one();
        }
        Told { stops: self.stops.clone(), is_http2 }
    }

    /// Returns when a client that speaks HTTP/2 is to be told, which its connection does at any time.
    async fn of_http2(&mut self) {
        // The sender lives as long as the port's clients.
        let _ = self.stops.wait_for(|stops| *stops).await;
        while !self.speaks_http2.0.load(Ordering::Acquire) {
            self.speaks_http2.1.notified().await;
        }
    }
}

/// How a request's client is told.
struct Told {
    stops: watch::Receiver<bool>,
    is_http2: bool,
}

impl Told {
    /// Over HTTP/1 the answer says that it is the connection's last.
    fn tell<B>(&self, response: &mut Response<B>) {
        if !self.is_http2 && *self.stops.borrow() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// A place, given up when its connection has ended, however that ends.
struct Place(Arc<Client>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Serves one connection to its end, or until it is to be closed.
async fn keep<C>(
    connection: C,
    client: &Client,
    clients: &Clients,
    mut stopping: watch::Receiver<bool>,
    mut leaving: Leaving,
) where
    C: GracefulConnection,
{
    let mut connection = pin!(connection);
    let (mut pace, mut is_closing, mut is_evicted) = (Pace::default(), false, false);
    let mut is_told = false;
    let mut wait = Duration::ZERO;
    loop {
        let look = sleep(wait);
        tokio::select! {
            // A client that breaks off or sends no HTTP is its own affair.
            _ = connection.as_mut() => return,
            is_busy = client.evicted(), if !is_evicted => {
                is_evicted = true;
                connection.as_mut().graceful_shutdown();
                if !is_busy {
                    // What it says at once; an HTTP/2 client gets to know which requests were not looked at.
                    let _ = connection.as_mut().now_or_never();
                    return;
                }
            }
            () = leaving.of_http2(), if !is_told => {
                is_told = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = stopping.wait_for(|stop| *stop), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = look => match client.look(&mut pace) {
                Look::Again(next) => wait = next,
                Look::Close(reason) => {
                    clients.closed(reason);
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.as_mut().now_or_never();
                    return;
                }
            },
        }
    }
}

/// Answers a request, as long as not too many are under way.
async fn answer<S>(
    mut service: S,
    mut request: Request<Body>,
    under_way: Option<UnderWay>,
) -> Result<Response<Answer>, Infallible>
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let Some(under_way) = under_way else {
        // No body: it would wait for the client, as those do that are under way.
        let mut refused = Response::new(Answer { body: Body::empty(), state: None });
        *refused.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        refused.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return Ok(refused);
    };
    request.extensions_mut().insert(Arc::clone(under_way.client()));
    std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
    let response = service.call(request).await?;
    Ok(response.map(|body| Answer::new(body, under_way)))
}

/// An answer's body, which tells its connection when it waits for the client and when it has ended.
struct Answer {
    body: Body,
    state: Option<(UnderWay, Waits)>,
}

/// Whether the client has not taken all that there is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Nobody has asked for more yet.
    Client,
    /// There was nothing to give when it was asked for.
    Database,
}

impl Answer {
    fn new(body: Body, under_way: UnderWay) -> Self {
        let mut answer = Self { body, state: Some((under_way, Waits::Database)) };
        if !answer.body.is_end_stream() {
            answer.set(Waits::Client);
        }
        answer
    }

    fn set(&mut self, waits: Waits) {
        let Some((under_way, now)) = &mut self.state else { return };
        let flow = &under_way.client().flow;
        match (*now, waits) {
            (Waits::Database, Waits::Client) => flow.begin_wait(),
            (Waits::Client, Waits::Database) => flow.end_wait(),
            _ => {}
        }
        *now = waits;
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.set(Waits::Database);
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        this.set(if polled.is_ready() { Waits::Client } else { Waits::Database });
        let frame = ready!(polled);
        if frame.is_none() {
            this.set(Waits::Database);
            this.state = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
