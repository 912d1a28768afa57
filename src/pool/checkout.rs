//! `Checkout`: one connection for one request, which goes back to the pool only when it is known to be clean.

use std::sync::Arc;

use super::connection::Connection;
use super::ledger::Key;
use crate::pg::wire;

/// Who lent a connection, and gets it back.
pub(super) trait Lender: Send + Sync {
    /// It is clean: the next request may have it.
    fn give_back(self: Arc<Self>, key: Key, connection: Connection);
    /// It is not: what it does is ended, and then it is closed.
    fn discard(self: Arc<Self>, key: Key, connection: Connection);
    /// Its host takes no writes.
    fn doubt(&self, connection: &Connection);
}

/// A connection to a tenant's database, in use by one request.
///
/// It is *dirty* until [`Checkout::clean`]: dropped before that, for whatever reason, it does not go back to the pool.
/// A request's future may be dropped at any await, when the session may be in a transaction, under the caller's role,
/// with answers outstanding; no query sent afterwards could tell.
#[must_use = "dropping it closes the connection"]
pub struct Checkout {
    /// `None` only while it is dropped.
    connection: Option<Connection>,
    lender: Arc<dyn Lender>,
    key: Key,
}

impl Checkout {
    pub(super) fn new(lender: Arc<dyn Lender>, key: Key, connection: Connection) -> Self {
        Self { connection: Some(connection), lender, key }
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
    /// Only after the [end](super::write_end) of its transaction and all that stands behind it has succeeded, or the
    /// [`ROLLBACK`](super::ROLLBACK) of a read: the next request, perhaps another caller's, goes on where this one stopped.
    /// A connection that owes an answer or has a transaction open is closed all the same.
    pub fn clean(mut self) {
        if let Some(connection) = self.connection.take() {
            Arc::clone(&self.lender).give_back(self.key, connection);
        }
    }
}

impl Checkout {
    /// Closes the connection, whose host refused to begin a transaction that writes: the next one goes to another host, where
    /// there is one.
    pub fn leave_standby(self) {
        if let Some(connection) = &self.connection {
            self.lender.doubt(connection);
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            Arc::clone(&self.lender).discard(self.key, connection);
        }
    }
}
