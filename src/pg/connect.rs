//! Connections: where a server is, who logs in, TLS, timeouts.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::poll_fn;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::socket::CONNECT_TIMEOUT;
use super::sqlstate::is_refused_login;
use super::wire::WireError;
use crate::policy::Secret;

/// Notices kept for a listener that is busy. One that falls further behind loses its connection and reloads.
const NOTICES: usize = 1024;
/// Notices of the server kept for whoever takes them, and bytes of each part of them.
const KEPT_NOTICES: usize = 100;
const NOTICE_BYTES: usize = 1_000;

/// A failure to connect or of a statement, with the server's own words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No session could be had.
    #[error("cannot connect to server `{server}`, database `{database}`, as `{user}`: {}", cause(.source))]
    Connect {
        /// The server's name in the settings.
        server: String,
        /// The database.
        database: String,
        /// The role.
        user: String,
        /// What went wrong.
        source: tokio_postgres::Error,
    },
    /// No session of the data plane could be had.
    #[error("cannot connect to server `{server}`, database `{database}`, as `{user}`: {source}")]
    Login {
        /// The server's name in the settings.
        server: String,
        /// The database.
        database: String,
        /// The role.
        user: String,
        /// What went wrong.
        source: Box<WireError>,
    },
    /// No host of the server could be reached.
    #[error("cannot reach server `{server}`: {source}; is it running, and is its url right?")]
    Unreachable {
        /// The server's name in the settings.
        server: String,
        /// What the operating system said of the last host.
        source: std::io::Error,
    },
    /// A statement failed, or the connection broke under it.
    #[error("{}", cause(.0))]
    Statement(#[from] tokio_postgres::Error),
    /// All of a bounded number of sessions stayed in use.
    #[error(
        "all {most} sessions in database `{database}` of server `{server}` were in use for {}; see there in \
         pg_stat_activity and pg_locks what they wait for",
        humantime::format_duration(*waited)
    )]
    Busy {
        /// The server's name in the settings.
        server: String,
        /// The database.
        database: String,
        /// How many there may be.
        most: usize,
        /// How long one was waited for.
        waited: Duration,
    },
    /// The server was connected to, and did not finish the login.
    #[error(
        "server `{server}` did not finish a login to database `{database}` within {}; is it overloaded, or does \
         something else listen there?",
        humantime::format_duration(*waited)
    )]
    Silent {
        /// The server's name in the settings.
        server: String,
        /// The database.
        database: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The server's URL or its certificate is not usable.
    #[error("server `{server}`: {reason}")]
    Settings {
        /// The server's name in the settings.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// The server's SQLSTATE; `None` when the server did not answer.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Connect { source, .. } | Self::Statement(source) => source.code(),
            Self::Login { source, .. } => source.code(),
            Self::Settings { .. } | Self::Unreachable { .. } | Self::Busy { .. } | Self::Silent { .. } => {
                None
            }
        }
    }

    /// Whether the server answered, and a login came to nothing all the same. That may be this login's alone: what the
    /// server asks of it is what the login's own verifier says, which whoever logs in by it can write.
    pub fn is_of_the_login(&self) -> bool {
        let Self::Login { source, .. } = self else { return false };
        matches!(**source, WireError::Login(_) | WireError::Protocol(_) | WireError::TooLong { .. })
    }
}

/// tokio-postgres prints only "db error" and leaves the server's sentence to `source()`.
fn cause(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let hint = db.hint().map(|h| format!(" ({h})")).unwrap_or_default();
        return format!("{} [{}]{hint}", db.message(), db.code().code());
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Who logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Its password; `None` where the server trusts the connection or its peer.
    pub password: Option<Secret>,
}

/// The logins of one role: while a master key is rotated, its password may be derived from either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logins {
    /// What is tried first.
    pub newest: Login,
    /// What is tried in turn where the server refuses the one before.
    pub older: Vec<Login>,
}

impl From<Login> for Logins {
    fn from(login: Login) -> Self {
        Self { newest: login, older: Vec::new() }
    }
}

/// Where a server is, without any credentials: what the data plane may know.
#[derive(Clone)]
pub struct Endpoint {
    name: String,
    config: Config,
    tls: Arc<rustls::ClientConfig>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({} at {:?}:{:?})", self.name, self.config.get_hosts(), self.config.get_ports())
    }
}

impl Endpoint {
    /// Splits a connection URL (libpq's form, several hosts allowed) into the place and the login in it, if any.
    /// `root_cert` is a PEM file of certificate authorities to trust instead of the system's.
    ///
    /// # Errors
    /// When the URL or the certificate file can't be read. The URL, which may hold a password, is not repeated.
    pub fn parse(name: &str, url: &str, root_cert: Option<&Path>) -> Result<(Self, Option<Login>), Error> {
        let settings = |reason: String| Error::Settings { server: name.to_owned(), reason };
        let given: Config =
            url.parse().map_err(|e| settings(format!("its url is not usable: {}", cause(&e))))?;
        if given.get_hosts().is_empty() {
            return Err(settings("its url names no host".into()));
        }
        let login = match (given.get_user(), given.get_password()) {
            (Some(user), Some(password)) => Some(Login {
                user: user.to_owned(),
                password: Some(Secret::new(String::from_utf8_lossy(password).into_owned())),
            }),
            _ => None,
        };
        // Taken over piece by piece: a Config can't be told to forget its password.
        let mut config = Config::new();
        for host in given.get_hosts() {
            match host {
                tokio_postgres::config::Host::Tcp(host) => config.host(host),
                tokio_postgres::config::Host::Unix(path) => config.host_path(path),
            };
        }
        for port in given.get_ports() {
            config.port(*port);
        }
        let sockets =
            config.get_hosts().iter().all(|host| matches!(host, tokio_postgres::config::Host::Unix(_)));
        config
            // As libpq: no socket has TLS, and to ask the server for it costs a round trip.
            .ssl_mode(if sockets { SslMode::Disable } else { given.get_ssl_mode() })
            .channel_binding(given.get_channel_binding())
            .target_session_attrs(given.get_target_session_attrs())
            .load_balance_hosts(given.get_load_balance_hosts())
            .connect_timeout(given.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT))
            .keepalives_idle(Duration::from_secs(30))
            .application_name("manybox");
        // Reading the system's certificates takes longer than a whole command needs.
        let tls = tls(root_cert, config.get_ssl_mode() == SslMode::Disable).map_err(settings)?;
        Ok((Self { name: name.to_owned(), config, tls }, login))
    }

    /// The server's name in the settings.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What to connect with.
    pub fn config(&self, login: &Login, database: &str) -> Config {
        let mut config = self.config.clone();
        config.user(&login.user).dbname(database);
        if let Some(password) = &login.password {
            config.password(password.expose());
        }
        config
    }

    /// The TLS side of a connection; used when the URL's `sslmode` asks for it.
    pub fn tls(&self) -> MakeRustlsConnect {
        MakeRustlsConnect::new(rustls::ClientConfig::clone(&self.tls))
    }

    pub(super) fn no_session(&self, user: &str, database: &str, source: tokio_postgres::Error) -> Error {
        Error::Connect {
            server: self.name.clone(),
            database: database.to_owned(),
            user: user.to_owned(),
            source,
        }
    }

    pub(super) fn tls_config(&self) -> &Arc<rustls::ClientConfig> {
        &self.tls
    }

    /// A libpq URL for a program such as psql; the password goes by `PGPASSWORD`, where `ps` doesn't show it.
    pub fn psql_arguments(&self, user: &str, database: &str) -> Vec<String> {
        let mut arguments = vec![format!("--username={user}"), format!("--dbname={database}")];
        if let Some(host) = self.config.get_hosts().first() {
            arguments.push(match host {
                tokio_postgres::config::Host::Tcp(host) => format!("--host={host}"),
                tokio_postgres::config::Host::Unix(path) => format!("--host={}", path.display()),
            });
        }
        if let Some(port) = self.config.get_ports().first() {
            arguments.push(format!("--port={port}"));
        }
        arguments
    }
}

fn tls(root_cert: Option<&Path>, without_tls: bool) -> Result<Arc<rustls::ClientConfig>, String> {
    let mut roots = rustls::RootCertStore::empty();
    match root_cert {
        Some(path) => {
            let unreadable = |e: &dyn fmt::Display| format!("root_cert `{}`: {e}", path.display());
            for cert in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(&e))? {
                roots.add(cert.map_err(|e| unreadable(&e))?).map_err(|e| unreadable(&e))?;
            }
        }
        None if without_tls => {}
        // A machine without certificates can still use sockets; a TLS connection then fails and says so.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A session of our own, outside any pool. Dropping it closes it.
pub struct Connection {
    client: Client,
    driver: JoinHandle<()>,
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Connection {
    /// Says good-bye and waits until the server has closed the socket, that is until the backend has exited.
    pub async fn close(self) {
        drop(self.client);
        let _ = self.driver.await;
    }
}

/// Opens one session.
///
/// # Errors
/// [`Error::Connect`] with the server's words.
pub async fn connect(endpoint: &Endpoint, login: &Login, database: &str) -> Result<Connection, Error> {
    let opened = open(endpoint, login, database).await;
    let (client, connection) = opened.map_err(|source| endpoint.no_session(&login.user, database, source))?;
    Ok(Connection { client, driver: drive(connection) })
}

/// A message that the server sent beside its answers. Each part has at most 1,000 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `NOTICE`, `WARNING`, …
    pub severity: String,
    /// What it says.
    pub message: String,
    /// DETAIL
    pub detail: Option<String>,
    /// HINT
    pub hint: Option<String>,
}

/// The notices of a session, a hundred of those that nobody has taken yet; further ones are dropped. Those of a
/// statement are here before its answer is.
pub struct Notices(mpsc::Receiver<Notice>);

impl Notices {
    /// The next one, if there is one.
    pub fn take(&mut self) -> Option<Notice> {
        self.0.try_recv().ok()
    }
}

/// The beginning of a text, of at most `most` bytes.
pub fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{}…", &text[..end])
}

/// Opens one session under a name of its own, with the settings that RESET ALL shall go back to, whose notices are kept.
///
/// # Errors
/// [`Error::Connect`] with the server's words.
pub async fn connect_noticing(
    endpoint: &Endpoint,
    login: &Login,
    database: &str,
    application: &str,
    settings: &[(&str, &str)],
) -> Result<(Connection, Notices), Error> {
    let mut config = endpoint.config(login, database);
    let settings: Vec<_> = settings.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
    config.application_name(application).options(settings.join(" "));
    let opened = config.connect(endpoint.tls()).await;
    let (client, mut connection) =
        opened.map_err(|source| endpoint.no_session(&login.user, database, source))?;
    let (sender, receiver) = mpsc::channel(KEPT_NOTICES);
    let driver = tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message {
                let kept = |text: &str| shortened(text, NOTICE_BYTES);
                let notice = Notice {
                    severity: kept(notice.severity()),
                    message: kept(notice.message()),
                    detail: notice.detail().map(kept),
                    hint: notice.hint().map(kept),
                };
                // Full: nobody wants that many.
                let _ = sender.try_send(notice);
            }
        }
    });
    Ok((Connection { client, driver }, Notices(receiver)))
}

/// Opens one session whose notifications arrive at the receiver, which ends when the connection is lost.
///
/// # Errors
/// [`Error::Connect`] with the server's words.
pub async fn connect_listening(
    endpoint: &Endpoint,
    logins: &Logins,
    database: &str,
) -> Result<(Connection, mpsc::Receiver<Notification>), Error> {
    let opened = open_any(endpoint, logins, database).await;
    let (client, mut connection) =
        opened.map_err(|source| endpoint.no_session(&logins.newest.user, database, source))?;
    let (sender, receiver) = mpsc::channel(NOTICES);
    let driver = tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notice) = message
                && sender.try_send(notice).is_err()
            {
                break;
            }
        }
    });
    Ok((Connection { client, driver }, receiver))
}

/// What moves a session's bytes.
pub(super) type Driver = tokio_postgres::Connection<
    tokio_postgres::Socket,
    <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<tokio_postgres::Socket>>::Stream,
>;

/// Lets a session's bytes move until it ends.
pub(super) fn drive(connection: Driver) -> JoinHandle<()> {
    tokio::spawn(async move {
        // A connection that breaks tells whoever uses its client next.
        let _ = connection.await;
    })
}

/// Opens a session with the first of these logins that the server doesn't refuse.
pub(super) async fn open_any(
    endpoint: &Endpoint,
    logins: &Logins,
    database: &str,
) -> Result<(Client, Driver), tokio_postgres::Error> {
    let mut opened = open(endpoint, &logins.newest, database).await;
    for login in &logins.older {
        if !opened.as_ref().is_err_and(|error| is_refused_login(error.code())) {
            break;
        }
        opened = open(endpoint, login, database).await;
    }
    opened
}

async fn open(
    endpoint: &Endpoint,
    login: &Login,
    database: &str,
) -> Result<(Client, Driver), tokio_postgres::Error> {
    endpoint.config(login, database).connect(endpoint.tls()).await
}
