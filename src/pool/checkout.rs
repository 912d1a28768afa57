//! `Checkout`: one connection for one request, which goes back to the pool only when it is known to be clean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::connection::Connection;
use super::ledger::Key;
use super::server::Server;
use crate::pg::wire;

/// Longest wait for the server to take a request to cancel.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a tenant's database, in use by one request.
///
/// It is *dirty* until [`Checkout::clean`]: dropped before that, for whatever reason, it does not go back to the pool.
/// A request's future may be dropped at any await, when the session may be in a transaction, under the caller's role,
/// with answers outstanding; no query sent afterwards could tell.
#[must_use = "dropping it closes the connection"]
pub struct Checkout {
    /// `None` only while it is dropped.
    connection: Option<Connection>,
    server: Arc<Server>,
    key: Key,
}

impl Checkout {
    pub(super) fn new(server: Arc<Server>, key: Key, connection: Connection) -> Self {
        Self { connection: Some(connection), server, key }
    }

    /// The connection.
    #[allow(clippy::expect_used)]
    pub fn wire(&mut self) -> &mut wire::Connection {
        // Both that take it out, `clean` and `drop`, own the checkout.
        let connection =
            self.connection.as_mut().expect("a checkout holds its connection until it is dropped");
        &mut connection.wire
    }

    /// Returns the connection to its pool.
    ///
    /// Only after [`COMMIT`](super::COMMIT), [`ROLLBACK`](super::ROLLBACK) or [`RESET`](super::RESET) has succeeded, or
    /// the ROLLBACK of a read: the next request, perhaps another caller's, goes on where this one stopped. A connection
    /// that owes an answer or has a transaction open is closed all the same.
    pub fn clean(mut self) {
        if let Some(connection) = self.connection.take() {
            let (key, now) = (self.key, Instant::now());
            self.server.with(|ledger, orders| ledger.give_back(key, connection, now, orders));
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let (key, now) = (self.key, Instant::now());
        self.server.with(|ledger, orders| ledger.lost(key, now, orders));
        // Without a runtime nothing can be sent any more; the socket closes.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(discard(connection, Arc::clone(&self.server)));
        }
    }
}

/// Ends what the connection is doing, then closes it. Its slot stays taken until the server has closed its side.
///
/// A backend does not notice that its client has gone before its statement ends, so the statement is cancelled: a
/// client that starts slow requests and hangs up would otherwise use up what the tenant may have.
async fn discard(connection: Connection, server: Arc<Server>) {
    let _ = timeout(CANCEL_TIMEOUT, server.endpoint.cancel(connection.wire.cancel_key())).await;
}
