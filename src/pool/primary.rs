//! Primary: keeps knowing which of a server's hosts is its primary, also while no request asks for a connection.
//!
//! A primary whose machine went, or which was stopped, says nothing: sessions on it wait for answers that don't come, and
//! where all that its tenants may have wait, none is opened elsewhere. So the router asks it every second by its own login,
//! in a database where no tenant's code runs. Who else is the primary then is found by the same search as everybody's, which
//! ends the sessions on the former one.

use std::sync::{PoisonError, Weak};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::server::Server;
use super::terminator::Keys;
use crate::pg::{self, Endpoint};

/// How often the primary is asked.
const EVERY: Duration = Duration::from_secs(1);
/// Longest wait for its answer, and for each host's in a search. A primary that takes longer stays the primary as long as no
/// other host is.
const ANSWER: Duration = Duration::from_secs(1);
/// The pause between two searches.
const AGAIN: Duration = Duration::from_millis(300);

const QUESTION: &str = "SELECT pg_catalog.pg_is_in_recovery()";

/// Runs for as long as somebody uses the server.
pub(super) async fn watch(server: Weak<Server>, endpoint: Endpoint, catalog: String, keys: Keys) {
    let (database, endpoint) = (format!("{catalog}_router"), endpoint.hurried(ANSWER));
    while server.strong_count() > 0 {
        let logins = keys.read().unwrap_or_else(PoisonError::into_inner).clone().router_logins(&catalog);
        match pg::connect_any(&endpoint, &logins, &database).await {
            Ok(session) => {
                while server.strong_count() > 0 && is_primary(&session).await {
                    sleep(EVERY).await;
                }
                session.doubt(&endpoint);
            }
            Err(error) => tracing::debug!(server = endpoint.name(), %error, "no primary"),
        }
        sleep(AGAIN).await;
    }
}

async fn is_primary(session: &pg::Connection) -> bool {
    let asked = async { session.query_one(QUESTION, &[]).await?.try_get::<_, bool>(0) };
    matches!(timeout(ANSWER, asked).await, Ok(Ok(false)))
}
