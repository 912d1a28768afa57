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
use tokio_postgres::config::{Host, LoadBalanceHosts, TargetSessionAttrs};

use super::connect::{CONNECT_TIMEOUT, Endpoint, Error, Login};
use super::wire::{self, CancelKey, Startup, TlsRequest, WireError};

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

impl Endpoint {
    /// Opens one session of the data plane, whose socket holds `guard` until the server has closed its side.
    ///
    /// `options` are the session's defaults, as in `PGOPTIONS`.
    ///
    /// # Errors
    /// [`Error::Login`] with the server's words, [`Error::Unreachable`] when none of its hosts answers.
    pub async fn open(
        &self,
        login: &Login,
        database: &str,
        options: &str,
        guard: &Guard,
    ) -> Result<wire::Connection, Error> {
        let config = self.config(login, database);
        let startup = Startup {
            user: &login.user,
            password: login.password.as_ref().map(|password| password.expose().as_bytes()),
            database,
            application_name: config.get_application_name().unwrap_or_default(),
            options,
            channel_binding: config.get_channel_binding(),
        };
        let mut last = Error::Unreachable {
            server: self.name().to_owned(),
            source: io::Error::new(io::ErrorKind::NotFound, "its url names no host"),
        };
        for address in self.addresses(&config) {
            let stream = match address.dial(&config).await {
                Ok(stream) => stream,
                Err(source) => {
                    last = Error::Unreachable { server: self.name().to_owned(), source };
                    continue;
                }
            };
            let socket = Socket { stream: Some(stream), guard: Some(Arc::clone(guard)) };
            match wire::Connection::open(socket, address.clone(), &self.tls_to(&address, &config), &startup)
                .await
            {
                Ok(connection) if suits(&connection, config.get_target_session_attrs()) => {
                    return Ok(connection);
                }
                Ok(_) => {
                    let reason = "none of its hosts has the state that target_session_attrs asks for";
                    last = Error::Settings { server: self.name().to_owned(), reason: reason.into() };
                }
                // Whoever was answered by PostgreSQL was refused by it; the other hosts are asked only when not.
                Err(source) if source.as_server().is_some() => {
                    return Err(self.refused(login, database, source));
                }
                Err(source) => last = self.refused(login, database, source),
            }
        }
        Err(last)
    }

    /// The error of a session that could not be opened, or was of no use when it was.
    pub(crate) fn refused(&self, login: &Login, database: &str, source: WireError) -> Error {
        Error::Login {
            server: self.name().to_owned(),
            database: database.to_owned(),
            user: login.user.clone(),
            source: Box::new(source),
        }
    }

    /// Asks the server to cancel what the session with this key is doing. Best effort: the server doesn't say whether
    /// it found anything to cancel.
    ///
    /// # Errors
    /// When the server can't be reached.
    pub async fn cancel(&self, key: &CancelKey) -> Result<(), WireError> {
        let config = self.config(&Login { user: String::new(), password: None }, "");
        let stream = key.address.dial(&config).await?;
        let socket = Socket { stream: Some(stream), guard: None };
        wire::cancel(socket, &self.tls_to(&key.address, &config), key).await
    }

    fn tls_to<'a>(&'a self, address: &'a Address, config: &Config) -> TlsRequest<'a> {
        TlsRequest {
            mode: config.get_ssl_mode(),
            hostname: address.hostname.as_deref(),
            config: self.tls_config(),
        }
    }

    fn addresses(&self, config: &Config) -> Vec<Address> {
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
}

impl Address {
    /// Longest wait: the URL's `connect_timeout`, for each address of a name apart.
    async fn dial(&self, config: &Config) -> io::Result<Stream> {
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

/// Whether the server is in the state that the URL asks for. It says so itself when a session begins.
fn suits(connection: &wire::Connection, wanted: TargetSessionAttrs) -> bool {
    match wanted {
        TargetSessionAttrs::ReadWrite => !connection.is_standby(),
        TargetSessionAttrs::ReadOnly => connection.is_standby(),
        _ => true,
    }
}
