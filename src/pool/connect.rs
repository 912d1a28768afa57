//! How a tenant's connection is opened: the login, the session's defaults, and the task that drives it.

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use deadpool_postgres::Connect;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::pg::{Endpoint, KeyRing, Login};
use crate::tenant::{Limits, Tenant};

/// How long a connection that was given up may take to end its last statement and say good-bye.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// The master keys in use, exchangeable while serving.
pub(super) type Keys = Arc<RwLock<Arc<KeyRing>>>;

/// One server, as all pools of its tenants see it.
pub(super) struct Server {
    pub(super) endpoint: Endpoint,
    /// Whether `client_connection_check_interval` may be sent: PostgreSQL 14 and later, on systems that can do it.
    checks_clients: AtomicBool,
}

impl Server {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, checks_clients: AtomicBool::new(true) }
    }
}

/// Opens connections for one tenant.
pub(super) struct Connector {
    pub(super) tenant: Arc<Tenant>,
    pub(super) server: Arc<Server>,
    pub(super) keys: Keys,
    /// Held by every open connection's task: the receiver ends when the last is closed.
    pub(super) alive: mpsc::Sender<()>,
}

impl Connect for Connector {
    fn connect(
        &self,
        _: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>>
    {
        Box::pin(self.open())
    }
}

impl Connector {
    /// Tries the tenant's logins in turn: while it is being rekeyed the password may already be the other key's.
    async fn open(&self) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let ring = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut logins = ring.tenant_logins(&self.tenant).into_iter().peekable();
        loop {
            // A ring has at least one key, and the last login's error is returned: the default is never used.
            let login = logins.next().unwrap_or_else(|| ring.newest().tenant_login(&self.tenant));
            match self.open_as(&login).await {
                Err(error)
                    if error.code() == Some(&SqlState::INVALID_PASSWORD) && logins.peek().is_some() => {}
                done => return done,
            }
        }
    }

    async fn open_as(&self, login: &Login) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let checks = self.server.checks_clients.load(Ordering::Relaxed);
        match self.open_with(login, checks).await {
            Err(error) if checks && is_unknown_setting(&error) => {
                let opened = self.open_with(login, false).await?;
                self.server.checks_clients.store(false, Ordering::Relaxed);
                Ok(opened)
            }
            done => done,
        }
    }

    async fn open_with(
        &self,
        login: &Login,
        checks: bool,
    ) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let endpoint = &self.server.endpoint;
        let mut config = endpoint.config(login, &self.tenant.database());
        config.application_name("manybox").options(options(&self.tenant.limits, checks));
        let (client, connection) = config.connect(endpoint.tls()).await?;
        Ok((client, drive(connection, self.alive.clone())))
    }
}

/// 42704: PostgreSQL 13 doesn't know the setting. 22023: the server's system can't do it.
fn is_unknown_setting(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::UNDEFINED_OBJECT | &SqlState::INVALID_PARAMETER_VALUE))
}

/// The session's defaults, which `RESET ALL` returns to.
///
/// Given at startup they win over `ALTER ROLE … SET` and `ALTER DATABASE … SET`, which any function can write for the
/// login it runs under: so `role` is among them, for `RESET ROLE` goes back to such a default too.
fn options(limits: &Limits, checks: bool) -> String {
    let check = if checks { " -c client_connection_check_interval=5000" } else { "" };
    format!(
        "-c role=none -c statement_timeout={} -c idle_in_transaction_session_timeout={} -c client_min_messages=error{check}",
        milliseconds(limits.statement_timeout),
        milliseconds(limits.transaction_idle_timeout),
    )
}

/// A timeout as PostgreSQL takes it. 0 there means none, so that less than a millisecond is one.
fn milliseconds(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis().max(u128::from(!limit.is_zero()))).unwrap_or(i32::MAX)
}

type Driver = tokio_postgres::Connection<
    tokio_postgres::Socket,
    <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<tokio_postgres::Socket>>::Stream,
>;

/// Starts the task that moves the connection's bytes, and returns the handle that deadpool aborts when it drops the
/// client.
///
/// That abort must not hit the task itself: the socket would close without a good-bye, and the server log an error
/// each time. So deadpool gets a leash: its end tells the driver that the client is gone, which then has [`GRACE`]
/// for the last answer and Terminate, so that a silent server can't keep the task for ever.
fn drive(mut connection: Driver, alive: mpsc::Sender<()>) -> JoinHandle<()> {
    let (held, released) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let _alive = alive;
        // Notices and notifications are what functions chose to say: nobody here listens.
        let run = async { while let Some(Ok(_)) = poll_fn(|cx| connection.poll_message(cx)).await {} };
        tokio::pin!(run);
        tokio::select! {
            () = &mut run => {}
            _ = released => {
                let _ = timeout(GRACE, run).await;
            }
        }
    });
    tokio::spawn(async move {
        let _held = held;
        pending::<()>().await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_defaults_carry_the_limits() {
        let limits = Limits {
            statement_timeout: Duration::from_micros(1),
            transaction_idle_timeout: Duration::from_secs(u64::MAX),
            ..Limits::default()
        };
        assert_eq!(
            options(&limits, false),
            "-c role=none -c statement_timeout=1 -c idle_in_transaction_session_timeout=2147483647 \
             -c client_min_messages=error"
        );
        assert!(options(&limits, true).ends_with(" -c client_connection_check_interval=5000"));
    }
}
