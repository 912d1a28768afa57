//! `Checkout`: one connection for one request, which goes back to the pool only when it is known to be clean.

use std::mem;
use std::sync::Arc;

use deadpool_postgres::Object;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::{Client, Statement};

use super::connect::GRACE;
use super::statements::{StatementKey, Statements};
use super::tenant_pool::TenantPool;

/// A connection to a tenant's database, in use by one request.
///
/// It is *dirty* until [`Checkout::clean`]: dropped before that, for whatever reason, it does not go back to the pool.
/// A request's future may be dropped at any await, when the session may be in a transaction, under the caller's role,
/// with answers outstanding; no query sent afterwards could tell.
#[must_use = "dropping it closes the connection"]
pub struct Checkout {
    /// `None` only while it is dropped.
    object: Option<Object>,
    statements: Statements,
    pool: Arc<TenantPool>,
}

impl Checkout {
    pub(super) fn new(object: Object, pool: Arc<TenantPool>) -> Self {
        Self { statements: pool.take_statements(&object), object: Some(object), pool }
    }

    /// The connection.
    #[allow(clippy::expect_used)]
    pub fn client(&self) -> &Client {
        // Both that take the object out, `clean` and `drop`, own the checkout.
        self.object.as_ref().expect("a checkout holds its connection until it is dropped")
    }

    /// The statement that was kept under this key on this connection.
    pub fn statement(&self, key: &StatementKey) -> Option<Statement> {
        self.statements.get(key)
    }

    /// Keeps a prepared statement for later requests on this connection. The least recently used one gives way.
    pub fn keep(&self, key: StatementKey, statement: Statement) {
        self.statements.put(key, statement);
    }

    /// Drops a statement that the server refuses since the schema changed.
    pub fn forget(&self, key: &StatementKey) {
        self.statements.remove(key);
    }

    /// Returns the connection to its pool.
    ///
    /// Only after the whole answer to [`COMMIT`](super::COMMIT) or [`ROLLBACK`](super::ROLLBACK) has arrived without
    /// an error: the next request, perhaps another caller's, goes on where this one stopped.
    pub fn clean(mut self) {
        if let Some(object) = self.object.take() {
            self.pool.keep_statements(&object, mem::replace(&mut self.statements, Statements::new()));
            drop(object);
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        let doomed = Doomed(Some(object));
        // Without a runtime nothing can be sent any more; the socket closes.
        if let Ok(runtime) = Handle::try_current() {
            let pool = Arc::clone(&self.pool);
            runtime.spawn(discard(doomed, pool));
        }
    }
}

/// A connection on its way out, whose slot is still taken. Dropped at any point, the task below included, it leaves
/// the pool instead of returning to it.
struct Doomed(Option<Object>);

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

/// Ends what the connection is doing, then closes it.
///
/// A backend does not notice that its client has gone before its statement ends, so the statement is cancelled. The
/// slot stays taken until the session has answered: a client that starts slow requests and hangs up would otherwise
/// pile up more backends than the tenant may have.
async fn discard(doomed: Doomed, pool: Arc<TenantPool>) {
    let Some(object) = &doomed.0 else { return };
    let end = async {
        let _ = object.cancel_token().cancel_query(pool.tls()).await;
        // Queued behind all that the request had sent; its answer, whatever it says, is the last one.
        let _ = object.simple_query("").await;
    };
    let _ = timeout(GRACE, end).await;
}
