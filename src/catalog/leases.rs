//! Leases: each router's share of the servers' connections, with a login that may do no more than ask for it.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc::Receiver;
use tokio_postgres::Notification;
use tokio_postgres::types::{Json, Type};

use super::{CatalogError, Reader};
use crate::pg::Connection;
use crate::vault::KeyRing;

/// How often a router must renew its leases at least.
pub const RENEWAL: Duration = Duration::from_secs(10);

/// The server looks after this session closely: 25 seconds after a router's machine has vanished the session ends, and the
/// router's leases with it. When the router's process ends, its system closes the socket, and the session ends at once.
const KEEPALIVE: &str =
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
                         SET tcp_user_timeout = 25000";

/// One router's leases. They live as long as its session in the catalog, and two seconds more, in which a router that
/// lives can come back; after a restart of the catalog's server, fifteen.
pub struct Leases {
    connection: Connection,
    notices: Receiver<Notification>,
    router: String,
    keys: Arc<KeyRing>,
    /// The master key that the catalog was told of.
    told: i32,
}

/// What a router says of a server when it renews its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The server's budget, over all routers; `None` when the router doesn't know it yet.
    pub total: Option<u32>,
    /// The most connections that it may hold by what it was told before, or holds above that.
    pub used: u32,
    /// How many it could use.
    pub wanted: u32,
    /// What it needs to serve at all.
    pub minimum: u32,
}

/// A router's share of a server's connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Most connections that the router may hold. It must close what it holds above it. Other routers get those after this
    /// one has renewed its lease.
    pub share: u32,
    /// The server's budget. A guess of `minimum` when no router knows it.
    pub total: u32,
    /// Every router that has a part, the largest first.
    pub holders: Vec<Holder>,
}

/// Who has a part of a server's budget.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Holder {
    /// The router's name.
    pub router: String,
    /// Where its session comes from.
    pub address: String,
    /// What it has.
    pub share: u32,
    /// What it could use.
    pub wanted: u32,
    /// Whether its session is gone: it comes back, or is forgotten within seconds.
    pub lost: bool,
}

impl Reader {
    /// Connects as `router`, a name that no other router has.
    ///
    /// # Errors
    /// As [`Reader::open`]; or when the catalog was made by an older manybox.
    pub async fn open_leases(&self, router: &str) -> Result<Leases, CatalogError> {
        let (connection, notices) = self.listen("lease").await?;
        connection.batch_execute(KEEPALIVE).await?;
        let (router, keys) = (router.to_owned(), Arc::clone(&self.keys));
        let mut leases = Leases { connection, notices, router, keys, told: 0 };
        leases.register().await?;
        Ok(leases)
    }
}

impl Leases {
    /// Says who this is, once for each master key.
    async fn register(&mut self) -> Result<(), CatalogError> {
        let key = self.keys.newest().id();
        if key == self.told {
            return Ok(());
        }
        self.connection
            .query_typed(
                "SELECT catalog.register_router($1, $2, $3)",
                &[(&self.router, Type::TEXT), (&env!("CARGO_PKG_VERSION"), Type::TEXT), (&key, Type::INT4)],
            )
            .await?;
        self.told = key;
        Ok(())
    }

    /// Asks for the router's share of a server's connections.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn renew(&mut self, server: &str, demand: Demand) -> Result<Lease, CatalogError> {
        self.register().await?;
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let row = self
            .connection
            .query_typed(
                "SELECT share, total, holders FROM catalog.renew_lease($1, $2, $3, $4, $5, $6)",
                &[
                    (&self.router, Type::TEXT),
                    (&server, Type::TEXT),
                    (&demand.total.map(number), Type::INT4),
                    (&number(demand.used), Type::INT4),
                    (&number(demand.wanted), Type::INT4),
                    (&number(demand.minimum), Type::INT4),
                ],
            )
            .await?;
        let row = row.first().ok_or_else(|| CatalogError::Row("renew_lease gave no row".into()))?;
        let count = |n: i32| u32::try_from(n).unwrap_or(0);
        let Json(holders) = row.try_get(2)?;
        Ok(Lease { share: count(row.try_get(0)?), total: count(row.try_get(1)?), holders })
    }

    /// Whether the session still stands, for all that is known.
    pub fn is_open(&self) -> bool {
        !self.connection.is_closed()
    }

    /// Leaves this router's shares to the others.
    ///
    /// # Errors
    /// When the connection is lost; the leases then end by themselves.
    pub async fn end(&self) -> Result<(), CatalogError> {
        self.connection.query_typed("SELECT catalog.end_router($1)", &[(&self.router, Type::TEXT)]).await?;
        Ok(())
    }

    /// Waits until another router asks for leases to be renewed; `None` when the connection is lost.
    pub async fn asked(&mut self) -> Option<()> {
        while self.notices.recv().await?.payload() == self.router {}
        Some(())
    }
}
