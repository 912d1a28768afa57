//! One server: its ledger, and the hands that carry out what the ledger orders.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::time::{sleep, timeout};

use super::Budget;
use super::checkout::{Checkout, Lender};
use super::connect::{self, Connector};
use super::connection::{Connection, Slot};
use super::error::{Error, Wait};
use super::lease::{Demand, Lease};
use super::ledger::{Answer, BAN, Failure, Key, Ledger, Offer, Open, Orders};
use crate::tenant::{Tenant, TenantId};

/// Longest wait for what a new connection is asked.
const ASKING: Duration = Duration::from_secs(1);

/// One server, as all pools of its tenants see it.
pub(super) struct Server {
    connector: Connector,
    ledger: Mutex<Ledger<Connection>>,
    room: Mutex<Room>,
    /// Told when the room becomes known.
    known: Arc<Notify>,
    refused: broadcast::Sender<TenantId>,
    /// Told at each freed slot.
    freed: Notify,
    runtime: Handle,
}

/// How many connections there may be.
#[derive(Debug)]
struct Room {
    budget: Budget,
    /// What the server says it has; none before it was asked.
    most: Option<u32>,
    /// On this router, where several share; none before the first lease.
    lease: Option<Arc<Lease>>,
}

impl Server {
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn new(
        connector: Connector,
        budget: Budget,
        refused: broadcast::Sender<TenantId>,
        known: Arc<Notify>,
    ) -> Arc<Self> {
        let room = Room { budget, most: None, lease: None };
        let ledger = Ledger::new(room.now(), budget.max_connecting, budget.max_per_tenant);
        Arc::new(Self {
            connector,
            ledger: Mutex::new(ledger),
            room: Mutex::new(room),
            known,
            refused,
            freed: Notify::new(),
            runtime: Handle::current(),
        })
    }

    /// The one way to the ledger: what it orders is done after its lock is released, because dropping a connection
    /// may come back to it.
    pub(super) fn with<R>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut Ledger<Connection>, &mut Orders<Connection>) -> R,
    ) -> R {
        let mut orders = Orders::default();
        let result = act(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner), &mut orders);
        for evicted in orders.evict {
            evicted.evict();
        }
        drop(orders.close);
        for open in orders.open {
            self.open(open);
        }
        result
    }

    pub(super) async fn checkout(self: &Arc<Self>, tenant: &Arc<Tenant>) -> Result<Checkout, Error> {
        let (key, ticket, receiver) =
            match self.with(|ledger, orders| ledger.ask(tenant, Instant::now(), orders)) {
                Answer::Ready(key, connection) => return Ok(self.lend(key, connection)),
                Answer::Refused(error) => return Err(error),
                Answer::Wait(key, ticket, receiver) => (key, ticket, receiver),
            };
        let mut place = Place { server: self, key, ticket, receiver: Some(receiver) };
        let limit = tenant.limits.acquire_timeout;
        let offer = match timeout(limit, place.wait()).await {
            Ok(offer) => offer,
            Err(_) => place.leave().map_err(|wait| {
                self.with(|ledger, _| ledger.timed_out(key, wait));
                let lease = self.lease().filter(|_| wait == Wait::Budget);
                Error::Wait { tenant: tenant.id.clone(), waited: limit, wait, lease }
            }),
        };
        offer.map(|connection| self.lend(key, connection))
    }

    fn lend(self: &Arc<Self>, key: Key, connection: Connection) -> Checkout {
        Checkout::new(Arc::<Self>::clone(self), key, connection)
    }

    /// Opens a connection in the background and tells the ledger what came of it.
    fn open(self: &Arc<Self>, open: Open) {
        let (owner, key) = (Arc::downgrade(self), open.key);
        let slot = Arc::new(Slot::new(move |evicted| {
            if let Some(server) = owner.upgrade() {
                server.freed(key, evicted);
            }
        }));
        let mut attempt = Attempt { server: Arc::clone(self), open: Some(open) };
        // Dropped unstarted when the runtime ends.
        self.runtime.spawn(async move {
            let Some(open) = &attempt.open else { return };
            let begun = Instant::now();
            let opening = attempt.server.connect(open, slot);
            // Each host is bounded by itself; this bounds what comes behind the login as well.
            let limit = attempt.server.connector.endpoint.patience() + ASKING * 2;
            let result = timeout(limit, opening).await.unwrap_or_else(|_| {
                let reason = format!("no connection in {limit:?}");
                Err(Failure::Outage(Error::Server { server: open.tenant.server.clone(), reason }))
            });
            attempt.end(result, begun.elapsed());
        });
    }

    async fn connect(self: &Arc<Self>, open: &Open, slot: Arc<Slot>) -> Result<Connection, Failure> {
        let mut connection = self.connector.open(open, slot).await?;
        if !self.is_known() {
            // The server took the login: whatever keeps it from answering may be in this tenant's database alone.
            let stuck =
                |reason: String| Failure::Stuck(Error::Server { server: open.tenant.server.clone(), reason });
            let room = timeout(ASKING, connect::room(&mut connection)).await;
            let room = room.map_err(|_| stuck(format!("no answer in {ASKING:?}")))?;
            self.learn(room.map_err(|error| stuck(error.to_string()))?);
        }
        Ok(connection)
    }

    /// The server has closed its side of a connection.
    fn freed(self: &Arc<Self>, key: Key, evicted: bool) {
        self.with(|ledger, orders| ledger.freed(key, evicted, Instant::now(), orders));
        self.freed.notify_waiters();
    }

    /// What the server says it has room for, asked once.
    fn learn(self: &Arc<Self>, most: u32) {
        let mut room = self.room();
        if room.total().is_none() {
            room.most = Some(most);
            tracing::info!(
                server = self.connector.endpoint.name(),
                budget = room.total(),
                "connections for tenants"
            );
            self.apply(&room);
            self.known.notify_one();
        }
    }

    fn is_known(&self) -> bool {
        self.total().is_some()
    }

    pub(super) fn total(&self) -> Option<u32> {
        self.room().total()
    }

    /// The last lease.
    pub(super) fn lease(&self) -> Option<Arc<Lease>> {
        self.room().lease.clone()
    }

    pub(super) fn demand(self: &Arc<Self>, name: &str) -> Demand {
        let (used, wanted) =
            self.with(|ledger, _| (ledger.budget().max(ledger.taken()), ledger.wanted(Instant::now())));
        let room = self.room();
        Demand {
            server: name.to_owned(),
            total: room.total(),
            used,
            wanted,
            minimum: room.budget.max_connecting,
        }
    }

    pub(super) fn set_budget(self: &Arc<Self>, budget: Budget) {
        let mut room = self.room();
        room.budget = budget;
        let (max_connecting, max_per_tenant) = (budget.max_connecting, budget.max_per_tenant);
        self.with(|ledger, orders| ledger.set_limits(max_connecting, max_per_tenant, orders));
        self.apply(&room);
    }

    pub(super) fn set_lease(self: &Arc<Self>, lease: Lease) {
        let mut room = self.room();
        room.lease = Some(Arc::new(lease));
        self.apply(&room);
    }

    pub(super) fn restore_share(self: &Arc<Self>, share: u32) {
        let mut room = self.room();
        // One that names no holder is a guess, too.
        if room.budget.shared && room.lease.as_ref().is_none_or(|lease| lease.holders.is_empty()) {
            // It may have been written down before the catalog had given any.
            let share = share.max(room.budget.max_connecting);
            let total = room.total().unwrap_or(share);
            room.lease = Some(Arc::new(Lease { share, total, ..Lease::default() }));
            self.apply(&room);
        }
    }

    pub(super) fn begin_without_lease(self: &Arc<Self>) {
        let mut room = self.room();
        if room.lease.is_none() && room.budget.shared {
            let few = room.budget.max_connecting;
            let total = room.total().unwrap_or(few);
            room.lease = Some(Arc::new(Lease { share: few, total, ..Lease::default() }));
            self.apply(&room);
        }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(self: &Arc<Self>, room: &Room) {
        let budget = room.now();
        self.with(|ledger, orders| ledger.set_budget(budget, Instant::now(), orders));
    }

    /// Idle connections close now, those in use when their request ends; returns when the server has closed all, or
    /// after `limit`.
    pub(super) async fn close(self: &Arc<Self>, limit: Duration) {
        self.with(|ledger, orders| ledger.close(orders));
        let all = async {
            loop {
                let freed = self.freed.notified();
                if self.with(|ledger, _| ledger.status(Instant::now())).open == 0 {
                    return;
                }
                freed.await;
            }
        };
        let _ = timeout(limit, all).await;
    }
}

impl Room {
    /// On all routers together; none before the server was asked, where the settings don't say it.
    fn total(&self) -> Option<u32> {
        self.budget.total.or_else(|| self.most.map(|most| most.saturating_sub(self.budget.reserve).max(1)))
    }

    /// Before the server was asked how many it has, no more than may be on their way at once: the first tells.
    fn now(&self) -> u32 {
        let share = self.lease.as_ref().map(|lease| lease.share);
        match (self.total(), share) {
            (Some(total), Some(share)) => share.min(total),
            (None, Some(share)) => share,
            (_, None) if self.budget.shared => 0,
            (Some(total), None) => total,
            (None, None) => self.budget.max_connecting,
        }
    }
}

impl Lender for Server {
    fn give_back(self: Arc<Self>, key: Key, connection: Connection) {
        self.with(|ledger, orders| ledger.give_back(key, connection, Instant::now(), orders));
    }

    fn discard(self: Arc<Self>, key: Key, connection: Connection) {
        self.with(|ledger, orders| ledger.lost(key, Instant::now(), orders));
        // Without a runtime nothing can be sent any more; the socket closes.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { self.connector.discard(connection).await });
        }
    }

    fn doubt(&self, connection: &Connection) {
        self.connector.endpoint.doubt(connection.wire.cancel_key());
    }
}

/// A request's place in the queue. Dropped at any time, it leaves no trace: a connection that was given meanwhile
/// goes to the next.
struct Place<'a> {
    server: &'a Arc<Server>,
    key: Key,
    ticket: u64,
    /// `None` once answered.
    receiver: Option<oneshot::Receiver<Offer<Connection>>>,
}

impl Place<'_> {
    async fn wait(&mut self) -> Offer<Connection> {
        let gone = || Error::Server {
            server: self.server.connector.endpoint.name().to_owned(),
            reason: "shut down".into(),
        };
        let Some(receiver) = &mut self.receiver else { return Err(gone()) };
        let offer = receiver.await.unwrap_or_else(|_| Err(gone()));
        self.receiver = None;
        offer
    }

    /// Gives the place up: with the connection that came in the last moment, or what it was waiting for.
    fn leave(&mut self) -> Result<Connection, Wait> {
        if let Some(mut receiver) = self.receiver.take() {
            receiver.close();
            if let Ok(Ok(connection)) = receiver.try_recv() {
                return Ok(connection);
            }
        }
        Err(self.server.with(|ledger, _| ledger.leave(self.key, self.ticket, Instant::now())))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.receiver.is_some()
            && let Ok(connection) = self.leave()
        {
            let (key, now) = (self.key, Instant::now());
            self.server.with(|ledger, orders| ledger.give_back(key, connection, now, orders));
        }
    }
}

/// A connection on its way. However its task ends, the ledger is told.
struct Attempt {
    server: Arc<Server>,
    open: Option<Open>,
}

impl Attempt {
    fn end(&mut self, result: Result<Connection, Failure>, took: Duration) {
        let Some(open) = self.open.take() else { return };
        let now = Instant::now();
        match result {
            Ok(connection) => {
                self.server.with(|ledger, orders| ledger.opened(&open, connection, took, now, orders));
            }
            Err(failure) => {
                let first = self.server.with(|ledger, orders| ledger.failed(&open, &failure, now, orders));
                self.report(&open, &failure, first);
            }
        }
    }

    /// The one place where the pools speak: callers learn no more than that there is no connection.
    fn report(&self, open: &Open, failure: &Failure, first: bool) {
        let server = &self.server;
        let (id, name) = (tracing::field::display(&open.tenant.id), server.connector.endpoint.name());
        match failure {
            Failure::Again | Failure::NextLogin => {}
            Failure::Full => {
                tracing::warn!(tenant.id = id, server = name, "the server has no more connections (53300)");
                // Nothing else would look again at those who wait.
                let server = Arc::clone(server);
                server.runtime.clone().spawn(async move {
                    sleep(BAN).await;
                    server.with(|ledger, orders| ledger.reap(Instant::now(), orders));
                });
            }
            Failure::Outage(error) if first => tracing::warn!(server = name, "{error}"),
            Failure::Outage(error) => tracing::debug!(server = name, "{error}"),
            Failure::Refused(error @ Error::Fenced { .. }) => {
                tracing::info!(tenant.id = id, server = name, "{error}");
                // Fails when nobody listens.
                let _ = server.refused.send(open.tenant.id.clone());
            }
            Failure::Refused(error @ Error::WrongKey { .. }) => {
                tracing::error!(tenant.id = id, server = name, "{error}");
                // It may have moved to another key meanwhile.
                let _ = server.refused.send(open.tenant.id.clone());
            }
            Failure::Refused(error) | Failure::Stuck(error) => {
                tracing::warn!(tenant.id = id, server = name, "{error}")
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            let reason = "the attempt was given up".to_owned();
            let outage = Error::Server { server: open.tenant.server.clone(), reason };
            self.end(Err(Failure::Outage(outage)), Duration::ZERO);
        }
    }
}

/// Looks after a server for as long as somebody uses it.
pub(super) async fn reap(server: Weak<Server>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(server) = server.upgrade() else { return };
        server.with(|ledger, orders| ledger.reap(Instant::now(), orders));
    }
}
