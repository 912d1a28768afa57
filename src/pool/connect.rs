//! How a tenant's connection is opened: the login, and the session's defaults.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;

use super::connection::{Connection, Slot};
use super::error::Error;
use super::ledger::{Failure, Open};
use super::terminator::{Keys, Presence, Terminator};
use crate::backoff::Backoff;
use crate::pg::wire::{Query, WireError};
use crate::pg::{self, Endpoint, Guard};
use crate::policy::Limits;
use crate::vault::{KeyRing, PASSWORD};

/// Longest wait for the server to take a request to cancel.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a session may take to end after a request to cancel. What it was doing is undone, which takes milliseconds.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// Longest wait before a session is ended once more. It may be in a loop of PostgreSQL's own that looks for no signal, or
/// the server had no connection for us.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// What a server has room for, less what it keeps for superusers (and, from PostgreSQL 16 on, for others).
const ROOM: &str = "SELECT current_setting('max_connections')::int \
                    - current_setting('superuser_reserved_connections')::int \
                    - coalesce(current_setting('reserved_connections', true)::int, 0)";
/// More than the one number that it gives.
const ROOM_BYTES: usize = 1024;

/// Opens and closes connections to one server.
pub(super) struct Connector {
    pub(super) endpoint: Endpoint,
    keys: Keys,
    /// Whether `client_connection_check_interval` may be sent: systems that can't do it refuse it.
    checks_clients: AtomicBool,
    terminator: Option<Arc<Terminator>>,
}

impl Connector {
    pub(super) fn new(endpoint: Endpoint, keys: Keys, terminator: Option<Arc<Terminator>>) -> Self {
        Self { endpoint, keys, checks_clients: AtomicBool::new(true), terminator }
    }

    /// Opens a connection in this slot.
    pub(super) async fn open(&self, open: &Open, slot: Arc<Slot>) -> Result<Connection, Failure> {
        let tenant = &open.tenant;
        let ring = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        let logins = ring.tenant_logins(tenant);
        let Some(login) = logins.get(open.login % logins.len().max(1)) else {
            return Err(Failure::Refused(Error::Connect(Arc::new(pg::Error::Settings {
                server: tenant.server.clone(),
                reason: "there is no master key to log in with".into(),
            }))));
        };
        let checks = self.checks_clients.load(Ordering::Relaxed);
        let options = options(&tenant.limits, checks);
        let guard: Guard = slot.clone();
        let opened = self.endpoint.open(login, &tenant.database(), &options, &guard).await;
        let wire = opened.map_err(|error| {
            if checks && is_unknown_setting(error.code()) && !error.is_of_the_login() {
                self.checks_clients.store(false, Ordering::Relaxed);
                return Failure::Again;
            }
            let passwords_left = open.refused_logins + 1 < logins.len();
            if error.code() == Some(&SqlState::INVALID_PASSWORD) && passwords_left {
                return Failure::NextLogin;
            }
            failure(open, error, &ring)
        })?;
        Ok(Connection { wire, epoch: open.epoch, tenant: Arc::clone(tenant), slot })
    }

    /// Ends what the connection is doing, then closes it. Its slot stays taken until the server has closed its side, or says
    /// that the session is not there; where it says nothing, for a few seconds.
    ///
    /// A backend does not notice that its client has gone before its statement ends, so the statement is cancelled: a
    /// client that starts slow requests and hangs up would otherwise use up what the tenant may have. A function can catch
    /// that, and go on; then its session is terminated.
    pub(super) async fn discard(&self, connection: Connection) {
        let Connection { wire, tenant, slot, .. } = connection;
        let _ = timeout(CANCEL_TIMEOUT, self.endpoint.cancel(wire.cancel_key())).await;
        let process = wire.cancel_key().process();
        drop(wire);
        let session = Arc::downgrade(&slot);
        drop(slot);
        let mut backoff = Backoff::new(CANCEL_GRACE, LONGEST_RETRY);
        let mut wait = CANCEL_GRACE;
        while let Some(terminator) = &self.terminator {
            sleep(wait).await;
            if session.strong_count() == 0 {
                return;
            }
            let answer = terminator.end(process, &tenant).await;
            let Some(slot) = session.upgrade() else { return };
            match answer {
                Presence::There => slot.confirm(),
                // It was another host's, perhaps, and what is between us and the server has not told us.
                Presence::Gone => return slot.free(),
                Presence::Unknown => {}
            }
            wait = backoff.next_wait();
        }
    }
}

/// How many connections the server has room for.
pub(super) async fn room(connection: &mut Connection) -> Result<u32, WireError> {
    let query = Query { sql: ROOM, types: &[], key: None, parameters: &[] };
    let (rows, _) = connection.wire.rows(&query, ROOM_BYTES).await?;
    let most = rows.first().map(|row| row.try_get::<i32>(0)).transpose()?;
    Ok(most.and_then(|most| u32::try_from(most).ok()).unwrap_or(0))
}

/// Whose failure it is: the tenant's alone, or the server's for all.
fn failure(open: &Open, error: pg::Error, ring: &KeyRing) -> Failure {
    let tenant = &open.tenant;
    let code = error.code();
    let derives = !tenant.is_adopted() || tenant.sealed.contains_key(PASSWORD);
    if code == Some(&SqlState::INVALID_PASSWORD) && derives && !ring.has(tenant.key) {
        let (tenant, number) = (tenant.id.clone(), tenant.key);
        return Failure::Refused(Error::WrongKey { tenant, number, source: Arc::new(error) });
    }
    if matches!(error, pg::Error::Stuck { .. }) {
        Failure::Stuck(Error::Connect(Arc::new(error)))
    } else if code == Some(&SqlState::TOO_MANY_CONNECTIONS) {
        Failure::Full
    } else if pg::is_refused_login(code) {
        Failure::Refused(Error::Fenced { tenant: tenant.id.clone(), source: Arc::new(error) })
    } else if pg::is_outage(code) && code != Some(&SqlState::DATABASE_DROPPED) && !error.is_of_the_login() {
        Failure::Outage(Error::Server { server: tenant.server.clone(), reason: error.to_string() })
    } else {
        Failure::Refused(Error::Connect(Arc::new(error)))
    }
}

/// 42704: the server doesn't know the setting. 22023: its system can't do it.
fn is_unknown_setting(code: Option<&SqlState>) -> bool {
    matches!(code, Some(&SqlState::UNDEFINED_OBJECT | &SqlState::INVALID_PARAMETER_VALUE))
}

/// The session's defaults, which `RESET ALL` returns to.
///
/// Given at startup they win over `ALTER ROLE … SET` and `ALTER DATABASE … SET`, which any function can write for the
/// login it runs under: so `role` is among them, for `RESET ROLE` goes back to such a default too, and the search path,
/// so that whatever runs outside a request's settings finds PostgreSQL's own names.
fn options(limits: &Limits, checks: bool) -> String {
    let check = if checks { " -c client_connection_check_interval=5000" } else { "" };
    format!(
        "-c role=none -c search_path=pg_catalog,pg_temp -c statement_timeout={} \
         -c idle_in_transaction_session_timeout={} -c client_min_messages=error{check}",
        milliseconds(limits.statement_timeout),
        milliseconds(limits.transaction_idle_timeout),
    )
}

/// A timeout as PostgreSQL takes it. 0 there means none, so that less than a millisecond is one.
fn milliseconds(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis().max(u128::from(!limit.is_zero()))).unwrap_or(i32::MAX)
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
            "-c role=none -c search_path=pg_catalog,pg_temp -c statement_timeout=1 \
             -c idle_in_transaction_session_timeout=2147483647 -c client_min_messages=error"
        );
        assert!(options(&limits, true).ends_with(" -c client_connection_check_interval=5000"));
    }
}
