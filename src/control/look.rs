//! Look: the whole fleet at a moment, taken once for all who look at it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;
use tokio::sync::Mutex;

use crate::catalog::{Busy, CatalogError, Group, Minute, RolloutRow, RouterRow, Share};
use crate::fleet::Fleet;
use crate::tenant::State;

/// How long a look at the fleet is good for all who look, seconds.
const FRESH: f64 = 1.0;
/// Tenants that are named as the busiest.
const BUSIEST: i64 = 8;
/// Minutes of traffic that are looked at.
pub(super) const MINUTES: u32 = 60;

/// The fleet at a moment.
pub(super) struct Look {
    pub(super) at: OffsetDateTime,
    pub(super) groups: Vec<Group>,
    /// The newest version of each edition that has a template.
    pub(super) newest: BTreeMap<String, i64>,
    /// The servers of the settings.
    pub(super) servers: Vec<String>,
    pub(super) shares: Vec<Share>,
    pub(super) routers: Vec<RouterRow>,
    pub(super) minutes: Vec<Minute>,
    pub(super) busiest: Vec<Busy>,
    pub(super) rollouts: Vec<RolloutRow>,
}

/// The last look: a wall of screens costs no more than one.
#[derive(Default)]
pub(super) struct LastLook(Mutex<Option<(Instant, Arc<Look>)>>);

impl LastLook {
    pub(super) async fn get(&self, fleet: &Fleet) -> Result<Arc<Look>, CatalogError> {
        let mut last = self.0.lock().await;
        if let Some((at, look)) = &*last
            && at.elapsed().as_secs_f64() < FRESH
        {
            return Ok(Arc::clone(look));
        }
        let look = Arc::new(Look::take(fleet).await?);
        *last = Some((Instant::now(), Arc::clone(&look)));
        Ok(look)
    }
}

impl Look {
    async fn take(fleet: &Fleet) -> Result<Self, CatalogError> {
        let catalog = &fleet.catalog;
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        for template in catalog.templates().await?.into_iter().filter(|template| template.state == "ready") {
            let of = newest.entry(template.lineage.edition).or_default();
            *of = (*of).max(template.lineage.version);
        }
        Ok(Self {
            at: OffsetDateTime::now_utc(),
            groups: catalog.groups().await?,
            newest,
            servers: fleet.servers.iter().map(|(name, _)| name.to_owned()).collect(),
            shares: catalog.shares().await?,
            routers: catalog.routers().await?,
            minutes: catalog.traffic_of_fleet(MINUTES).await?,
            busiest: catalog.busiest(BUSIEST).await?,
            rollouts: catalog.rollouts_open().await?,
        })
    }

    pub(super) fn sum(&self, of: impl Fn(&Group) -> u64) -> u64 {
        self.groups.iter().map(of).sum()
    }

    pub(super) fn in_state(&self, state: State) -> u64 {
        self.sum(|group| if group.state == state { group.tenants } else { 0 })
    }

    /// Tenants of an edition whose version is lower than that of its templates.
    pub(super) fn behind(&self, edition: &str) -> u64 {
        let Some(newest) = self.newest.get(edition) else { return 0 };
        let is_behind = |group: &Group| {
            group.edition.as_deref() == Some(edition)
                && group.version < *newest
                && group.state != State::Creating
        };
        self.sum(|group| if is_behind(group) { group.tenants } else { 0 })
    }
}
