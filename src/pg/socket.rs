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

use futures_util::future::poll_fn;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect::{CONNECT_TIMEOUT, Endpoint, Error, Login};

/// What is dropped when the server has closed its side of a socket.
pub type Guard = Arc<dyn Any + Send + Sync>;

/// Where one socket goes: what a request to cancel needs, besides the key the server gave.
#[derive(Debug, Clone)]
pub struct Address {
    place: Place,
    /// The name that the server's certificate must bear; none for sockets, which have no TLS.
    hostname: Option<String>,
}

#[derive(Debug, Clone)]
enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

type Tls = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;

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
struct Socket {
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
    /// Opens one session whose socket holds `guard` until the server has closed its side; `ended` is called when the
    /// session ends by itself, not when it is dropped.
    ///
    /// The session lives in the returned task; aborting that closes the socket, which the server takes for a
    /// good-bye where no transaction is open.
    ///
    /// # Errors
    /// [`Error::Connect`] with the server's words, [`Error::Unreachable`] when none of its hosts answers.
    pub async fn connect_guarded(
        &self,
        login: &Login,
        database: &str,
        options: &str,
        guard: &Guard,
        ended: impl FnOnce() + Clone + Send + 'static,
    ) -> Result<(Client, JoinHandle<()>, Address), Error> {
        let mut config = self.config(login, database);
        config.options(options);
        let refused = |source| Error::Connect {
            server: self.name().to_owned(),
            database: database.to_owned(),
            user: login.user.clone(),
            source,
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
            let mut config = config.clone();
            if address.hostname.is_none() {
                // Or else the server would be asked for TLS first, which no socket has.
                config.ssl_mode(SslMode::Disable);
            }
            let socket = Socket { stream: Some(stream), guard: Some(Arc::clone(guard)) };
            let tls = self.tls_to(&address)?;
            match config.connect_raw(socket, tls).await {
                Ok((client, mut connection)) => {
                    let ended = ended.clone();
                    let driver = tokio::spawn(async move {
                        // Notices and notifications are what functions chose to say: nobody here listens.
                        while let Some(Ok(_)) = poll_fn(|cx| connection.poll_message(cx)).await {}
                        drop(connection);
                        ended();
                    });
                    if suits(&client, config.get_target_session_attrs()).await.map_err(refused)? {
                        return Ok((client, driver, address));
                    }
                    driver.abort();
                    let reason = "none of its hosts has the state that target_session_attrs asks for";
                    last = Error::Settings { server: self.name().to_owned(), reason: reason.into() };
                }
                // Whoever was answered by PostgreSQL was refused by it; the other hosts are asked only when not.
                Err(source) if source.as_db_error().is_some() => return Err(refused(source)),
                Err(source) => last = refused(source),
            }
        }
        Err(last)
    }

    /// Asks the server to cancel what the session that `token` belongs to is doing. Best effort: the server doesn't
    /// say whether it found anything to cancel.
    ///
    /// # Errors
    /// When the server can't be reached.
    pub async fn cancel(&self, address: &Address, token: &tokio_postgres::CancelToken) -> Result<(), Error> {
        let login = Login { user: String::new(), password: None };
        let stream = address
            .dial(&self.config(&login, ""))
            .await
            .map_err(|source| Error::Unreachable { server: self.name().to_owned(), source })?;
        let socket = Socket { stream: Some(stream), guard: None };
        match address.hostname {
            Some(_) => token.cancel_query_raw(socket, self.tls_to(address)?).await,
            None => token.cancel_query_raw(socket, tokio_postgres::NoTls).await,
        }
        .map_err(Error::from)
    }

    fn tls_to(&self, address: &Address) -> Result<Tls, Error> {
        let host = address.hostname.as_deref().unwrap_or("");
        MakeTlsConnect::<Socket>::make_tls_connect(&mut self.tls(), host).map_err(|e| Error::Settings {
            server: self.name().to_owned(),
            reason: format!("`{host}` is no name for a certificate: {e}"),
        })
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

/// Whether the server is in the state that the URL asks for; costs a round trip only when it asks for one.
async fn suits(client: &Client, wanted: TargetSessionAttrs) -> Result<bool, tokio_postgres::Error> {
    if wanted == TargetSessionAttrs::Any {
        return Ok(true);
    }
    let answer = client.simple_query("SHOW transaction_read_only").await?;
    let read_only =
        answer.iter().any(|m| matches!(m, SimpleQueryMessage::Row(row) if row.get(0) == Some("on")));
    Ok(read_only == (wanted == TargetSessionAttrs::ReadOnly))
}
