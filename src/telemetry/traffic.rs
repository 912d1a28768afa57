//! Traffic: each tenant's requests, for operators who ask which tenant it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use serde::{Deserialize, Serialize};

use super::latencies::{BUCKETS, bucket};
use super::{Latencies, Outcome};
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
    unreported: Unreported,
}

/// What was counted since the last [`Traffic::take`].
#[derive(Debug)]
struct Unreported {
    errors: AtomicU32,
    latencies: [AtomicU32; BUCKETS],
}

impl Default for Unreported {
    fn default() -> Self {
        Self { errors: AtomicU32::default(), latencies: [const { AtomicU32::new(0) }; BUCKETS] }
    }
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

/// What one tenant's requests came to over some time, be it in one router or in all.
///
/// Requests that were sent away by the tenant's own `max_requests_per_second` are left out: a flood of them would make the
/// others look quick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantTraffic {
    /// Requests answered with 5xx, whoever chose that; 503 is one of them.
    pub errors: u64,
    /// How long all requests took, until the head of their answer.
    pub latencies: Latencies,
}

impl TenantTraffic {
    /// Requests answered.
    pub fn requests(&self) -> u64 {
        self.latencies.count()
    }
}

impl Traffic {
    /// How often [`Traffic::age`] wants to be called.
    pub const AGE: Duration = Duration::from_secs(30);

    /// A request of this tenant has been answered, with this status.
    pub fn count(&self, tenant: &TenantId, outcome: Outcome, status: u16, took: Duration) {
        match self.0.get(tenant) {
            Some(counts) => counts.add(outcome, status, took),
            None => self.0.entry(tenant.clone()).or_default().add(outcome, status, took),
        }
    }

    /// What was counted since the last call, of tenants that had requests since. It is counted from nothing again.
    pub fn take(&self) -> Vec<(TenantId, TenantTraffic)> {
        let taken = self.0.iter().map(|entry| (entry.key().clone(), entry.value().unreported.take()));
        taken.filter(|(_, traffic)| traffic.requests() > 0).collect()
    }

    /// Adds again what was taken.
    pub fn give_back(&self, taken: Vec<(TenantId, TenantTraffic)>) {
        for (tenant, traffic) in taken {
            self.0.entry(tenant).or_default().unreported.give_back(&traffic);
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
    fn add(&self, outcome: Outcome, status: u16, took: Duration) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if outcome == Outcome::ServerError {
            self.errors.fetch_add(1, Ordering::Relaxed);
        } else if outcome.is_refusal() {
            self.refusals.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        if outcome != Outcome::RateLimited {
            self.unreported.latencies[bucket(took)].fetch_add(1, Ordering::Relaxed);
            // Of a 5xx that is the client's matter the database is full: no rollout made it so.
            if status >= 500 && outcome != Outcome::ClientError {
                self.unreported.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
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

impl Unreported {
    fn take(&self) -> TenantTraffic {
        // The errors first: of a request that is counted meanwhile they come a report late, never before it.
        let errors = self.errors.swap(0, Ordering::Relaxed).into();
        let mut taken = TenantTraffic { errors, ..TenantTraffic::default() };
        for (bucket, count) in self.latencies.iter().enumerate() {
            // Most are empty, and to look is cheaper than to write.
            if count.load(Ordering::Relaxed) > 0 {
                taken.latencies.add(bucket, count.swap(0, Ordering::Relaxed).into());
            }
        }
        taken
    }

    fn give_back(&self, taken: &TenantTraffic) {
        let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        self.errors.fetch_add(number(taken.errors), Ordering::Relaxed);
        let Some((first, counts)) = taken.latencies.used() else { return };
        for (bucket, count) in self.latencies.iter().skip(first).zip(counts) {
            bucket.fetch_add(number(*count), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_taken_once() {
        let (traffic, id) = (Traffic::default(), TenantId::random().unwrap());
        let count = |outcome, status, ms| traffic.count(&id, outcome, status, Duration::from_millis(ms));
        count(Outcome::Ok, 200, 1);
        count(Outcome::Backpressure, 503, 50);
        count(Outcome::ServerError, 500, 400);
        count(Outcome::RateLimited, 429, 0);
        let taken = traffic.take();
        let (_, of_tenant) = taken[0];
        assert_eq!((of_tenant.requests(), of_tenant.errors), (3, 2));
        assert_eq!(of_tenant.latencies.quantile(0.01), Some(Duration::from_micros(1024)));
        assert!(of_tenant.latencies.quantile(0.99).is_some_and(|p99| p99 >= Duration::from_millis(400)));
        assert!(traffic.take().is_empty());
        traffic.give_back(taken);
        count(Outcome::Ok, 200, 1);
        let again = traffic.take();
        assert_eq!((again[0].1.requests(), again[0].1.errors), (4, 2));
        assert_eq!(traffic.flows()[0].1.requests, 5, "what is shown is not taken");
    }

    #[test]
    fn who_was_busy_long_ago_is_not_busy_now() {
        let (traffic, ids) = (Traffic::default(), [TenantId::random().unwrap(), TenantId::random().unwrap()]);
        let count = |id: &TenantId, times: u64| {
            for _ in 0..times {
                traffic.count(id, Outcome::Ok, 200, Duration::from_millis(1));
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
        let count = || traffic.count(&id, Outcome::Backpressure, 503, Duration::ZERO);
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
