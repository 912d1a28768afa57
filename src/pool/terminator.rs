//! Terminator: ends sessions that ignore a request to cancel, and those that keep others from the server, by the router's
//! own login.
//!
//! Not by the tenant's: whatever runs as that could end the session that would end it, or change its password before.

use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::pg::{self, Connection, Endpoint};
use crate::tenant::Tenant;
use crate::vault::KeyRing;

/// The master keys in use, exchangeable while serving.
pub(super) type Keys = Arc<RwLock<Arc<KeyRing>>>;

/// Longest time for all of one call: the wait for the session, its login, and the server's answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often it looks for sessions that keep others from the server: so long logins may wait.
const EVERY: Duration = Duration::from_millis(500);
/// The pause where that could not be asked.
const AGAIN: Duration = Duration::from_secs(5);

/// Begins the transaction that its session stays in, with locks on all that ending a session reads. A tenant's code can
/// keep logins, and whoever reads these tables next, waiting for as long as it likes; who has a lock already gets it again
/// without a wait. Each statement drops the snapshot of the one before, so the transaction holds no vacuum up.
const HOLD: &str = "
    SET idle_in_transaction_session_timeout = 0; SET statement_timeout = '10s';
    SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout';
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SELECT FROM pg_catalog.pg_roles, pg_catalog.pg_database, pg_catalog.pg_auth_members LIMIT 0";

/// The function that `manybox init` made for it. It compares login and database, for the process may be another's by now.
/// A session that may not be ended is there all the same, and takes its place. What it saw before is thrown away, which
/// would last as long as the transaction.
const END: &str = "SELECT public.end_session($1, $2, $3), EXISTS (SELECT FROM pg_catalog.pg_stat_activity \
                   WHERE pid = $1 AND usename = $2 AND datname = $3) FROM pg_catalog.pg_stat_clear_snapshot()";

/// Another one.
const END_BLOCKERS: &str = "SELECT login, ended FROM public.end_blockers()";

/// What the server says of a session that was to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It was there, and may have been told to end.
    There,
    /// It is not there.
    Gone,
    /// The server did not say.
    Unknown,
}

/// The router's login on one server, with one session there: of those that `reserved_connections` leaves.
pub(super) struct Terminator {
    endpoint: Endpoint,
    catalog: String,
    keys: Keys,
    session: Mutex<Option<Arc<Connection>>>,
}

impl Terminator {
    pub(super) fn new(endpoint: &Endpoint, catalog: &str, keys: &Keys) -> Self {
        let (endpoint, catalog, keys) = (endpoint.clone(), catalog.to_owned(), Arc::clone(keys));
        Self { endpoint, catalog, keys, session: Mutex::default() }
    }

    /// Ends the session of the tenant that this process serves, and says whether it is there.
    pub(super) async fn end(&self, process: i32, tenant: &Tenant) -> Presence {
        let (login, database) = (tenant.login_role(), tenant.database());
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&process, Type::INT4), (&login, Type::TEXT), (&database, Type::TEXT)];
        let answer = self.ask(END, &parameters).await.and_then(|rows| {
            let read =
                |row: &Row| Ok::<(bool, bool), tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?));
            Ok(rows.first().map(read).transpose()?.unwrap_or_default())
        });
        match answer {
            Ok((true, _)) => {
                tracing::info!(
                    tenant.id = %tenant.id,
                    server = self.endpoint.name(),
                    "a session ignored a request to cancel and was ended"
                );
                Presence::There
            }
            Ok((false, true)) => self.failed(tenant, "it is none that this router may end", Presence::There),
            Ok((false, false)) => Presence::Gone,
            Err(error) => self.failed(tenant, &error.to_string(), Presence::Unknown),
        }
    }

    fn failed(&self, tenant: &Tenant, reason: &str, presence: Presence) -> Presence {
        tracing::warn!(
            tenant.id = %tenant.id,
            server = self.endpoint.name(),
            "a session ignores a request to cancel and could not be ended: {reason}; was the server prepared by `manybox \
             init`?"
        );
        presence
    }

    /// Ends sessions whose locks keep others from the server, and names their logins.
    async fn end_blockers(&self) -> Result<(), pg::Error> {
        for row in self.ask(END_BLOCKERS, &[]).await? {
            let (login, ended): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
            let server = self.endpoint.name();
            tracing::warn!(
                server,
                login,
                ended,
                "a session wanted a lock that keeps everybody from the server, which no tenant's work needs, and was ended"
            );
        }
        Ok(())
    }

    /// Asks in the session that is kept, or in a new one. After an error it is of no more use, for its transaction has failed.
    async fn ask(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, pg::Error> {
        let mut asked = None;
        let answer = timeout(TIMEOUT, async {
            let session = asked.insert(self.session().await?);
            Ok(session.query_typed(sql, parameters).await?)
        });
        let silent = || pg::Error::Silent { server: self.endpoint.name().to_owned(), waited: TIMEOUT };
        let answer = answer.await.unwrap_or_else(|_| Err(silent()));
        if let (Err(_), Some(asked)) = (&answer, asked) {
            let mut kept = self.session.lock().await;
            if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &asked)) {
                *kept = None;
            }
        }
        answer
    }

    async fn session(&self) -> Result<Arc<Connection>, pg::Error> {
        let mut kept = self.session.lock().await;
        if let Some(session) = kept.as_ref().filter(|session| !session.is_closed()) {
            return Ok(Arc::clone(session));
        }
        let ring = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        let database = format!("{}_router", self.catalog);
        let session = pg::connect_any(&self.endpoint, &ring.router_logins(&self.catalog), &database).await?;
        session.batch_execute(HOLD).await?;
        Ok(Arc::clone(kept.insert(Arc::new(session))))
    }
}

/// Looks for sessions that keep others from the server, for as long as somebody uses the terminator.
pub(super) async fn watch(terminator: Weak<Terminator>) {
    let mut told = false;
    while let Some(terminator) = terminator.upgrade() {
        let result = terminator.end_blockers().await;
        if let Err(error) = &result
            && !std::mem::replace(&mut told, true)
        {
            let server = terminator.endpoint.name();
            tracing::warn!(
                server,
                "can't look for sessions that keep others from the server: {error}; was it prepared by `manybox init`?"
            );
        }
        drop(terminator);
        told &= result.is_err();
        sleep(if result.is_ok() { EVERY } else { AGAIN }).await;
    }
}
