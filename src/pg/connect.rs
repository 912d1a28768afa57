//! Connections of the control plane and the catalog, outside any pool but that of [`Sessions`](super::Sessions).

use std::ops::{Deref, DerefMut};

use futures_util::future::poll_fn;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::endpoint::Endpoint;
use super::error::Error;
use super::hosts::HostState;
use super::login::{Login, Logins};
use super::open::{Begin, READ_ONLY_OF_A_ROLE};
use super::socket::{Address, Guard, Socket};
use super::sqlstate::is_refused_login;

/// Notices kept for a listener that is busy. One that falls further behind loses its connection and reloads.
const NOTICES: usize = 1024;
/// Notices of the server kept for whoever takes them, and bytes of each part of them.
const KEPT_NOTICES: usize = 100;
const NOTICE_BYTES: usize = 1_000;

/// A session of our own, outside any pool. Dropping it closes it.
pub struct Connection {
    client: Client,
    driver: JoinHandle<()>,
    address: Address,
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

    /// Its host's position in the server's URL.
    pub fn host(&self) -> usize {
        self.address.host()
    }

    /// The session's host does not answer, or is not what it was: others are asked first for a while.
    pub fn doubt(&self, endpoint: &Endpoint) {
        endpoint.hosts.doubt(self.address.host());
    }

    /// What cancels what the session does, from anywhere.
    pub fn canceller(&self, endpoint: &Endpoint) -> Canceller {
        Canceller {
            token: self.client.cancel_token(),
            endpoint: endpoint.clone(),
            address: self.address.clone(),
        }
    }
}

/// Cancels what a session does.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    endpoint: Endpoint,
    address: Address,
}

impl Canceller {
    /// Asks the server to cancel. It doesn't say whether there was anything to cancel.
    ///
    /// # Errors
    /// When the server can't be reached.
    pub async fn cancel(&self) -> Result<(), Error> {
        let endpoint = &self.endpoint;
        let unreachable = |source| Error::Unreachable { server: endpoint.name().to_owned(), source };
        let tenure = endpoint.hosts.tenure(self.address.host());
        let socket = self.address.dial(endpoint.liveness(), None, &tenure).await.map_err(unreachable)?;
        let tls = tls_to(endpoint, &self.address)?;
        Ok(self.token.cancel_query_raw(socket, tls).await?)
    }
}

/// Opens one session.
///
/// # Errors
/// [`Error::Connect`] with the server's words.
pub async fn connect(endpoint: &Endpoint, login: &Login, database: &str) -> Result<Connection, Error> {
    let Opened { client, driver, address } = open(endpoint, login, database).await?;
    Ok(Connection { client, driver: drive(driver), address })
}

/// Opens one session with the first of these logins that the server doesn't refuse.
///
/// # Errors
/// As [`connect`].
pub async fn connect_any(endpoint: &Endpoint, logins: &Logins, database: &str) -> Result<Connection, Error> {
    let Opened { client, driver, address } = open_any(endpoint, logins, database).await?;
    Ok(Connection { client, driver: drive(driver), address })
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
    let settings: Vec<_> = settings.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
    let begin = ControlPlane { endpoint, login, database, application, options: &settings.join(" ") };
    let Opened { client, driver: mut connection, address } = endpoint.search(&begin, None).await?;
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
    Ok((Connection { client, driver, address }, Notices(receiver)))
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
    let Opened { client, driver: mut connection, address } = open_any(endpoint, logins, database).await?;
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
    Ok((Connection { client, driver, address }, receiver))
}

/// What moves a session's bytes.
pub(super) type Driver =
    tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// A session that nothing moves yet.
pub(super) struct Opened {
    pub(super) client: Client,
    pub(super) driver: Driver,
    address: Address,
}

/// Lets a session's bytes move until it ends.
pub(super) fn drive(connection: Driver) -> JoinHandle<()> {
    tokio::spawn(async move {
        // A connection that breaks tells whoever uses its client next.
        let _ = connection.await;
    })
}

/// Opens a session with the first of these logins that the server doesn't refuse.
pub(super) async fn open_any(endpoint: &Endpoint, logins: &Logins, database: &str) -> Result<Opened, Error> {
    let mut opened = open(endpoint, &logins.newest, database).await;
    for login in &logins.older {
        if !opened.as_ref().is_err_and(|error| is_refused_login(error.code())) {
            break;
        }
        opened = open(endpoint, login, database).await;
    }
    opened
}

async fn open(endpoint: &Endpoint, login: &Login, database: &str) -> Result<Opened, Error> {
    let begin = ControlPlane { endpoint, login, database, application: "manybox", options: "" };
    endpoint.search(&begin, None::<&Guard>).await
}

fn tls_to(
    endpoint: &Endpoint,
    address: &Address,
) -> Result<<MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect, Error> {
    let hostname = address.hostname().unwrap_or_default();
    let made = MakeTlsConnect::<Socket>::make_tls_connect(&mut endpoint.tls(), hostname);
    made.map_err(|reason| Error::Settings { server: endpoint.name().to_owned(), reason: reason.to_string() })
}

/// Begins sessions of the control plane.
pub(super) struct ControlPlane<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) login: &'a Login,
    pub(super) database: &'a str,
    pub(super) application: &'a str,
    pub(super) options: &'a str,
}

impl Begin for ControlPlane<'_> {
    type Session = Opened;

    async fn begin(
        &self,
        socket: Socket,
        address: &Address,
        encryption: SslMode,
    ) -> Result<(Opened, HostState), Error> {
        let endpoint = self.endpoint;
        let failed = |source| Error::Connect {
            server: endpoint.name().to_owned(),
            database: self.database.to_owned(),
            user: self.login.user.clone(),
            source,
        };
        let mut config = endpoint.config(self.login, self.database);
        config.ssl_mode(encryption).application_name(self.application);
        if !self.options.is_empty() {
            config.options(self.options);
        }
        let (client, mut driver) =
            config.connect_raw(socket, tls_to(endpoint, address)?).await.map_err(failed)?;
        let mut state = HostState {
            is_standby: driver.parameter("in_hot_standby") == Some("on"),
            is_read_only: driver.parameter("default_transaction_read_only") == Some("on"),
        };
        if state.is_read_only && endpoint.hosts.target.looks_at_read_only() {
            let of_a_role = async {
                let row = client.query_one(READ_ONLY_OF_A_ROLE, &[]).await?;
                Ok(row.try_get::<_, i64>(0)? > 0)
            };
            let of_a_role = tokio::select! {
                answered = of_a_role => answered.map_err(failed)?,
                // It broke, which whoever uses the client learns.
                _ = &mut driver => false,
            };
            state.is_read_only = !of_a_role;
        }
        Ok((Opened { client, driver, address: address.clone() }, state))
    }
}
