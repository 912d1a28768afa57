//! Report: servers and tenants as `manybox top` shows them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Admin;
use crate::pool::{Breaker, Holder, PoolStatus, ServerStatus};
use crate::telemetry::Flow;
use crate::tenant::TenantId;

/// One server's connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerLine {
    /// The server's name in the settings.
    pub server: String,
    /// Most connections this router may hold.
    pub budget: u32,
    /// Most connections that all routers together may hold; none before the server was asked.
    #[serde(default)]
    pub total: Option<u32>,
    /// How many this router could use.
    #[serde(default)]
    pub wanted: u32,
    /// Every router that has a part of the total, this one too.
    #[serde(default)]
    pub holders: Vec<HolderLine>,
    /// Connections, those that are opening and closing included.
    pub open: u32,
    /// Connections that wait for a request.
    pub idle: u32,
    /// Connections in use.
    pub busy: u32,
    /// Requests that wait for a connection.
    pub waiting: u32,
    /// Idle connections closed for another tenant, so far.
    pub evictions: u64,
    /// Connections opened so far.
    pub connects: u64,
    /// Requests that got no connection, so far.
    pub refused: u64,
    /// Whether the server is asked for connections: `closed`, `open` or `half-open`.
    pub breaker: String,
}

/// A router that has a part of a server's connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderLine {
    /// Its name.
    pub router: String,
    /// Where its session in the catalog comes from.
    pub address: String,
    /// The most connections that it holds.
    pub share: u32,
    /// How many it could use.
    pub wanted: u32,
    /// Whether its session in the catalog is gone: it comes back, or its part is given to others within seconds.
    pub lost: bool,
    /// Whether it is the router that was asked.
    pub own: bool,
}

impl From<&Holder> for HolderLine {
    fn from(holder: &Holder) -> Self {
        Self {
            router: holder.router.clone(),
            address: holder.address.clone(),
            share: holder.share,
            wanted: holder.wanted,
            lost: holder.is_lost,
            own: holder.is_own,
        }
    }
}

/// One tenant's requests and connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantLine {
    /// Its name.
    pub slug: String,
    /// Its id.
    pub id: String,
    /// The server's name in the settings.
    pub server: String,
    /// Its requests so far.
    pub flow: Flow,
    /// Connections idle or busy.
    pub open: u32,
    /// Connections that wait for a request.
    #[serde(default)]
    pub idle: u32,
    /// Connections in use.
    pub busy: u32,
    /// Connections on their way.
    #[serde(default)]
    pub opening: u32,
    /// Requests that wait for a connection.
    pub waiting: u32,
    /// Requests that waited for a connection and got one, since the tenant last held none.
    #[serde(default)]
    pub waits: u64,
    /// How long those waited together, in microseconds.
    #[serde(default)]
    pub wait_micros: u64,
}

impl From<ServerStatus> for ServerLine {
    fn from(status: ServerStatus) -> Self {
        let breaker = match status.breaker {
            Breaker::Closed => "closed",
            Breaker::Open => "open",
            Breaker::HalfOpen => "half-open",
        };
        let holders = status.lease.iter().flat_map(|lease| &lease.holders).map(HolderLine::from).collect();
        Self {
            server: status.server,
            budget: status.budget,
            total: status.total,
            wanted: status.wanted,
            holders,
            open: status.open,
            idle: status.idle,
            busy: status.busy,
            waiting: status.waiting,
            evictions: status.evictions,
            connects: status.connects,
            refused: status.timeouts.total(),
            breaker: breaker.to_owned(),
        }
    }
}

impl Admin {
    /// Every server, by name.
    pub(super) fn servers(&self) -> Vec<ServerLine> {
        let mut lines: Vec<_> = self.pools.servers().into_iter().map(ServerLine::from).collect();
        lines.sort_by(|a, b| a.server.cmp(&b.server));
        lines
    }

    /// Every tenant that had a request lately, or holds a connection.
    pub(super) fn tenants(&self) -> Vec<TenantLine> {
        let mut flows: HashMap<TenantId, Flow> = self.traffic.flows().into_iter().collect();
        let mut pools: HashMap<TenantId, PoolStatus> = HashMap::new();
        for pool in self.pools.status() {
            flows.entry(pool.tenant.clone()).or_default();
            pools.insert(pool.tenant.clone(), pool);
        }
        let line = |(id, flow): (TenantId, Flow)| {
            // A tenant that has left the directory is not reported.
            let tenant = self.directory.get(&id)?;
            let pool = pools.get(&id);
            Some(TenantLine {
                slug: tenant.slug.to_string(),
                id: id.to_string(),
                server: tenant.server.clone(),
                flow,
                open: pool.map_or(0, |pool| pool.open),
                idle: pool.map_or(0, |pool| pool.idle),
                busy: pool.map_or(0, |pool| pool.busy),
                opening: pool.map_or(0, |pool| pool.opening),
                waiting: pool.map_or(0, |pool| pool.waiting),
                waits: pool.map_or(0, |pool| pool.waits),
                wait_micros: pool.map_or(0, |pool| pool.wait_time.as_micros() as u64),
            })
        };
        flows.into_iter().filter_map(line).collect()
    }
}
