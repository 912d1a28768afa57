//! Rate limit: how many requests a second a tenant may send, whatever becomes of them.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::tenant::{Tenant, TenantId};

/// One limiter for each tenant that has a limit and was asked for since.
#[derive(Default)]
pub(super) struct RateLimiters(DashMap<TenantId, (NonZeroU32, Arc<DefaultDirectRateLimiter>)>);

impl RateLimiters {
    /// Counts a request. If it is one too many: how long to wait before the next.
    pub(super) fn refuses(&self, tenant: &Tenant) -> Option<Duration> {
        let most = NonZeroU32::new(tenant.limits.max_requests_per_second?)?;
        let limiter = match self.0.get(&tenant.id) {
            Some(entry) if entry.0 == most => Arc::clone(&entry.1),
            _ => {
                let limiter = Arc::new(RateLimiter::direct(Quota::per_second(most)));
                self.0.insert(tenant.id.clone(), (most, Arc::clone(&limiter)));
                limiter
            }
        };
        let early = limiter.check().err()?;
        Some(early.wait_time_from(DefaultClock::default().now()))
    }

    /// Forgets a tenant's limiter, after its limit changed or it left.
    pub(super) fn forget(&self, tenant: &TenantId) {
        self.0.remove(tenant);
    }
}

#[cfg(test)]
impl RateLimiters {
    /// The limiter in use.
    pub(super) fn get(&self, tenant: &TenantId) -> Option<Arc<DefaultDirectRateLimiter>> {
        self.0.get(tenant).map(|entry| Arc::clone(&entry.1))
    }
}
