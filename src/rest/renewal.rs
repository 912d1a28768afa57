//! Renewal: new sessions for a tenant whose functions remember in the old ones what a migration has changed.

use std::time::Duration;

use moka::sync::Cache;

use crate::pool::Pools;
use crate::tenant::TenantId;

/// How often a tenant's sessions are renewed at most: its functions may raise whatever asks for it, and to open sessions
/// takes processor time from others.
const INTERVAL: Duration = Duration::from_secs(1);
/// Tenants that are remembered.
const MAX_TENANTS: u64 = 10_000;

/// A handle, cheap to clone.
#[derive(Clone)]
pub(super) struct Renewals(Cache<TenantId, ()>);

impl Default for Renewals {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_TENANTS).time_to_live(INTERVAL).build())
    }
}

impl Renewals {
    /// Lets go of the tenant's sessions, if that was not done a moment ago: the next request has a new one.
    pub(super) fn renew(&self, tenant: &TenantId, pools: &Pools) {
        if self.0.entry_by_ref(tenant).or_insert(()).is_fresh() {
            pools.drain(tenant);
        }
    }
}
