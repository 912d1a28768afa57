//! One tenant's pool: deadpool's, and beside it what each connection has prepared.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolConfig, PoolError, QueueMode, RecyclingMethod, Runtime,
    StatementCache, TimeoutType, Timeouts,
};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Error;
use super::connect::{Connector, Server};
use super::statements::Statements;
use crate::pg;
use crate::tenant::Tenant;

/// Longest time a request spends on opening a connection; less when its `acquire_timeout` is shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What one tenant's requests draw on.
///
/// deadpool-postgres' own Manager is used through its `Connect`, not one of ours: deadpool itself, whose trait that
/// would be, is not among what deadpool-postgres re-exports. Its wrapper has room for its own statement cache only,
/// which has no bound and does not know about roles; ours stands on a shelf meanwhile.
pub(super) struct TenantPool {
    pub(super) tenant: Arc<Tenant>,
    pub(super) pool: Pool,
    server: Arc<Server>,
    /// Statements of idle connections, by the address of the wrapper's (unused) cache. The weak pointer keeps that
    /// address from being used again, and tells when the connection has gone.
    shelf: Mutex<HashMap<usize, (Weak<StatementCache>, Statements)>>,
}

impl TenantPool {
    pub(super) fn new(connector: Connector) -> Result<Self, Error> {
        let (tenant, server) = (Arc::clone(&connector.tenant), Arc::clone(&connector.server));
        let manager = Manager::from_connect(
            tokio_postgres::Config::new(),
            connector,
            // Fast: a look at whether the socket is closed. Returned connections are clean, so nothing needs asking.
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let config = PoolConfig {
            max_size: usize::try_from(tenant.limits.max_connections.max(1)).unwrap_or(usize::MAX),
            timeouts: Timeouts::default(),
            // The last used first, so that those beyond the need grow old and are closed.
            queue_mode: QueueMode::Lifo,
        };
        let pool = Pool::builder(manager).config(config).runtime(Runtime::Tokio1).build().map_err(|e| {
            pg::Error::Settings { server: tenant.server.clone(), reason: format!("its pool: {e}") }
        })?;
        Ok(Self { tenant, pool, server, shelf: Mutex::default() })
    }

    /// Whether connections of this pool are those that `tenant` says: a record read before a move or a rekey must not
    /// bring later requests to the old place.
    pub(super) fn fits(&self, tenant: &Arc<Tenant>) -> bool {
        let (own, other) = (&self.tenant, tenant);
        Arc::ptr_eq(own, other)
            || (own.server == other.server
                && own.generation == other.generation
                && own.limits.max_connections == other.limits.max_connections
                && own.limits.statement_timeout == other.limits.statement_timeout
                && own.limits.transaction_idle_timeout == other.limits.transaction_idle_timeout
                && own.limits.idle_timeout == other.limits.idle_timeout)
    }

    /// A connection, or `None` when the pool was drained meanwhile.
    pub(super) async fn get(&self, acquire: Duration) -> Result<Option<Object>, Error> {
        let connect = CONNECT_TIMEOUT.min(acquire);
        let timeouts = |wait| Timeouts { wait, create: Some(connect), recycle: None };
        // In two steps, so that each wait has one name: with a free slot only the server can be slow, and whoever
        // has queued for a slot has spent his time on that.
        let got = match self.pool.timeout_get(&timeouts(Some(Duration::ZERO))).await {
            Err(PoolError::Timeout(TimeoutType::Wait)) => {
                timeout(acquire, self.pool.timeout_get(&timeouts(None)))
                    .await
                    .unwrap_or(Err(PoolError::Timeout(TimeoutType::Wait)))
            }
            got => got,
        };
        match got {
            Ok(object) => Ok(Some(object)),
            Err(PoolError::Closed) => Ok(None),
            Err(PoolError::Timeout(TimeoutType::Wait)) => Err(Error::Wait {
                tenant: self.tenant.id.clone(),
                waited: acquire,
                max: self.tenant.limits.max_connections,
            }),
            Err(PoolError::Backend(error)) => Err(self.refusal(error)),
            Err(other) => Err(Error::Server {
                server: self.tenant.server.clone(),
                reason: format!("{other} (waited {connect:?})"),
            }),
        }
    }

    fn refusal(&self, source: tokio_postgres::Error) -> Error {
        let tenant = self.tenant.id.clone();
        let source = pg::Error::Connect {
            server: self.tenant.server.clone(),
            database: self.tenant.database(),
            user: self.tenant.login_role(),
            source,
        };
        if source.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) {
            Error::Full { tenant, source }
        } else if pg::is_refused_login(source.code()) {
            Error::Fenced { tenant, source }
        } else if pg::is_outage(source.code()) {
            Error::Server { server: self.tenant.server.clone(), reason: source.to_string() }
        } else {
            Error::Connect(source)
        }
    }

    pub(super) fn tls(&self) -> MakeRustlsConnect {
        self.server.endpoint.tls()
    }

    /// The statements of a connection that leaves the pool for a request.
    pub(super) fn take_statements(&self, object: &Object) -> Statements {
        let key = Arc::as_ptr(&object.statement_cache).addr();
        let found = self.shelf.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        found.map_or_else(Statements::new, |(_, statements)| statements)
    }

    /// Puts the statements of a connection aside that goes back to the pool next.
    pub(super) fn keep_statements(&self, object: &Object, statements: Statements) {
        let cache = &object.statement_cache;
        let entry = (Arc::downgrade(cache), statements);
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::as_ptr(cache).addr(), entry);
    }

    /// Closes connections that were not used for the tier's `idle_timeout` and forgets what closed ones had prepared.
    pub(super) fn reap(&self) {
        let limit = self.tenant.limits.idle_timeout;
        let closed = self.pool.retain(|client, metrics| !client.is_closed() && metrics.last_used() < limit);
        drop(closed.removed);
        self.shelf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, (cache, _)| cache.strong_count() > 0);
    }
}
