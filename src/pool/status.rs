//! What the pools hold at this moment, for metrics and operators.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::Breaker;
use super::lease::Lease;
use super::ledger::{Ledger, PoolStatus, Session, Timeouts};

/// One server's connections, and what became of requests for them since the router started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// The server's name in the settings.
    pub server: String,
    /// Most connections all routers together may hold; none before the server was asked.
    pub total: Option<u32>,
    /// Most connections this router may hold.
    pub budget: u32,
    /// This router's part of the total and who has the others; none before the first lease, or where nobody shares it.
    pub lease: Option<Arc<Lease>>,
    /// How many connections it could use: those in use or used lately, and those that requests wait for.
    pub wanted: u32,
    /// Slots taken: idle, busy, opening and closing connections. Never above the budget, unless that was cut.
    pub open: u32,
    /// Connections that wait for a request.
    pub idle: u32,
    /// Connections in use by a request.
    pub busy: u32,
    /// Connections on their way.
    pub opening: u32,
    /// Connections given up that the server has not closed yet.
    pub closing: u32,
    /// Requests that wait for a connection.
    pub waiting: u32,
    /// Idle connections closed to make room for another tenant's.
    pub evictions: u64,
    /// Connections opened.
    pub connects: u64,
    /// Connections that could not be opened.
    pub connect_failures: u64,
    /// Time spent on opening those that were opened, together.
    pub connect_time: Duration,
    /// Connections given to requests.
    pub checkouts: u64,
    /// Requests that had to wait and got one.
    pub waits: u64,
    /// How long they waited, together.
    pub wait_time: Duration,
    /// Requests that got none.
    pub timeouts: Timeouts,
    /// Whether the server is asked for connections.
    pub breaker: Breaker,
}

impl<S: Session> Ledger<S> {
    /// The server's status; its owner knows the name.
    pub(super) fn status(&self, now: Instant) -> ServerStatus {
        let sum = |of: fn(&PoolStatus) -> u32| self.tenants().map(|tenant| of(&tenant)).sum::<u32>();
        let (usable, opening) = (sum(|t| t.open), self.opening());
        let counts = self.counts.clone();
        ServerStatus {
            server: String::new(),
            total: None,
            budget: self.budget(),
            lease: None,
            wanted: self.wanted(now),
            open: self.taken(),
            idle: sum(|t| t.idle),
            busy: sum(|t| t.busy),
            opening,
            closing: self.taken() - usable - opening,
            waiting: sum(|t| t.waiting),
            evictions: counts.evictions,
            connects: counts.connects,
            connect_failures: counts.connect_failures,
            connect_time: counts.connect_time,
            checkouts: counts.checkouts,
            waits: counts.waits,
            wait_time: counts.wait_time,
            timeouts: counts.timeouts,
            breaker: self.breaker.status(now),
        }
    }
}
