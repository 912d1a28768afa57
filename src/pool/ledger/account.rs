//! One tenant's account in the ledger: its connections, its queue, and its place in line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Counts, Offer, Orders, Session};
use crate::pool::error::Error;
use crate::tenant::{Difference, Tenant, TenantId};

/// How long an idle connection counts as one that is used.
const LATELY: Duration = Duration::from_secs(10);

/// What one tenant holds. A tenant without connections and waiting requests has no status; its counts begin again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// The tenant.
    pub tenant: TenantId,
    /// The server's name in the settings.
    pub server: String,
    /// Connections idle or busy.
    pub open: u32,
    /// Connections that wait for a request.
    pub idle: u32,
    /// Connections in use by a request.
    pub busy: u32,
    /// Connections on their way.
    pub opening: u32,
    /// Requests that wait for a connection.
    pub waiting: u32,
    /// Requests that had to wait and got one.
    pub waits: u64,
    /// How long they waited, together.
    pub wait_time: Duration,
    /// Requests that got none.
    pub refusals: u64,
}

/// Which line a tenant waits in; the first is served before the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It has fewer connections than its fair share.
    Starving = 0,
    /// It has as many, or more.
    Surplus = 1,
}

/// A connection that waits for a request.
pub(super) struct Idle<S> {
    pub(super) session: S,
    pub(super) since: Instant,
}

/// A request that waits for a connection.
pub(super) struct Waiter<S> {
    pub(super) ticket: u64,
    pub(super) since: Instant,
    pub(super) sender: oneshot::Sender<Offer<S>>,
}

/// While the server refuses the tenant.
struct Ban {
    until: Instant,
    /// What requests are told meanwhile; none when they may wait, because the server is full (53300).
    error: Option<Error>,
}

/// See the module.
pub(super) struct Account<S> {
    pub(super) tenant: Arc<Tenant>,
    pub(super) epoch: u64,
    /// By the time of their last use; the last one is used next, so that surplus ones grow old.
    pub(super) idle: Vec<Idle<S>>,
    /// In the order they came.
    pub(super) waiters: VecDeque<Waiter<S>>,
    /// Slots: being opened, usable, and closing.
    pub(super) taken: u32,
    /// Connections being opened.
    pub(super) opening: u32,
    /// Connections idle or lent.
    pub(super) usable: u32,
    /// Own requests served since a connection was idle or given up.
    pub(super) served: u32,
    /// Connections opened in this turn.
    pub(super) turns: u32,
    /// The line it stands in.
    pub(super) queued: Option<Class>,
    ban: Option<Ban>,
    /// Whether its last session did not begin, because of something in its database: then one at a time is tried, so that
    /// others get theirs meanwhile.
    pub(super) is_stuck: bool,
    /// See [`Open`](super::Open).
    pub(super) login: usize,
    pub(super) refused_logins: usize,
    pub(super) waits: u64,
    pub(super) wait_time: Duration,
    pub(super) refusals: u64,
}

impl<S: Session> Account<S> {
    pub(super) fn new(tenant: Arc<Tenant>) -> Self {
        Self {
            tenant,
            epoch: 0,
            idle: Vec::new(),
            waiters: VecDeque::new(),
            taken: 0,
            opening: 0,
            usable: 0,
            served: 0,
            turns: 0,
            queued: None,
            ban: None,
            is_stuck: false,
            login: 0,
            refused_logins: 0,
            waits: 0,
            wait_time: Duration::ZERO,
            refusals: 0,
        }
    }

    /// Takes up another version of the tenant's record. One that was read before a move or a rekey must not bring
    /// requests to the old place.
    pub(super) fn update(&mut self, tenant: &Arc<Tenant>, orders: &mut Orders<S>) {
        if Arc::ptr_eq(&self.tenant, tenant) {
            return;
        }
        let difference = Difference::between(&self.tenant, tenant);
        self.tenant = Arc::clone(tenant);
        if difference.ends_connections() {
            self.renew(orders);
        }
    }

    /// Connections opened until now are no longer wanted.
    pub(super) fn renew(&mut self, orders: &mut Orders<S>) {
        self.epoch += 1;
        self.ban = None;
        (self.login, self.refused_logins) = (0, 0);
        self.close_idle(|_| true, &mut orders.close);
    }

    /// The idle connection that was used last, if it still lives.
    pub(super) fn take_idle(&mut self, orders: &mut Orders<S>) -> Option<S> {
        while let Some(mut idle) = self.idle.pop() {
            if idle.session.is_usable() {
                return Some(idle.session);
            }
            self.usable -= 1;
            orders.close.push(idle.session);
        }
        None
    }

    /// Gives a usable connection to whoever waits, or keeps it.
    pub(super) fn offer(&mut self, session: S, now: Instant, counts: &mut Counts) {
        let mut offer = Ok(session);
        while let Some(waiter) = self.waiters.pop_front() {
            match waiter.sender.send(offer) {
                Ok(()) => {
                    let waited = now.duration_since(waiter.since);
                    self.served += 1;
                    self.waits += 1;
                    self.wait_time += waited;
                    counts.checkouts += 1;
                    counts.waits += 1;
                    counts.wait_time += waited;
                    return;
                }
                Err(returned) => offer = returned,
            }
        }
        if let Ok(session) = offer {
            self.served = 0;
            self.idle.push(Idle { session, since: now });
        }
    }

    /// Tells everybody who waits.
    pub(super) fn refuse_all(&mut self, error: &Error) {
        for waiter in self.waiters.drain(..) {
            self.refusals += 1;
            // Whoever has gone away needs no telling.
            let _ = waiter.sender.send(Err(error.clone()));
        }
    }

    pub(super) fn close_idle(&mut self, which: impl Fn(&mut Idle<S>) -> bool, closed: &mut Vec<S>) {
        for idle in self.idle.extract_if(.., |idle| which(idle)) {
            self.usable -= 1;
            closed.push(idle.session);
        }
    }

    pub(super) fn close_oldest(&mut self, closed: &mut Vec<S>) {
        if !self.idle.is_empty() {
            self.usable -= 1;
            closed.push(self.idle.remove(0).session);
        }
    }

    /// Closes what is idle above the limit.
    pub(super) fn shrink(&mut self, max_per_tenant: u32, orders: &mut Orders<S>) {
        while self.is_above_limit(max_per_tenant) && !self.idle.is_empty() {
            self.close_oldest(&mut orders.close);
        }
    }

    pub(super) fn ban(&mut self, error: Option<Error>, until: Instant) {
        self.ban = Some(Ban { until, error });
        (self.login, self.refused_logins) = (0, 0);
    }

    /// The server let the tenant in.
    pub(super) fn unban(&mut self) {
        self.ban = None;
        self.is_stuck = false;
        self.refused_logins = 0;
    }

    /// What a request that needs a new connection is told while the server refuses the tenant.
    pub(super) fn refusal(&self, now: Instant) -> Option<Error> {
        self.ban.as_ref().filter(|ban| now < ban.until)?.error.clone()
    }

    /// Whether the server had no more connections for this tenant when it was last asked.
    pub(super) fn is_full(&self) -> bool {
        self.ban.as_ref().is_some_and(|ban| ban.error.is_none())
    }

    /// Most connections this tenant may have. More busy ones than the server can run at once would only take
    /// processor time from others: fair slots are not fair time.
    pub(super) fn max_connections(&self, max_per_tenant: u32) -> u32 {
        self.tenant.limits.max_connections.min(max_per_tenant).max(1)
    }

    /// Whether it has more connections than it may have: its limit was lowered. Those on their way out don't count.
    pub(super) fn is_above_limit(&self, max_per_tenant: u32) -> bool {
        self.usable + self.opening > self.max_connections(max_per_tenant)
    }

    /// Whether more connections should be opened: no more than there are requests waiting, so that a hundred requests
    /// to a cold tenant open what they need, and no more than it may have.
    pub(super) fn wants(&self, max_per_tenant: u32, now: Instant) -> bool {
        self.waiters.len() > self.opening as usize
            && !(self.is_stuck && self.opening > 0)
            && self.taken < self.max_connections(max_per_tenant)
            && self.ban.as_ref().is_none_or(|ban| now >= ban.until)
    }

    /// How many connections the tenant could use: those in use, being opened or used lately, and those that its requests
    /// wait for.
    pub(super) fn wanted(&self, max_per_tenant: u32, now: Instant) -> u32 {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let unused = self.idle.iter().take_while(|idle| now.duration_since(idle.since) >= LATELY).count();
        let waiting = count(self.waiters.len()).saturating_sub(self.opening);
        let more = self.max_connections(max_per_tenant).saturating_sub(self.usable + self.opening);
        self.usable - count(unused) + self.opening + waiting.min(more)
    }

    pub(super) fn status(&self) -> PoolStatus {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let idle = count(self.idle.len());
        PoolStatus {
            tenant: self.tenant.id.clone(),
            server: self.tenant.server.clone(),
            open: self.usable,
            idle,
            busy: self.usable - idle,
            opening: self.opening,
            waiting: count(self.waiters.len()),
            waits: self.waits,
            wait_time: self.wait_time,
            refusals: self.refusals,
        }
    }

    /// Whether nothing refers to this account; while it is banned, that is remembered.
    pub(super) fn is_empty(&self, now: Instant) -> bool {
        self.taken == 0
            && self.usable == 0
            && self.waiters.is_empty()
            && self.ban.as_ref().is_none_or(|ban| ban.until <= now)
    }
}
