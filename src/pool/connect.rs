//! How a tenant's connection is opened: the login, and the session's defaults.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio_postgres::error::SqlState;

use super::connection::{Connection, Slot};
use super::error::Error;
use super::ledger::{Failure, Open};
use super::server::Server;
use super::statements::Statements;
use crate::pg::{self, Guard};
use crate::policy::Limits;

/// Longest time for one connection, from the first byte to the end of the login.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// What a server has room for, less what it keeps for superusers (and, from PostgreSQL 16 on, for others).
const ROOM: &str = "SELECT current_setting('max_connections')::int \
                    - current_setting('superuser_reserved_connections')::int \
                    - coalesce(current_setting('reserved_connections', true)::int, 0)";

/// Opens a connection in this slot.
pub(super) async fn open(server: &Arc<Server>, open: &Open, slot: Arc<Slot>) -> Result<Connection, Failure> {
    let tenant = &open.tenant;
    let ring = server.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
    let logins = ring.tenant_logins(tenant);
    let Some(login) = logins.get(open.login % logins.len().max(1)) else {
        return Err(Failure::Refused(Error::Connect(Arc::new(pg::Error::Settings {
            server: tenant.server.clone(),
            reason: "there is no master key to log in with".into(),
        }))));
    };
    let checks = server.checks_clients.load(Ordering::Relaxed);
    let options = options(&tenant.limits, checks);
    let guard: Guard = slot.clone();
    let (owner, key) = (slot.server(), open.key);
    // Only while it is idle is that news; a request learns it from its own answer.
    let ended = move || {
        if let Some(server) = owner.upgrade() {
            server.with(|ledger, orders| ledger.died(key, std::time::Instant::now(), orders));
        }
    };
    let opened = server.endpoint.connect_guarded(login, &tenant.database(), &options, &guard, ended).await;
    let (client, driver, address) = opened.map_err(|error| {
        if checks && is_unknown_setting(error.code()) {
            server.checks_clients.store(false, Ordering::Relaxed);
            return Failure::Again;
        }
        let passwords_left = open.refused_logins + 1 < logins.len();
        if error.code() == Some(&SqlState::INVALID_PASSWORD) && passwords_left {
            return Failure::NextLogin;
        }
        failure(open, error)
    })?;
    if !server.is_known() {
        let room = client.query_typed(ROOM, &[]).await.map_err(|e| failure(open, e.into()))?;
        let most =
            room.first().and_then(|row| row.try_get::<_, i32>(0).ok()).and_then(|n| u32::try_from(n).ok());
        server.learn(most.unwrap_or(0));
    }
    Ok(Connection {
        client: ClientWrapper::new(client, driver),
        statements: Statements::new(),
        role: None,
        address,
        epoch: open.epoch,
        slot,
    })
}

/// Whose failure it is: the tenant's alone, or the server's for all.
fn failure(open: &Open, error: pg::Error) -> Failure {
    let tenant = &open.tenant;
    let code = error.code();
    if code == Some(&SqlState::TOO_MANY_CONNECTIONS) {
        Failure::Full
    } else if pg::is_refused_login(code) {
        Failure::Refused(Error::Fenced { tenant: tenant.id.clone(), source: Arc::new(error) })
    } else if pg::is_outage(code) && code != Some(&SqlState::DATABASE_DROPPED) {
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
/// which plain readings begin with: with another one `=` need not be the server's. What runs outside a transaction of
/// ours, as plain readings do, writes nothing, unless the session was told otherwise since its last reset.
fn options(limits: &Limits, checks: bool) -> String {
    let check = if checks { " -c client_connection_check_interval=5000" } else { "" };
    format!(
        "-c role=none -c search_path=pg_catalog,pg_temp -c default_transaction_read_only=on \
         -c default_transaction_isolation=read\\ committed -c statement_timeout={} \
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
            "-c role=none -c search_path=pg_catalog,pg_temp -c default_transaction_read_only=on \
             -c default_transaction_isolation=read\\ committed -c statement_timeout=1 \
             -c idle_in_transaction_session_timeout=2147483647 -c client_min_messages=error"
        );
        assert!(options(&limits, true).ends_with(" -c client_connection_check_interval=5000"));
    }
}
