//! Pools: the only way to a connection to a tenant's database, and never a dirty one.
//!
//! [`Pools::checkout`] takes a tenant and gives a [`Checkout`], from that tenant's own deadpool, made at first use.
//! A request ends its transaction with [`COMMIT`] or [`ROLLBACK`], which also reset the session, and then says
//! [`Checkout::clean`]; every other way out closes the connection. The reaper closes what nobody uses.
//!
//! Not here yet: the budget over all tenants of a server. It will stand in [`Pools::checkout`], between the look for
//! an idle connection and the opening of one, and be given back where a connection's task ends (`connect::drive`).

mod checkout;
mod connect;
mod error;
mod reaper;
mod reset;
mod statements;
mod tenant_pool;

pub use checkout::Checkout;
pub use error::Error;
pub use reset::{COMMIT, ROLLBACK};
pub use statements::StatementKey;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use tokio::sync::{Mutex, broadcast, mpsc};

use crate::pg::{self, Endpoint, KeyRing};
use crate::tenant::{Tenant, TenantId};
use connect::{Connector, GRACE, Keys, Server};
use tenant_pool::TenantPool;

/// Refusals kept for a listener that is busy.
const REFUSALS: usize = 256;

/// What one tenant's pool holds at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// The tenant.
    pub tenant: TenantId,
    /// Connections, idle ones included.
    pub open: usize,
    /// Connections that wait for a request.
    pub idle: usize,
    /// Requests that wait for a connection or open one.
    pub waiting: usize,
}

/// All pools of this process; a handle, cheap to clone. When the last one is dropped, idle connections close.
#[derive(Clone)]
pub struct Pools(Arc<Shared>);

struct Shared {
    servers: HashMap<String, Arc<Server>>,
    keys: Keys,
    pools: DashMap<TenantId, Arc<TenantPool>>,
    refused: broadcast::Sender<TenantId>,
    /// `None` once closed.
    alive: RwLock<Option<mpsc::Sender<()>>>,
    gone: Mutex<mpsc::Receiver<()>>,
}

impl Pools {
    /// Pools for the tenants of these servers (by their name in the settings); opens nothing yet.
    ///
    /// # Panics
    /// Outside a tokio runtime, for it starts the reaper.
    pub fn new(endpoints: HashMap<String, Endpoint>, keys: Arc<KeyRing>) -> Self {
        let (alive, gone) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            servers: endpoints.into_iter().map(|(name, e)| (name, Arc::new(Server::new(e)))).collect(),
            keys: Arc::new(RwLock::new(keys)),
            pools: DashMap::new(),
            refused: broadcast::channel(REFUSALS).0,
            alive: RwLock::new(Some(alive)),
            gone: Mutex::new(gone),
        });
        reaper::spawn(Arc::downgrade(&shared));
        Self(shared)
    }

    /// Puts other master keys in place for connections opened from now on; open ones stay.
    pub fn set_keys(&self, keys: Arc<KeyRing>) {
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// A connection to the tenant's database, as its login role, outside any transaction.
    ///
    /// Waits at most the tier's `acquire_timeout`. The future may be dropped at any time.
    ///
    /// # Errors
    /// See [`Error`]; each variant says whether to try again.
    pub async fn checkout(&self, tenant: &Arc<Tenant>) -> Result<Checkout, Error> {
        loop {
            let pool = self.pool(tenant)?;
            match pool.get(tenant.limits.acquire_timeout).await {
                Ok(Some(object)) => return Ok(Checkout::new(object, pool)),
                // Drained while we waited. Whether the tenant is still served, the server knows.
                Ok(None) => {}
                Err(error) => {
                    self.report(tenant, &error);
                    return Err(error);
                }
            }
        }
    }

    /// The one place where the pools speak: callers learn no more than that there is no connection.
    fn report(&self, tenant: &Tenant, error: &Error) {
        let (id, server) = (tracing::field::display(&tenant.id), tenant.server.as_str());
        match error {
            // A tenant at its own limit is no news for the operator, and comes by the thousand.
            Error::Wait { .. } => tracing::debug!(tenant.id = id, server, "{error}"),
            Error::Fenced { .. } => {
                tracing::info!(tenant.id = id, server, "{error}");
                // Fails when nobody listens.
                let _ = self.0.refused.send(tenant.id.clone());
            }
            _ => tracing::warn!(tenant.id = id, server, "{error}"),
        }
    }

    /// The tenant's pool, made when there is none that fits.
    fn pool(&self, tenant: &Arc<Tenant>) -> Result<Arc<TenantPool>, Error> {
        if let Some(pool) = self.0.pools.get(&tenant.id)
            && pool.fits(tenant)
        {
            return Ok(Arc::clone(&pool));
        }
        let mut entry = self.0.pools.entry(tenant.id.clone());
        if let dashmap::Entry::Occupied(found) = &mut entry
            && found.get().fits(tenant)
        {
            return Ok(Arc::clone(found.get()));
        }
        let server = self.0.servers.get(&tenant.server).ok_or_else(|| pg::Error::Settings {
            server: tenant.server.clone(),
            reason: format!("not in the settings, but tenant {} is on it; add it to [servers]", tenant.id),
        })?;
        let closed =
            || Error::Server { server: tenant.server.clone(), reason: "this router shuts down".into() };
        let alive = self.0.alive.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed)?;
        let pool = Arc::new(TenantPool::new(Connector {
            tenant: Arc::clone(tenant),
            server: Arc::clone(server),
            keys: Arc::clone(&self.0.keys),
            alive,
        })?);
        let replaced = match entry {
            dashmap::Entry::Occupied(mut found) => Some(found.insert(Arc::clone(&pool))),
            dashmap::Entry::Vacant(free) => {
                free.insert(Arc::clone(&pool));
                None
            }
        };
        if let Some(old) = replaced {
            old.pool.close();
        }
        Ok(pool)
    }

    /// Ends the tenant's pool, after its state or credentials changed: idle connections close now, those in use when
    /// their request returns them. A later checkout makes a new pool.
    pub fn drain(&self, id: &TenantId) {
        if let Some((_, pool)) = self.0.pools.remove(id) {
            pool.pool.close();
        }
    }

    /// What each pool holds; tenants without a pool are not in it.
    pub fn status(&self) -> Vec<PoolStatus> {
        self.0
            .pools
            .iter()
            .map(|pool| {
                let status = pool.pool.status();
                PoolStatus {
                    tenant: pool.key().clone(),
                    open: status.size,
                    idle: status.available,
                    waiting: status.waiting,
                }
            })
            .collect()
    }

    /// Tenants whose login a server refused: each must be read again from the catalog. A listener that falls behind
    /// is told so (`RecvError::Lagged`), and must then read all again.
    pub fn refused(&self) -> broadcast::Receiver<TenantId> {
        self.0.refused.subscribe()
    }

    /// Stops: no more checkouts, idle connections close now, those in use when their request ends. Returns when all
    /// have said good-bye, or after some seconds (whoever stops has let requests end before).
    pub async fn close(&self) {
        drop(self.0.alive.write().unwrap_or_else(PoisonError::into_inner).take());
        self.0.pools.retain(|_, pool| {
            pool.pool.close();
            false
        });
        let mut gone = self.0.gone.lock().await;
        let _ = tokio::time::timeout(GRACE, gone.recv()).await;
    }
}
