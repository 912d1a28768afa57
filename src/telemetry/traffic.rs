//! Traffic: each tenant's requests, for operators who ask which tenant it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::tenant::TenantId;

/// A tenant without a request for this many [`Traffic::age`]s is forgotten.
const FORGET: u32 = 20;

/// All tenants' counts; a handle, cheap to clone. There are never more than tenants with requests in ten minutes.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<DashMap<TenantId, Counts>>);

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    errors: AtomicU64,
    refusals: AtomicU64,
    micros: AtomicU64,
    /// `requests` when they were last aged.
    aged: AtomicU64,
    /// Requests before that, halved at each age.
    older: AtomicU64,
    /// Ages without a request.
    idle: AtomicU32,
}

/// One tenant's counts since its first request, or its first after ten minutes without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Requests answered.
    pub requests: u64,
    /// Of these, those that failed on our side: 5xx but for 503.
    pub errors: u64,
    /// Of these, those sent away to come again: 429 of ours, and 503.
    pub refusals: u64,
    /// Time they took together, in microseconds.
    pub micros: u64,
    /// Requests of late: those of a minute ago count half or less. Says who is busy now.
    pub recent: u64,
}

impl Traffic {
    /// How often [`Traffic::age`] wants to be called.
    pub const AGE: Duration = Duration::from_secs(30);

    /// A request of this tenant has been answered.
    pub fn count(&self, tenant: &TenantId, outcome: Outcome, took: Duration) {
        match self.0.get(tenant) {
            Some(counts) => counts.add(outcome, took),
            None => self.0.entry(tenant.clone()).or_default().add(outcome, took),
        }
    }

    /// Lets what was counted grow old, and forgets tenants without a request for ten minutes and those that `known`
    /// does not know any more.
    pub fn age(&self, known: impl Fn(&TenantId) -> bool) {
        self.0.retain(|id, counts| known(id) && counts.age() < FORGET);
    }

    /// Every tenant's counts.
    pub fn flows(&self) -> Vec<(TenantId, Flow)> {
        self.0.iter().map(|entry| (entry.key().clone(), entry.value().flow())).collect()
    }
}

impl Counts {
    fn add(&self, outcome: Outcome, took: Duration) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if outcome == Outcome::ServerError {
            self.errors.fetch_add(1, Ordering::Relaxed);
        } else if outcome.is_refusal() {
            self.refusals.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// Returns for how many ages there was no request. Only [`Traffic::age`] calls it, under the map's lock.
    fn age(&self) -> u32 {
        let requests = self.requests.load(Ordering::Relaxed);
        let new = requests - self.aged.swap(requests, Ordering::Relaxed);
        self.older.store(self.older.load(Ordering::Relaxed) / 2 + new, Ordering::Relaxed);
        let idle = if new == 0 { self.idle.load(Ordering::Relaxed) + 1 } else { 0 };
        self.idle.store(idle, Ordering::Relaxed);
        idle
    }

    fn flow(&self) -> Flow {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let requests = load(&self.requests);
        Flow {
            requests,
            errors: load(&self.errors),
            refusals: load(&self.refusals),
            micros: load(&self.micros),
            recent: load(&self.older) + requests.saturating_sub(load(&self.aged)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_busy_long_ago_is_not_busy_now() {
        let (traffic, ids) = (Traffic::default(), [TenantId::random().unwrap(), TenantId::random().unwrap()]);
        let count = |id: &TenantId, times: u64| {
            for _ in 0..times {
                traffic.count(id, Outcome::Ok, Duration::from_millis(1));
            }
        };
        let flow = |id: &TenantId| traffic.flows().into_iter().find(|(of, _)| of == id).map(|(_, flow)| flow);
        count(&ids[0], 100);
        for _ in 0..5 {
            traffic.age(|_| true);
        }
        count(&ids[1], 10);
        let (old, new) = (flow(&ids[0]).unwrap(), flow(&ids[1]).unwrap());
        assert_eq!((old.requests, old.micros), (100, 100_000));
        assert!(old.recent < new.recent, "{old:?} {new:?}");
        // What was counted is counted once, however often it ages.
        assert_eq!((new.recent, old.recent), (10, 6));
    }

    #[test]
    fn who_is_idle_or_has_left_is_forgotten() {
        let (traffic, id) = (Traffic::default(), TenantId::random().unwrap());
        let count = || traffic.count(&id, Outcome::Backpressure, Duration::ZERO);
        count();
        for _ in 0..FORGET {
            traffic.age(|_| true);
        }
        assert_eq!(traffic.flows()[0].1.refusals, 1);
        count();
        for _ in 0..FORGET {
            traffic.age(|_| true);
        }
        assert_eq!(traffic.flows()[0].1.requests, 2);
        traffic.age(|_| true);
        assert!(traffic.flows().is_empty());
        count();
        traffic.age(|_| false);
        assert!(traffic.flows().is_empty());
    }
}
