//! Opening sessions: a server's hosts in turn, each in its own share of the time, until one is what the URL asks for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;

use super::endpoint::Endpoint;
use super::error::Error;
use super::hosts::{HostState, Target};
use super::login::Login;
use super::socket::{Address, Guard, Socket};
use super::wire::{self, CancelKey, Query, Startup, TlsRequest, WireError};

/// Whether `default_transaction_read_only` is what a role or a database says, which a tenant's code can write. Then it says
/// nothing of the host.
pub(super) const READ_ONLY_OF_A_ROLE: &str = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_settings \
     WHERE name = 'default_transaction_read_only' AND source IN ('user', 'database', 'database user')";
/// More than the one number that it gives.
const NUMBER_BYTES: usize = 1024;

/// How a session begins on a socket.
pub(super) trait Begin: Sync {
    /// What it becomes.
    type Session: Send;

    /// Encrypts, logs in, and tells what the host says of itself.
    fn begin(
        &self,
        socket: Socket,
        address: &Address,
        encryption: SslMode,
    ) -> impl Future<Output = Result<(Self::Session, HostState), Error>> + Send;

    /// The error of a login that did not end in its time, if the server had answered it.
    fn stuck(&self, _waited: Duration) -> Option<Error> {
        None
    }
}

impl Endpoint {
    /// Opens one session of the data plane, whose socket holds `guard` until the server has closed its side.
    ///
    /// `options` are the session's defaults, as in `PGOPTIONS`.
    ///
    /// # Errors
    /// [`Error::Login`] with the server's words, [`Error::Unreachable`] and [`Error::Silent`] where its host does not answer,
    /// [`Error::NoHost`] where none of several is what is looked for.
    pub async fn open(
        &self,
        login: &Login,
        database: &str,
        options: &str,
        guard: &Guard,
    ) -> Result<wire::Connection, Error> {
        let answered = AtomicBool::new(false);
        self.search(&DataPlane { endpoint: self, login, database, options, answered }, Some(guard)).await
    }

    /// A session on the first host that is as the URL's `target_session_attrs` asks.
    ///
    /// As in libpq, a host that can't be reached, starts or stops does not end the search. Unlike there, nor does one that
    /// refuses the login, unless it is known to be the primary: a standby may not have heard of a new login yet.
    pub(super) async fn search<B: Begin>(
        &self,
        begin: &B,
        guard: Option<&Guard>,
    ) -> Result<B::Session, Error> {
        let (hosts, target) = (&self.hosts, self.hosts.target);
        let (mut seen, mut refusal, mut spare) = (Vec::new(), None, None);
        for at in hosts.order() {
            let Some(host) = hosts.all.get(at) else { continue };
            // Boxed: the state of a login is large, and would be part of every future that may need a session.
            match Box::pin(self.try_host(at, begin, guard)).await {
                Ok((session, state)) if target.suits(state) => {
                    hosts.found(at);
                    return Ok(session);
                }
                Ok((session, state)) => {
                    hosts.unsuitable(at);
                    seen.push(format!("{host}: {state}"));
                    if target == Target::PreferStandby {
                        spare.get_or_insert(session);
                    }
                }
                Err(error) => {
                    let is_refusal = error.is_refusal();
                    let is_final = target == Target::Any || hosts.leader() == Some(at);
                    if hosts.all.len() == 1 || (is_refusal && is_final) {
                        return Err(error);
                    }
                    seen.push(format!("{host}: {error}"));
                    if is_refusal {
                        refusal.get_or_insert_with(|| Box::new(error));
                    }
                }
            }
        }
        let (server, wanted) = (self.name().to_owned(), target.wanted());
        spare.ok_or_else(|| Error::NoHost { server, wanted, seen: seen.join("; "), refusal })
    }

    /// One host, by each of its addresses.
    pub(super) async fn try_host<B: Begin>(
        &self,
        at: usize,
        begin: &B,
        guard: Option<&Guard>,
    ) -> Result<(B::Session, HostState), Error> {
        let unreachable = |source| Error::Unreachable { server: self.name().to_owned(), source };
        let mut last = unreachable(io::Error::new(io::ErrorKind::NotFound, "its url names no host"));
        let Some(host) = self.hosts.all.get(at) else { return Err(last) };
        for address in host.addresses(at, self.share()).await.map_err(unreachable)? {
            match timeout(self.share(), self.try_address(&address, begin, guard)).await {
                Ok(Err(error)) if !error.is_refusal() => last = error,
                Ok(outcome) => return outcome,
                Err(_) => {
                    if let Some(stuck) = begin.stuck(self.share()) {
                        return Err(stuck);
                    }
                    self.hosts.doubt(at);
                    last = Error::Silent { server: self.name().to_owned(), waited: self.share() };
                }
            }
        }
        Err(last)
    }

    /// One address, with and without TLS as `sslmode` asks.
    async fn try_address<B: Begin>(
        &self,
        address: &Address,
        begin: &B,
        guard: Option<&Guard>,
    ) -> Result<(B::Session, HostState), Error> {
        // No socket has TLS.
        let ways = if address.hostname().is_some() { self.encryptions() } else { &[SslMode::Disable] };
        let mut ways = ways.iter().peekable();
        let tenure = self.hosts.tenure(address.host());
        loop {
            let way = ways.next().copied().unwrap_or(SslMode::Disable);
            let dialled = address.dial(self.liveness(), guard.map(Arc::clone), &tenure).await;
            let socket =
                dialled.map_err(|source| Error::Unreachable { server: self.name().to_owned(), source })?;
            match begin.begin(socket, address, way).await {
                // TLS failed, or pg_hba.conf has no line for it.
                Err(error)
                    if ways.peek().is_some()
                        && error
                            .code()
                            .is_none_or(|c| *c == SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {}
                outcome => return outcome,
            }
        }
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

    /// The host that serves this session takes no writes: it is asked last for a while, and others first.
    pub fn doubt(&self, key: &CancelKey) {
        self.hosts.doubt(key.address.host());
    }

    /// Asks the server to cancel what the session with this key is doing. Best effort: the server doesn't say whether
    /// it found anything to cancel.
    ///
    /// # Errors
    /// When the server can't be reached.
    pub async fn cancel(&self, key: &CancelKey) -> Result<(), WireError> {
        let tenure = self.hosts.tenure(key.address.host());
        let socket = key.address.dial(self.liveness(), None, &tenure).await?;
        // As the session itself was.
        wire::cancel(socket, &self.tls_request(&key.address, key.encryption), key).await
    }

    fn tls_request<'a>(&'a self, address: &'a Address, mode: SslMode) -> TlsRequest<'a> {
        TlsRequest { mode, hostname: address.hostname(), config: self.tls_config() }
    }
}

/// Begins sessions of the data plane.
struct DataPlane<'a> {
    endpoint: &'a Endpoint,
    login: &'a Login,
    database: &'a str,
    options: &'a str,
    /// Whether the server has answered the login that is tried.
    answered: AtomicBool,
}

impl Begin for DataPlane<'_> {
    type Session = wire::Connection;

    async fn begin(
        &self,
        socket: Socket,
        address: &Address,
        encryption: SslMode,
    ) -> Result<(wire::Connection, HostState), Error> {
        let config = self.endpoint.config(self.login, self.database);
        let startup = Startup {
            user: &self.login.user,
            password: self.login.password.as_ref().map(|password| password.expose().as_bytes()),
            database: self.database,
            application_name: config.get_application_name().unwrap_or_default(),
            options: self.options,
            channel_binding: config.get_channel_binding(),
            answered: &self.answered,
        };
        self.answered.store(false, Ordering::Relaxed);
        let refused = |source| self.endpoint.refused(self.login, self.database, source);
        let tls = self.endpoint.tls_request(address, encryption);
        let mut session =
            wire::Connection::open(socket, address.clone(), &tls, &startup).await.map_err(refused)?;
        let (is_standby, mut is_read_only) = session.reported();
        if is_read_only && self.endpoint.hosts.target.looks_at_read_only() {
            let query = Query { sql: READ_ONLY_OF_A_ROLE, types: &[], key: None, parameters: &[] };
            let (rows, _) = session.rows(&query, NUMBER_BYTES).await.map_err(refused)?;
            let own = rows.first().map(|row| row.try_get::<i64>(0)).transpose().map_err(refused)?;
            is_read_only = own == Some(0);
        }
        Ok((session, HostState { is_standby, is_read_only }))
    }

    fn stuck(&self, waited: Duration) -> Option<Error> {
        self.answered.load(Ordering::Relaxed).then(|| Error::Stuck {
            server: self.endpoint.name().to_owned(),
            database: self.database.to_owned(),
            user: self.login.user.clone(),
            waited,
        })
    }
}
