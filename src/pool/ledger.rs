//! The ledger: who may open, keep and use connections of one server, decided at one place without any I/O.
//!
//! A *slot* is one connection that the server may hold: taken before it is opened, free when the server has closed its
//! side. So at every instant `taken` (being opened + usable + closing) is at most the budget. Usable connections are
//! idle here, or lent to a request. Requests never open connections: they take an idle one or wait, and the ledger
//! orders what is to be opened and closed ([`Orders`]), which its owner carries out after letting go of the lock.
//!
//! Who gets a free slot: tenants that *starve* (wait with fewer connections than their fair share, the budget by the
//! number of tenants that hold or want one) before others, and each group in turn, by the weight of its tier. When no
//! slot is free, an idle connection of another tenant is closed for it.

mod account;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::oneshot;

use super::breaker;
use super::error::{Error, Wait};
use crate::tenant::{Tenant, TenantId};
pub use account::PoolStatus;
use account::{Account, Class, Idle, Waiter};
use turns::down;

/// Requests of its own that a tenant above its fair share serves with a connection before it gives it up to others
/// who starve. Opening one costs as much as some twenty point reads, so giving up at each return would only open.
const BATCH: u32 = 8;
/// How long a tenant whose login was refused opens nothing.
pub(super) const BAN: Duration = Duration::from_millis(100);

/// What the ledger keeps: a usable connection, or a stand-in for it in tests.
pub(super) trait Session {
    /// Whether the next request may have it: nobody's answer is outstanding in it, and the server has not ended it.
    fn is_usable(&mut self) -> bool;
    /// The [`Open::epoch`] it was opened for.
    fn epoch(&self) -> u64;
}

/// An account's place in the ledger. Held by slots, lent connections and waiters, each of which keeps it from being
/// given to another tenant.
pub(super) type Key = usize;

/// What a request gets when it asks for a connection.
pub(super) enum Answer<S> {
    /// An idle one.
    Ready(Key, S),
    /// A place in the tenant's queue.
    Wait(Key, u64, oneshot::Receiver<Offer<S>>),
    /// None.
    Refused(Error),
}

/// What a waiting request is told.
pub(super) type Offer<S> = Result<S, Error>;

/// A connection to be opened; its slot is taken.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) key: Key,
    pub(super) tenant: Arc<Tenant>,
    /// Rises when the tenant's connections are no longer wanted: what was opened for an older one is closed.
    pub(super) epoch: u64,
    /// Which of the tenant's passwords to try, and how many were refused in a row: while it is being rekeyed, its
    /// record may be one step behind the server.
    pub(super) login: usize,
    pub(super) refused_logins: usize,
}

/// What is to be done once the ledger's lock is released: dropping a connection may come back to the ledger.
pub(super) struct Orders<S> {
    pub(super) open: Vec<Open>,
    /// To be dropped.
    pub(super) close: Vec<S>,
    /// To be dropped, and reported by `freed(…, true)`: each makes room for somebody who waits.
    pub(super) evict: Vec<S>,
}

impl<S> Default for Orders<S> {
    fn default() -> Self {
        Self { open: Vec::new(), close: Vec::new(), evict: Vec::new() }
    }
}

/// Why a connection was not opened.
pub(super) enum Failure {
    /// Try again at once, without a setting that the server doesn't know.
    Again,
    /// Try again at once, with the tenant's next password.
    NextLogin,
    /// The server has no more connections to give.
    Full,
    /// It doesn't answer, or serves nobody.
    Outage(Error),
    /// It refuses this tenant.
    Refused(Error),
    /// It took this tenant's login, whose session waits for something in the tenant's database.
    Stuck(Error),
}

/// Requests that got no connection, by what they waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// For the server's budget, or for the server, which had none left.
    pub budget: u64,
    /// For one of the tenant's own.
    pub tenant: u64,
    /// For one to be opened.
    pub connect: u64,
    /// For nothing: the tenant's queue was full.
    pub queue: u64,
}

impl Timeouts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.budget + self.tenant + self.connect + self.queue
    }
}

/// Counts since the router started.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) checkouts: u64,
    pub(super) evictions: u64,
    pub(super) connects: u64,
    pub(super) connect_failures: u64,
    pub(super) connect_time: Duration,
    pub(super) waits: u64,
    pub(super) wait_time: Duration,
    pub(super) timeouts: Timeouts,
}

/// The ledger of one server.
pub(super) struct Ledger<S> {
    /// Most slots taken at once.
    budget: u32,
    /// Most connections being opened at once.
    max_connecting: u32,
    /// Most connections of one tenant.
    max_per_tenant: u32,
    accounts: Slab<Account<S>>,
    keys: HashMap<TenantId, Key>,
    /// Tenants that want a connection opened: those that starve, and the others.
    rings: [VecDeque<Key>; 2],
    taken: u32,
    opening: u32,
    /// Closing connections whose slots somebody waits for.
    evicting: u32,
    tickets: u64,
    closed: bool,
    pub(super) breaker: breaker::State,
    pub(super) counts: Counts,
}

impl<S: Session> Ledger<S> {
    pub(super) fn new(budget: u32, max_connecting: u32, max_per_tenant: u32) -> Self {
        Self {
            budget,
            max_connecting: max_connecting.max(1),
            max_per_tenant: max_per_tenant.max(1),
            accounts: Slab::new(),
            keys: HashMap::new(),
            rings: [VecDeque::new(), VecDeque::new()],
            taken: 0,
            opening: 0,
            evicting: 0,
            tickets: 0,
            closed: false,
            breaker: breaker::State::default(),
            counts: Counts::default(),
        }
    }

    // ---- what requests do ----

    /// A request wants a connection.
    pub(super) fn ask(&mut self, tenant: &Arc<Tenant>, now: Instant, orders: &mut Orders<S>) -> Answer<S> {
        if self.closed {
            return Answer::Refused(down(tenant, "this router shuts down"));
        }
        let key = self.account(tenant, orders);
        let Some(account) = self.accounts.get_mut(key) else {
            return Answer::Refused(down(tenant, "no account"));
        };
        if account.waiters.is_empty()
            && let Some(session) = account.take_idle(orders)
        {
            self.counts.checkouts += 1;
            return Answer::Ready(key, session);
        }
        let refusal = if let Some(reason) = self.breaker.refuses(now) {
            Some(down(tenant, reason))
        } else if account.waiters.len() >= tenant.limits.max_waiting as usize {
            self.counts.timeouts.queue += 1;
            Some(Error::Queue { tenant: tenant.id.clone(), max: tenant.limits.max_waiting })
        } else {
            account.refusal(now).filter(|_| account.usable == 0)
        };
        if let Some(error) = refusal {
            account.refusals += 1;
            self.settle(key, now);
            return Answer::Refused(error);
        }
        self.tickets += 1;
        let (sender, receiver) = oneshot::channel();
        account.waiters.push_back(Waiter { ticket: self.tickets, since: now, sender });
        let ticket = self.tickets;
        self.enlist(key, now);
        self.pump(now, orders);
        Answer::Wait(key, ticket, receiver)
    }

    /// A waiting request has gone away, or its time has run out: then, what it was waiting for. To be called with a
    /// receiver that is closed and empty.
    pub(super) fn leave(&mut self, key: Key, ticket: u64, now: Instant) -> Wait {
        let Some(account) = self.accounts.get_mut(key) else { return Wait::Budget };
        account.waiters.retain(|waiter| waiter.ticket != ticket);
        let wait = if account.is_full() {
            Wait::Full
        } else if account.taken >= account.max_connections(self.max_per_tenant) {
            Wait::Tenant
        } else if account.opening > 0 || self.taken < self.budget {
            Wait::Connect
        } else {
            Wait::Budget
        };
        self.settle(key, now);
        wait
    }

    /// A wait has run out.
    pub(super) fn timed_out(&mut self, key: Key, wait: Wait) {
        let timeouts = &mut self.counts.timeouts;
        *match wait {
            Wait::Budget | Wait::Full => &mut timeouts.budget,
            Wait::Tenant => &mut timeouts.tenant,
            Wait::Connect => &mut timeouts.connect,
        } += 1;
        if let Some(account) = self.accounts.get_mut(key) {
            account.refusals += 1;
        }
    }

    /// A lent connection comes back clean.
    pub(super) fn give_back(&mut self, key: Key, mut session: S, now: Instant, orders: &mut Orders<S>) {
        let starved = !self.rings[Class::Starving as usize].is_empty();
        let wanted =
            starved && self.taken >= self.budget && self.opening + self.evicting < self.max_connecting;
        let (above, full) = (self.is_above_share(key), self.is_overdrawn());
        let Some(account) = self.accounts.get_mut(key) else { return orders.close.push(session) };
        let surplus = full || account.is_above_limit(self.max_per_tenant);
        if self.closed || surplus || !session.is_usable() || session.epoch() != account.epoch {
            account.usable -= 1;
            orders.close.push(session);
            self.enlist(key, now);
        } else if !account.waiters.is_empty() && wanted && above && account.served >= BATCH {
            account.served = 0;
            account.usable -= 1;
            self.evict(session, orders);
            self.enlist(key, now);
        } else {
            account.offer(session, now, &mut self.counts);
        }
        self.pump(now, orders);
    }

    /// A lent connection won't come back: it is being closed. Its slot stays taken until `freed`.
    pub(super) fn lost(&mut self, key: Key, now: Instant, orders: &mut Orders<S>) {
        if let Some(account) = self.accounts.get_mut(key) {
            account.usable -= 1;
        }
        self.enlist(key, now);
        self.pump(now, orders);
    }

    // ---- what the server does ----

    /// A connection was opened.
    pub(super) fn opened(
        &mut self,
        open: &Open,
        mut session: S,
        took: Duration,
        now: Instant,
        orders: &mut Orders<S>,
    ) {
        self.breaker.answered();
        self.counts.connects += 1;
        self.counts.connect_time += took;
        let unwanted = self.closed || self.is_overdrawn();
        self.opening -= 1;
        match self.accounts.get_mut(open.key) {
            Some(account) => {
                // It is counted here as the opening one that it was.
                let unwanted = unwanted || account.is_above_limit(self.max_per_tenant);
                account.opening -= 1;
                account.unban();
                if unwanted || open.epoch != account.epoch || !session.is_usable() {
                    orders.close.push(session);
                } else {
                    account.usable += 1;
                    account.offer(session, now, &mut self.counts);
                }
            }
            None => orders.close.push(session),
        }
        self.enlist(open.key, now);
        self.pump(now, orders);
    }

    /// A connection was not opened. Its slot stays taken until `freed`. True when the server was thought to be up
    /// until now.
    pub(super) fn failed(
        &mut self,
        open: &Open,
        failure: &Failure,
        now: Instant,
        orders: &mut Orders<S>,
    ) -> bool {
        self.opening -= 1;
        let Some(account) = self.accounts.get_mut(open.key) else { return false };
        account.opening -= 1;
        let mut first = false;
        match failure {
            Failure::Again => self.breaker.answered(),
            Failure::NextLogin => {
                self.breaker.answered();
                account.login += 1;
                account.refused_logins += 1;
            }
            Failure::Full => {
                self.breaker.answered();
                self.counts.connect_failures += 1;
                account.ban(None, now + BAN);
            }
            Failure::Refused(error) | Failure::Stuck(error) => {
                self.breaker.answered();
                self.counts.connect_failures += 1;
                account.is_stuck = matches!(failure, Failure::Stuck(_));
                account.ban(Some(error.clone()), now + BAN);
                account.refuse_all(error);
            }
            Failure::Outage(error) => {
                self.counts.connect_failures += 1;
                first = self.breaker.failed(&reason(error), now);
                // Whoever waits for a connection to be opened learns it now; whoever waits for one in use, which
                // may well be alive, goes on.
                for (_, account) in &mut self.accounts {
                    if account.usable == 0 {
                        account.refuse_all(error);
                    }
                }
            }
        }
        self.enlist(open.key, now);
        self.pump(now, orders);
        first
    }

    /// The server has closed its side of a connection, or none was made.
    pub(super) fn freed(&mut self, key: Key, evicted: bool, now: Instant, orders: &mut Orders<S>) {
        self.taken -= 1;
        if evicted {
            self.evicting -= 1;
        }
        if let Some(account) = self.accounts.get_mut(key) {
            account.taken -= 1;
        }
        self.enlist(key, now);
        self.settle(key, now);
        self.pump(now, orders);
    }

    // ---- what the operator and the clock do ----

    /// Takes up another version of the tenant, if it has an account.
    pub(super) fn update(&mut self, tenant: &Arc<Tenant>, now: Instant, orders: &mut Orders<S>) {
        if self.keys.contains_key(&tenant.id) {
            let key = self.account(tenant, orders);
            self.enlist(key, now);
            self.pump(now, orders);
        }
    }

    /// The tenant's connections are no longer wanted: idle ones are closed, lent ones when they come back.
    pub(super) fn drain(&mut self, id: &TenantId, orders: &mut Orders<S>) {
        if let Some(account) = self.keys.get(id).and_then(|key| self.accounts.get_mut(*key)) {
            account.renew(orders);
        }
    }

    /// Other limits. What a tenant has above its own closes when it becomes idle.
    pub(super) fn set_limits(&mut self, max_connecting: u32, max_per_tenant: u32, orders: &mut Orders<S>) {
        (self.max_connecting, self.max_per_tenant) = (max_connecting.max(1), max_per_tenant.max(1));
        self.accounts.iter_mut().for_each(|(_, account)| account.shrink(self.max_per_tenant, orders));
    }

    /// Another budget. When it is smaller, idle connections are closed now, lent ones when they come back.
    pub(super) fn set_budget(&mut self, budget: u32, now: Instant, orders: &mut Orders<S>) {
        self.budget = budget;
        while self.is_overdrawn()
            && let Some(key) = self.victim(None, Class::Starving, now)
            && let Some(account) = self.accounts.get_mut(key)
        {
            account.close_oldest(&mut orders.close);
        }
        self.pump(now, orders);
    }

    /// Closes what the server has ended or nobody used for its tier's `idle_timeout`, and looks again at everybody who waits.
    pub(super) fn reap(&mut self, now: Instant, orders: &mut Orders<S>) {
        let keys: Vec<Key> = self.accounts.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(account) = self.accounts.get_mut(key) {
                let limit = account.tenant.limits.idle_timeout;
                let old =
                    |idle: &mut Idle<S>| !idle.session.is_usable() || now.duration_since(idle.since) >= limit;
                account.close_idle(old, &mut orders.close);
            }
            self.enlist(key, now);
            self.settle(key, now);
        }
        self.pump(now, orders);
    }

    /// No more connections: idle ones are closed now, lent ones when they come back, and nobody waits.
    pub(super) fn close(&mut self, orders: &mut Orders<S>) {
        self.closed = true;
        for (_, account) in &mut self.accounts {
            account.refuse_all(&down(&account.tenant, "this router shuts down"));
            account.close_idle(|_| true, &mut orders.close);
        }
    }

    // ---- what can be seen ----

    pub(super) fn budget(&self) -> u32 {
        self.budget
    }

    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    pub(super) fn opening(&self) -> u32 {
        self.opening
    }

    /// How many connections could be used: see [`Account::wanted`].
    pub(super) fn wanted(&self, now: Instant) -> u32 {
        self.accounts.iter().map(|(_, account)| account.wanted(self.max_per_tenant, now)).sum()
    }

    /// Every account.
    pub(super) fn tenants(&self) -> impl Iterator<Item = PoolStatus> {
        self.accounts.iter().map(|(_, account)| account.status())
    }

    // ---- the mechanism ----

    /// The tenant's account, made at need and brought up to date with its record.
    fn account(&mut self, tenant: &Arc<Tenant>, orders: &mut Orders<S>) -> Key {
        if let Some(&key) = self.keys.get(&tenant.id) {
            if let Some(account) = self.accounts.get_mut(key) {
                account.update(tenant, orders);
                account.shrink(self.max_per_tenant, orders);
            }
            return key;
        }
        let key = self.accounts.insert(Account::new(Arc::clone(tenant)));
        self.keys.insert(tenant.id.clone(), key);
        key
    }

    /// Forgets an account that holds nothing and that nobody holds, so that it counts in nobody's fair share.
    fn settle(&mut self, key: Key, now: Instant) {
        if self.accounts.get(key).is_some_and(|account| account.is_empty(now)) {
            let account = self.accounts.remove(key);
            if let Some(class) = account.queued {
                self.rings[class as usize].retain(|other| *other != key);
            }
            self.keys.remove(&account.tenant.id);
        }
    }
}

/// What the server said, without the sentence around it.
fn reason(error: &Error) -> String {
    match error {
        Error::Server { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}
