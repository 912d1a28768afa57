//! Sockets that know when the server has let go: what a pool counts connections by.
//!
//! PostgreSQL frees a connection's slot when its backend has exited, which may be seconds after the client went away.
//! The one sign of it that reaches a client is the end of the stream: a backend gives its slot back before the
//! operating system closes its side. So a guard rides on the socket and is dropped there, and nowhere earlier.

use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts};

/// Longest wait for a TCP or socket connect, each host of a multi-host URL apart.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What is dropped when the server has closed its side of a socket.
pub type Guard = Arc<dyn Any + Send + Sync>;

/// Where one socket goes: what a request to cancel needs, besides the key the server gave.
#[derive(Debug, Clone)]
pub(super) struct Address {
    place: Place,
    /// The name that the server's certificate must bear; none for sockets, which have no TLS.
    hostname: Option<String>,
}

#[derive(Debug, Clone)]
enum Place {
    Tcp(String, u16),
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
}

impl Socket {
    fn stream(&mut self) -> io::Result<&mut Stream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

#[cfg(test)]
impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self { stream: Some(Stream::Unix(stream)), guard: None }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(on_stream!(self.stream()?, s => Pin::new(s).poll_read(cx, buf)));
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
            runtime.spawn(linger(stream, guard));
        }
    }
}

/// Reads to the end. Not bounded by time: the slot is taken for just as long as the server says. A dead machine's
/// socket ends by its keepalives.
async fn linger(mut stream: Stream, guard: Guard) {
    let mut sink = [0; 4096];
    on_stream!(&mut stream, s => {
        let _ = s.shutdown().await;
        while matches!(s.read(&mut sink).await, Ok(1..)) {}
    });
    drop(guard);
}

impl Address {
    /// Where a URL leads, in the order in which its hosts are tried.
    pub(super) fn all(config: &Config) -> Vec<Self> {
        let ports = config.get_ports();
        let hosts = config.get_hosts().iter().enumerate();
        let mut addresses: Vec<_> = hosts
            .map(|(i, host)| {
                let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
                match host {
                    Host::Tcp(name) => {
                        Address { place: Place::Tcp(name.clone(), port), hostname: Some(name.clone()) }
                    }
                    Host::Unix(folder) => Address {
                        place: Place::Unix(folder.join(format!(".s.PGSQL.{port}"))),
                        hostname: None,
                    },
                }
            })
            .collect();
        if config.get_load_balance_hosts() == LoadBalanceHosts::Random && addresses.len() > 1 {
            let start = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.subsec_nanos() as usize);
            let middle = start % addresses.len();
            addresses.rotate_left(middle);
        }
        addresses
    }

    #[cfg(test)]
    pub(super) fn nowhere() -> Self {
        Self { place: Place::Unix(PathBuf::new()), hostname: None }
    }

    /// The name that the server's certificate must bear.
    pub(super) fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    /// Opens a socket, which holds `guard` until the server has closed its side. Longest wait: the URL's
    /// `connect_timeout`, for each address of a name apart.
    pub(super) async fn dial(&self, config: &Config, guard: Option<Guard>) -> io::Result<Socket> {
        Ok(Socket { stream: Some(self.connect(config).await?), guard })
    }

    async fn connect(&self, config: &Config) -> io::Result<Stream> {
        let limit = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        match &self.place {
            Place::Unix(path) => Ok(Stream::Unix(within(limit, UnixStream::connect(path)).await?)),
            Place::Tcp(host, port) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no address"));
                for address in within(limit, lookup_host((host.as_str(), *port))).await? {
                    match within(limit, TcpStream::connect(address)).await {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            let keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
                            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                            return Ok(Stream::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

async fn within<T>(limit: Duration, attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {limit:?}"));
    timeout(limit, attempt).await.unwrap_or_else(|_| Err(silent()))
}
