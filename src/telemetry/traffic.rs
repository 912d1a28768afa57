//! Traffic: each tenant's requests, for operators who ask which tenant it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use serde::{Deserialize, Serialize};

use crate::tenant::TenantId;

/// A tenant without a request for this long is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// All tenants' counts; a handle, cheap to clone. There are never more than tenants with requests in ten minutes.
#[derive(Debug, Clone)]
pub struct Traffic(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    tenants: DashMap<TenantId, Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    errors: AtomicU64,
    refusals: AtomicU64,
    micros: AtomicU64,
    /// Milliseconds after `begun`.
    last: AtomicU64,
}

/// One tenant's counts since its first request, or its first after ten minutes without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Requests answered.
    pub requests: u64,
    /// Of these, with 5xx but for 503.
    pub errors: u64,
    /// Of these, with 429 or 503.
    pub refusals: u64,
    /// Time they took together, in microseconds.
    pub micros: u64,
}

impl Default for Traffic {
    fn default() -> Self {
        Self(Arc::new(Inner { begun: Instant::now(), tenants: DashMap::new() }))
    }
}

impl Traffic {
    /// A request of this tenant has been answered.
    pub fn count(&self, tenant: &TenantId, status: u16, took: Duration) {
        match self.0.tenants.get(tenant) {
            Some(counts) => self.add(&counts, status, took),
            None => self.add(&self.0.tenants.entry(tenant.clone()).or_default(), status, took),
        }
    }

    fn add(&self, counts: &Counts, status: u16, took: Duration) {
        counts.requests.fetch_add(1, Ordering::Relaxed);
        match status {
            429 | 503 => counts.refusals.fetch_add(1, Ordering::Relaxed),
            500.. => counts.errors.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        counts.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        counts.last.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.begun.elapsed().as_millis() as u64
    }

    /// Every tenant's counts; those without a request for ten minutes are forgotten here.
    pub fn flows(&self) -> Vec<(TenantId, Flow)> {
        let oldest = self.now().saturating_sub(FORGET.as_millis() as u64);
        self.0.tenants.retain(|_, counts| counts.last.load(Ordering::Relaxed) >= oldest);
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let flow = |counts: &Counts| Flow {
            requests: load(&counts.requests),
            errors: load(&counts.errors),
            refusals: load(&counts.refusals),
            micros: load(&counts.micros),
        };
        self.0.tenants.iter().map(|entry| (entry.key().clone(), flow(entry.value()))).collect()
    }
}
