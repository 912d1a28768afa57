//! Terminator: ends sessions that ignore a request to cancel, by the router's own login.
//!
//! Not by the tenant's: whatever runs as that could end the session that would end it, or change its password before.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::timeout;

use crate::pg::{Endpoint, Sessions, Waits};
use crate::tenant::Tenant;
use crate::vault::KeyRing;

/// The master keys in use, exchangeable while serving.
pub(super) type Keys = Arc<RwLock<Arc<KeyRing>>>;

/// Sessions that it has on a server, of those that `reserved_connections` leaves: opened when it is first needed, then
/// kept. Who waits for it is bounded by the slots of those who are to be ended.
const SESSIONS: usize = 1;

/// Longest time for all of one call: the wait for the session, its login, and the server's answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The function that `manybox init` made for it. It compares login and database, for the process may be another's by now.
/// A session that may not be ended is there all the same, and takes its place.
const END: &str = "SELECT public.end_session($1, $2, $3), EXISTS (SELECT FROM pg_catalog.pg_stat_activity \
                   WHERE pid = $1 AND usename = $2 AND datname = $3)";

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

/// The router's login on one server.
pub(super) struct Terminator {
    server: String,
    sessions: Sessions,
}

impl Terminator {
    pub(super) fn new(endpoint: &Endpoint, catalog: &str, keys: &Keys) -> Self {
        let (database, catalog) = (format!("{catalog}_router"), catalog.to_owned());
        let keys = Arc::clone(keys);
        let logins =
            move || keys.read().unwrap_or_else(PoisonError::into_inner).clone().router_logins(&catalog);
        let sessions = Sessions::new(endpoint.clone(), database, SESSIONS, Waits::default(), logins);
        Self { server: endpoint.name().to_owned(), sessions }
    }

    /// Ends the session of the tenant that this process serves, and says whether it is there.
    pub(super) async fn end(&self, process: i32, tenant: &Tenant) -> Presence {
        let (login, database) = (tenant.login_role(), tenant.database());
        let asked = async {
            let row = self.sessions.query_one(END, &[&process, &login, &database]).await?;
            Ok::<(bool, bool), crate::pg::Error>((row.try_get(0)?, row.try_get(1)?))
        };
        match timeout(TIMEOUT, asked).await {
            Ok(Ok((true, _))) => {
                tracing::info!(
                    tenant.id = %tenant.id,
                    server = self.server,
                    "a session ignored a request to cancel and was ended"
                );
                Presence::There
            }
            Ok(Ok((false, true))) => {
                self.failed(tenant, "it is none that this router may end", Presence::There)
            }
            Ok(Ok((false, false))) => Presence::Gone,
            Ok(Err(error)) => self.failed(tenant, &error.to_string(), Presence::Unknown),
            Err(_) => self.failed(tenant, "no answer in time", Presence::Unknown),
        }
    }

    fn failed(&self, tenant: &Tenant, reason: &str, presence: Presence) -> Presence {
        tracing::warn!(
            tenant.id = %tenant.id,
            server = self.server,
            "a session ignores a request to cancel and could not be ended: {reason}; was the server prepared by `manybox \
             init`?"
        );
        presence
    }
}
