//! Directory: the router's in-memory copy of the catalog, from base URL to tenant.

mod resolve;
mod snapshot;
mod watch;

#[cfg(feature = "fuzzing")]
pub(crate) use resolve::resolve;
pub use resolve::{Refusal, RequestUrl, Resolved};
pub use snapshot::Snapshots;
pub use watch::watch;

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use time::OffsetDateTime;
use tokio::sync::watch as signal;

use crate::tenant::{Difference, Host, Prefix, State, Tenant, TenantId};

/// What a row means for a tenant that was known before it was read.
#[derive(Debug, Clone)]
pub enum RowChange {
    /// The tenant as it is now, and what differs from before.
    Updated(Arc<Tenant>, Difference),
    /// The tenant as it was: requests can't reach it any more.
    Removed(Arc<Tenant>),
}

/// How far a directory can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The catalog has not been read yet.
    Unread,
    /// It was read from disk, as it was at this time, because the catalog is away.
    Snapshot(OffsetDateTime),
    /// Changes are followed. While the catalog is away they wait in it, and nobody can make others.
    Followed,
    /// The task that followed changes has failed: those since are missing until it has read the catalog again.
    Stale,
}

/// The handle; clones share one directory.
#[derive(Clone)]
pub struct Directory(Arc<Shared>);

struct Shared {
    urls: DashMap<(Host, Prefix), TenantId>,
    /// How many of `urls` each host has.
    hosts: DashMap<Host, usize>,
    tenants: DashMap<TenantId, Arc<Tenant>>,
    freshness: signal::Sender<Freshness>,
    obstacle: RwLock<Option<Obstacle>>,
}

/// What keeps the catalog from being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// In the operator's words.
    pub reason: String,
    /// Whether a newer manybox made the catalog, so that this one must be upgraded.
    pub is_newer_catalog: bool,
}

impl Default for Directory {
    fn default() -> Self {
        let (freshness, _) = signal::channel(Freshness::Unread);
        Self(Arc::new(Shared {
            urls: DashMap::new(),
            hosts: DashMap::new(),
            tenants: DashMap::new(),
            freshness,
            obstacle: RwLock::default(),
        }))
    }
}

impl Directory {
    /// The tenant that a request is for, and the path it has there.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn resolve(&self, url: &RequestUrl<'_>) -> Result<(Arc<Tenant>, Resolved), Refusal> {
        let resolved = resolve::resolve(url, |host, prefix| {
            // A clone of the key for the look-up: DashMap wants the pair as it is stored.
            self.0.urls.get(&(host.clone(), prefix.clone())).map(|id| id.value().clone())
        })
        .map_err(|refusal| match (refusal, self.freshness()) {
            // The tenant may be newer than the snapshot, or have secrets, which are not in it.
            (Refusal::Unknown, Freshness::Snapshot(_)) => Refusal::NotYet,
            (refusal, _) => refusal,
        })?;
        let tenant = self.get(&resolved.tenant).ok_or(Refusal::Unknown)?;
        Ok((tenant, resolved))
    }

    /// Whether a tenant has a base URL on this host.
    pub fn has_host(&self, host: &Host) -> bool {
        self.0.hosts.contains_key(host)
    }

    /// The tenant of this id, if it is served or suspended.
    pub fn get(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        self.0.tenants.get(id).map(|tenant| Arc::clone(tenant.value()))
    }

    /// All tenants that are known, in no order.
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.0.tenants.iter().map(|tenant| Arc::clone(tenant.value())).collect()
    }

    /// How many tenants are known.
    pub fn len(&self) -> usize {
        self.0.tenants.len()
    }

    /// Whether no tenant is known.
    pub fn is_empty(&self) -> bool {
        self.0.tenants.is_empty()
    }

    /// How far it can be trusted.
    pub fn freshness(&self) -> Freshness {
        *self.0.freshness.borrow()
    }

    /// What kept the catalog from being read when that was tried last; `None` while it is followed.
    pub fn obstacle(&self) -> Option<Obstacle> {
        self.0.obstacle.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_obstacle(&self, obstacle: Option<Obstacle>) {
        *self.0.obstacle.write().unwrap_or_else(PoisonError::into_inner) = obstacle;
    }

    /// Whether the catalog has been read once, or what was on disk, so that requests can be answered.
    pub fn is_ready(&self) -> bool {
        self.freshness() != Freshness::Unread
    }

    /// Waits until the catalog has been read once.
    pub async fn wait_ready(&self) {
        // The sender lives as long as this handle, so it can't be gone.
        let _ = self.0.freshness.subscribe().wait_for(|freshness| *freshness != Freshness::Unread).await;
    }

    /// Takes over one row as it is now. `None` when the tenant is new or its row the same.
    pub fn put(&self, tenant: Tenant) -> Option<RowChange> {
        if !matches!(tenant.state, State::Active | State::Suspended) {
            return self.remove(&tenant.id);
        }
        let before = self.get(&tenant.id);
        let same = before.as_ref().filter(|before| ***before == tenant);
        let tenant = same.map_or_else(|| Arc::new(tenant), Arc::clone);
        self.0.tenants.insert(tenant.id.clone(), Arc::clone(&tenant));
        let keys: HashSet<_> = tenant.base_urls.iter().map(|u| (u.host.clone(), u.prefix.clone())).collect();
        if let Some(before) = &before {
            self.forget_urls(before, &keys);
        }
        // Also when the row is the same: another tenant's may have had the URL for a moment.
        for key in keys {
            let host = key.0.clone();
            if self.0.urls.insert(key, tenant.id.clone()).is_none() {
                *self.0.hosts.entry(host).or_default() += 1;
            }
        }
        let before = before.filter(|before| !Arc::ptr_eq(before, &tenant))?;
        let difference = Difference::between(&before, &tenant);
        Some(RowChange::Updated(tenant, difference))
    }

    /// Forgets a tenant.
    pub fn remove(&self, id: &TenantId) -> Option<RowChange> {
        let (_, before) = self.0.tenants.remove(id)?;
        self.forget_urls(&before, &HashSet::new());
        Some(RowChange::Removed(before))
    }

    /// Takes over all rows; tenants without one are forgotten.
    pub fn replace_all(&self, tenants: Vec<Tenant>) -> Vec<RowChange> {
        let known: HashSet<_> = tenants.iter().map(|tenant| tenant.id.clone()).collect();
        let gone: Vec<_> =
            self.0.tenants.iter().map(|entry| entry.key().clone()).filter(|id| !known.contains(id)).collect();
        let mut changes: Vec<_> = gone.iter().filter_map(|id| self.remove(id)).collect();
        changes.extend(tenants.into_iter().filter_map(|tenant| self.put(tenant)));
        self.0.freshness.send_replace(Freshness::Followed);
        changes
    }

    /// Takes over what was on disk, unless the catalog has been read.
    fn restore(&self, tenants: Vec<Tenant>, taken_at: OffsetDateTime) {
        if self.is_ready() {
            return;
        }
        for tenant in tenants {
            self.put(tenant);
        }
        self.0.freshness.send_replace(Freshness::Snapshot(taken_at));
    }

    /// Nobody follows changes any more.
    fn abandon(&self) {
        self.0.freshness.send_if_modified(|freshness| {
            let followed = *freshness == Freshness::Followed;
            if followed {
                *freshness = Freshness::Stale;
            }
            followed
        });
    }

    /// Removes the base URLs that still point to this tenant. One may have moved to another tenant, whose row came
    /// first.
    fn forget_urls(&self, tenant: &Tenant, keep: &HashSet<(Host, Prefix)>) {
        for url in &tenant.base_urls {
            let key = (url.host.clone(), url.prefix.clone());
            if !keep.contains(&key) && self.0.urls.remove_if(&key, |_, owner| *owner == tenant.id).is_some() {
                self.0.hosts.remove_if_mut(&url.host, |_, count| {
                    *count = count.saturating_sub(1);
                    *count == 0
                });
            }
        }
    }
}
