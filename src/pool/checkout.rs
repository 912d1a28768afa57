//! `Checkout`: one connection for one request, which goes back to the pool only when it is known to be clean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::ClientWrapper;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::Statement;

use super::connection::Connection;
use super::ledger::Key;
use super::server::Server;
use super::statements::StatementKey;

/// Longest wait for the server to take a request to cancel.
const CANCEL: Duration = Duration::from_secs(5);

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

    #[allow(clippy::expect_used)]
    fn connection(&self) -> &Connection {
        // Both that take it out, `clean` and `drop`, own the checkout.
        self.connection.as_ref().expect("a checkout holds its connection until it is dropped")
    }

    /// The connection.
    pub fn client(&self) -> &ClientWrapper {
        &self.connection().client
    }

    /// The role that the session has outside transactions, where its last user [left it one](Checkout::clean_as).
    pub fn role(&self) -> Option<&str> {
        self.connection().role.as_deref()
    }

    /// Takes that role away, so that what follows begins as the login itself. Waited for, because what is sent behind it
    /// would run as that role if it failed.
    ///
    /// # Errors
    /// As the server says; the checkout is then of no more use.
    pub async fn drop_role(&mut self) -> Result<(), tokio_postgres::Error> {
        if self.role().is_some() {
            self.client().batch_execute("RESET ROLE").await?;
            if let Some(connection) = &mut self.connection {
                connection.role = None;
            }
        }
        Ok(())
    }

    /// The statement that was kept under this key on this connection.
    pub fn statement(&self, key: &StatementKey) -> Option<Statement> {
        self.connection().statements.get(key)
    }

    /// Keeps a prepared statement for later requests on this connection. The least recently used one gives way.
    pub fn keep(&self, key: StatementKey, statement: Statement) {
        self.connection().statements.put(key, statement);
    }

    /// Drops a statement that the server refuses since the schema changed.
    pub fn forget(&self, key: &StatementKey) {
        self.connection().statements.remove(key);
    }

    /// Returns the connection to its pool.
    ///
    /// Only after the whole answer to [`COMMIT`](super::COMMIT) or [`ROLLBACK`](super::ROLLBACK) has arrived without
    /// an error: the next request, perhaps another caller's, goes on where this one stopped.
    pub fn clean(self) {
        self.give_back(None);
    }

    /// Returns the connection to its pool with a role that `SET ROLE` has given to the session, and with nothing else
    /// that would not be there after [`COMMIT`](super::COMMIT).
    pub fn clean_as(self, role: &str) {
        self.give_back(Some(role));
    }

    fn give_back(mut self, role: Option<&str>) {
        if let Some(mut connection) = self.connection.take() {
            if connection.role.as_deref() != role {
                connection.role = role.map(ToOwned::to_owned);
            }
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
    let token = connection.client.cancel_token();
    let _ = timeout(CANCEL, server.endpoint.cancel(&connection.address, &token)).await;
}
