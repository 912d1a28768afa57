//! Sockets that know when the server has let go: what a pool counts connections by.
//!
//! PostgreSQL frees a connection's slot when its backend has exited, which may be seconds after the client went away.
//! The one sign of it that reaches a client is the end of the stream: a backend gives its slot back before the
//! operating system closes its side. So a guard rides on the socket and is dropped there, and nowhere earlier.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{sleep, timeout};

/// How long a socket that was given up waits for the server to close its side, at a time: who [holds](Hold) it may make it
/// wait on. A server that lives takes some milliseconds.
const LINGER: Duration = Duration::from_secs(5);

/// What rides on a socket.
pub trait Hold: Send + Sync {
    /// Whether the session is known to be on the server still, so that its socket waits on for the server's end.
    fn is_held(&self) -> bool {
        false
    }
}

impl Hold for () {}

/// What is dropped when the server has closed its side of a socket, or is not expected to any more.
pub type Guard = Arc<dyn Hold>;

/// The time for which sessions are to be on a host. At its end all its sockets fail, those that linger too.
#[derive(Debug, Clone, Default)]
pub(super) struct Tenure(Arc<Notify>);

impl Tenure {
    pub(super) fn end(&self) {
        self.0.notify_waiters();
    }

    /// Ready when the tenure that runs now has ended.
    pub(super) fn ending(&self) -> Pin<Box<OwnedNotified>> {
        Box::pin(Arc::clone(&self.0).notified_owned())
    }
}

/// A host of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// A name or an IP address, and the port.
    Tcp(String, u16),
    /// The folder of a socket, and the port in the socket's name.
    Unix(PathBuf, u16),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name, port) if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Tcp(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(folder, port) => write!(f, "{}:{port}", folder.display()),
        }
    }
}

/// How TCP notices that the other side is gone: a machine that lost its power says nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Liveness {
    /// None: no probes are sent.
    pub(super) keepalive: Option<Keepalive>,
    /// How long what was sent may stay unacknowledged.
    pub(super) user_timeout: Option<Duration>,
}

/// When a quiet connection is probed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keepalive {
    /// The silence before the first probe.
    pub(super) idle: Duration,
    /// The time between two.
    pub(super) interval: Duration,
    /// How many may stay without an answer.
    pub(super) count: u32,
}

/// Where one socket goes: what a request to cancel needs, besides the key the server gave.
#[derive(Debug, Clone)]
pub(super) struct Address {
    place: Place,
    /// The name that the server's certificate must bear; none for sockets, which have no TLS.
    hostname: Option<String>,
    /// The host's position in the URL.
    host: usize,
}

#[derive(Debug, Clone)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Calls the same method on whichever stream it is.
macro_rules! on_stream {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => $call,
            Stream::Unix($inner) => $call,
        }
    };
}

/// The bytes of one connection. Dropped while the server still holds its side, it goes on reading in the background,
/// to the end of the stream, and only then drops the guard.
pub(super) struct Socket {
    /// `None` only while it is dropped.
    stream: Option<Stream>,
    guard: Option<Guard>,
    /// When its host's tenure ends.
    ending: Option<Pin<Box<OwnedNotified>>>,
}

impl Socket {
    fn stream(&mut self) -> io::Result<&mut Stream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.ending.as_mut().is_some_and(|ending| ending.as_mut().poll(cx).is_ready())
    }
}

#[cfg(test)]
impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self { stream: Some(Stream::Unix(stream)), guard: None, ending: None }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match on_stream!(self.stream()?, s => Pin::new(s).poll_read(cx, buf)) {
            Poll::Ready(read) => read,
            Poll::Pending if self.is_over(cx) => {
                let reason = "its host is not the server's primary any more";
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason))
            }
            Poll::Pending => return Poll::Pending,
        };
        if read.is_err() || (buf.filled().len() == before && buf.remaining() > 0) {
            self.guard = None;
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self.stream()?, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self.stream()?, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self.stream()?, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self.stream()?, s => Pin::new(s).poll_shutdown(cx))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Without a runtime the process ends, and with it every socket.
        if let (Some(stream), Some(guard), Ok(runtime)) =
            (self.stream.take(), self.guard.take(), Handle::try_current())
        {
            runtime.spawn(linger(stream, guard, self.ending.take()));
        }
    }
}

/// Reads to the end: the slot is taken for just as long as the server says. But a server may say nothing for ever, be it
/// stopped, cut off, or gone behind a proxy; and while its slots are taken, its successor gets no connections.
async fn linger(mut stream: Stream, guard: Guard, ending: Option<Pin<Box<OwnedNotified>>>) {
    let mut sink = [0; 4096];
    let end = async {
        on_stream!(&mut stream, s => {
            let _ = s.shutdown().await;
            while matches!(s.read(&mut sink).await, Ok(1..)) {}
        });
    };
    let given_up = async {
        sleep(LINGER).await;
        while guard.is_held() {
            sleep(LINGER).await;
        }
    };
    let left = async {
        match ending {
            Some(ending) => ending.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = end => {}
        () = given_up => {}
        () = left => {}
    }
    drop(guard);
}

impl Host {
    #[cfg(test)]
    pub(super) fn tcp(name: &str, port: u16) -> Self {
        Self::Tcp(name.to_owned(), port)
    }

    /// Where it is now. `at` is its position in the URL.
    pub(super) async fn addresses(&self, at: usize, limit: Duration) -> io::Result<Vec<Address>> {
        match self {
            Self::Unix(folder, port) => {
                let place = Place::Unix(folder.join(format!(".s.PGSQL.{port}")));
                Ok(vec![Address { place, hostname: None, host: at }])
            }
            Self::Tcp(name, port) => {
                let found = within(limit, lookup_host((name.as_str(), *port))).await?;
                let address =
                    |place| Address { place: Place::Tcp(place), hostname: Some(name.clone()), host: at };
                let all: Vec<_> = found.map(address).collect();
                if all.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, format!("`{name}` has no address")));
                }
                Ok(all)
            }
        }
    }
}

impl Address {
    #[cfg(test)]
    pub(super) fn nowhere() -> Self {
        Self { place: Place::Unix(PathBuf::new()), hostname: None, host: 0 }
    }

    /// The name that the server's certificate must bear.
    pub(super) fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    /// The host's position in the URL.
    pub(super) fn host(&self) -> usize {
        self.host
    }

    /// Opens a socket, which holds `guard` until the server has closed its side, and fails when the host's tenure ends.
    /// The caller bounds the wait.
    pub(super) async fn dial(
        &self,
        liveness: Liveness,
        guard: Option<Guard>,
        tenure: &Tenure,
    ) -> io::Result<Socket> {
        let ending = Some(tenure.ending());
        let stream = match &self.place {
            Place::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                liveness.apply(&stream)?;
                Stream::Tcp(stream)
            }
        };
        Ok(Socket { stream: Some(stream), guard, ending })
    }
}

impl Liveness {
    fn apply(self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        if let Some(Keepalive { idle, interval, count }) = self.keepalive {
            let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(self.user_timeout)?;
        Ok(())
    }
}

async fn within<T>(limit: Duration, attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {limit:?}"));
    timeout(limit, attempt).await.unwrap_or_else(|_| Err(silent()))
}
