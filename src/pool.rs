//! Pools: the only way to a connection to a tenant's database, within one budget per server, and never a dirty one.
//!
//! [`Pools::checkout`] takes a tenant and gives a [`Checkout`]: an idle connection of that tenant at once, or a place
//! in its queue. Who may open a connection, and whose is closed for it, the `ledger` of the server decides; it knows
//! no I/O. `server` carries out what it orders. A request ends its transaction so that nothing of it stays in the
//! session, and then says [`Checkout::clean`]; every other way out closes the connection.
//!
//! The connection itself is [`pg::wire`]'s. deadpool-postgres is not used here: its pool can't share one limit among
//! databases, and frees a place when the client is dropped, while PostgreSQL does so when the backend has exited.

mod breaker;
mod checkout;
mod connect;
mod connection;
mod disk;
mod error;
mod lease;
mod ledger;
mod primary;
mod reset;
mod server;
mod status;
mod terminator;

pub use breaker::Breaker;
pub use checkout::Checkout;
pub use disk::{Disk, Measured, Room, ScaleError, Use};
pub use error::{Error, Wait};
pub use lease::{Demand, Holder, Lease};
pub use ledger::{PoolStatus, Timeouts};
pub use reset::{End, ROLLBACK, end_batch, write_end};
pub use status::ServerStatus;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast};

use crate::pg::{self, Endpoint};
use crate::tenant::{Tenant, TenantId};
use crate::vault::KeyRing;
use connect::Connector;
use disk::Scale;
use server::Server;
use terminator::{Keys, Terminator};

/// Refusals kept for a listener that is busy.
const REFUSALS: usize = 256;
/// How often idle connections are looked at: some 0.1 µs each, and never a query.
const REAP: Duration = Duration::from_secs(1);
/// How long connections that were given up may take to end their last statement and say good-bye.
const GRACE: Duration = Duration::from_secs(5);

/// What one server gives to tenants' requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Most connections of all tenants on all routers. None: what the server has, which the first connection asks,
    /// less `reserve`.
    pub total: Option<u32>,
    /// Connections left to operators, migrations and other control-plane work.
    pub reserve: u32,
    /// Most connections being opened at once. More take no less time each: authentication is the server's work.
    pub max_connecting: u32,
    /// Most connections of one tenant on one router, whatever its tier says.
    pub max_per_tenant: u32,
    /// Whether other routers share the total: then none of it is used before [`Pools::set_lease`] was called.
    pub shared: bool,
}

impl Default for Budget {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, |n| u32::try_from(n.get()).unwrap_or(2));
        Self {
            total: None,
            reserve: 20,
            max_connecting: 4,
            max_per_tenant: cores.max(2) * 3 / 2,
            shared: false,
        }
    }
}

/// All pools of this process; a handle, cheap to clone. When the last one is dropped, idle connections close.
#[derive(Clone)]
pub struct Pools(Arc<Shared>);

struct Shared {
    servers: HashMap<String, Arc<Server>>,
    /// By server, of a router of the fleet.
    scales: HashMap<String, Scale>,
    disk: Disk,
    keys: Keys,
    refused: broadcast::Sender<TenantId>,
    known: Arc<Notify>,
}

impl Pools {
    /// Pools for the tenants of these servers (by their name in the settings); opens nothing yet. Sessions that ignore a
    /// request to cancel go on for as long as they like.
    ///
    /// # Panics
    /// Outside a tokio runtime, for it starts the reaper.
    pub fn new(servers: HashMap<String, (Endpoint, Budget)>, keys: Arc<KeyRing>) -> Self {
        Self::build(servers, keys, None)
    }

    /// The same for a router of the fleet with this catalog, which has a login of its own on each server: with that it
    /// ends sessions that ignore a request to cancel.
    ///
    /// # Panics
    /// As [`Pools::new`].
    pub fn of_router(
        servers: HashMap<String, (Endpoint, Budget)>,
        keys: Arc<KeyRing>,
        catalog: &str,
    ) -> Self {
        Self::build(servers, keys, Some(catalog))
    }

    fn build(
        servers: HashMap<String, (Endpoint, Budget)>,
        keys: Arc<KeyRing>,
        catalog: Option<&str>,
    ) -> Self {
        let keys = Arc::new(RwLock::new(keys));
        let (refused, known) = (broadcast::channel(REFUSALS).0, Arc::new(Notify::new()));
        let mut scales = HashMap::new();
        if let Some(catalog) = catalog {
            let scale = |(name, (endpoint, _)): (&String, &(Endpoint, Budget))| {
                (name.clone(), Scale::new(endpoint, catalog, &keys))
            };
            scales.extend(servers.iter().map(scale));
        }
        let servers = servers.into_iter().map(|(name, (endpoint, budget))| {
            let searched = catalog.filter(|_| endpoint.has_leader());
            let searched = searched.map(|catalog| (endpoint.clone(), catalog.to_owned()));
            let terminator = catalog.map(|catalog| Arc::new(Terminator::new(&endpoint, catalog, &keys)));
            if let Some(terminator) = &terminator {
                tokio::spawn(terminator::watch(Arc::downgrade(terminator)));
            }
            let connector = Connector::new(endpoint, Arc::clone(&keys), terminator);
            let server = Server::new(connector, budget, refused.clone(), Arc::clone(&known));
            tokio::spawn(server::reap(Arc::downgrade(&server), REAP));
            if let Some((endpoint, catalog)) = searched {
                let keys = Arc::clone(&keys);
                tokio::spawn(primary::watch(Arc::downgrade(&server), endpoint, catalog, keys));
            }
            (name, server)
        });
        Self(Arc::new(Shared {
            servers: servers.collect(),
            scales,
            disk: Disk::default(),
            keys,
            refused,
            known,
        }))
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
        let Some(server) = self.0.servers.get(&tenant.server) else {
            let unknown = pg::Error::UnknownServer {
                server: tenant.server.clone(),
                tenant: tenant.id.as_str().to_owned(),
            };
            return Err(Error::Connect(Arc::new(unknown)));
        };
        server.checkout(tenant).await
    }

    /// Takes up another version of a tenant. Its connections end only if the [difference](crate::tenant::Difference)
    /// asks for it; new limits of the pool count from now on, also for connections above a lower maximum.
    pub fn update(&self, tenant: &Arc<Tenant>) {
        for (name, server) in &self.0.servers {
            server.with(|ledger, orders| {
                if *name == tenant.server {
                    ledger.update(tenant, Instant::now(), orders);
                } else {
                    ledger.drain(&tenant.id, orders);
                }
            });
        }
    }

    /// Ends the tenant's connections: idle ones close now, those in use when their request returns them.
    pub fn drain(&self, id: &TenantId) {
        for server in self.0.servers.values() {
            server.with(|ledger, orders| ledger.drain(id, orders));
        }
    }

    /// What each tenant holds; those that hold nothing are not in it.
    pub fn status(&self) -> Vec<PoolStatus> {
        let tenants = |server: &Arc<Server>| server.with(|ledger, _| ledger.tenants().collect::<Vec<_>>());
        self.0.servers.values().flat_map(tenants).collect()
    }

    /// What each server's budget is used for.
    pub fn servers(&self) -> Vec<ServerStatus> {
        let status = |(name, server): (&String, &Arc<Server>)| ServerStatus {
            server: name.clone(),
            total: server.total(),
            lease: server.lease(),
            ..server.with(|ledger, _| ledger.status(Instant::now()))
        };
        self.0.servers.iter().map(status).collect()
    }

    /// What is known of the databases' sizes.
    pub fn disk(&self) -> &Disk {
        &self.0.disk
    }

    /// Measures databases of a server, in this order, for as long as it has patience; of a router of the fleet only.
    ///
    /// # Errors
    /// When the server can't be asked.
    pub async fn measure(&self, server: &str, databases: &[String]) -> Result<Measured, ScaleError> {
        match self.0.scales.get(server) {
            Some(scale) => scale.measure(databases).await,
            None => Ok(Measured::default()),
        }
    }

    /// Returns when another server's total has become known.
    pub async fn total_known(&self) {
        self.0.known.notified().await;
    }

    /// What this router has and could use of each server, for whoever leases it its share.
    pub fn demands(&self) -> Vec<Demand> {
        let demand = |(name, server): (&String, &Arc<Server>)| server.demand(name);
        self.0.servers.iter().map(demand).collect()
    }

    /// Another budget of a server. What is open above it closes when it becomes idle.
    pub fn set_budget(&self, server: &str, budget: Budget) {
        if let Some(server) = self.0.servers.get(server) {
            server.set_budget(budget);
        }
    }

    /// This router's share of a server's total, where several routers share it. Connections above it close when they
    /// become idle.
    pub fn set_lease(&self, server: &str, lease: Lease) {
        if let Some(server) = self.0.servers.get(server) {
            server.set_lease(lease);
        }
    }

    /// Lets requests have the few connections that are opened at a time, where no share is known yet: the catalog can't
    /// be asked for one.
    pub fn begin_without_lease(&self) {
        for server in self.0.servers.values() {
            server.begin_without_lease();
        }
    }

    /// The share that this router had when it last followed the catalog: it holds until the catalog gives a lease.
    pub fn restore_share(&self, server: &str, share: u32) {
        if let Some(server) = self.0.servers.get(server) {
            server.restore_share(share);
        }
    }

    /// Tenants whose login a server refused: each must be read again from the catalog. A listener that falls behind
    /// is told so (`RecvError::Lagged`), and must then read all again.
    pub fn refused(&self) -> broadcast::Receiver<TenantId> {
        self.0.refused.subscribe()
    }

    /// Stops: no more checkouts, idle connections close now, those in use when their request ends. Returns when the
    /// servers have closed all, or after some seconds (whoever stops has let requests end before).
    pub async fn close(&self) {
        futures_util::future::join_all(self.0.servers.values().map(|server| server.close(GRACE))).await;
    }
}
