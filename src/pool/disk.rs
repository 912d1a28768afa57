//! Disk: how large tenants' databases are as far as this router knows, and what those over their quota may still do.
//!
//! A quota is a promise about the server's disk, so it is the disk that is measured, and not rows. Nobody can measure with
//! every write, so a database is measured again before it could have filled the rest at [`FILLING`], and only while it is
//! used. What is written in one measure's time is how far a database may grow over its quota.
//!
//! A database over its quota is [`Room::Full`]: its transactions may only read, but for deletes, for which there must be a
//! way back. A delete runs triggers, and these may write. So where it grows on all the same, it may only read.

mod scale;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;

use crate::tenant::{Tenant, TenantId};

pub(super) use scale::Scale;
pub use scale::{Measured, ScaleError};

/// The most bytes that a database is thought to grow by in a second.
const FILLING: u64 = 100 << 20;
/// Shortest and longest time between two measures of a database that is used.
const TIMES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How many times longer than its measure took a database is left alone: to have very many files costs others little.
const REST: u32 = 20;
/// How much a database over its quota may grow on before it may only be read: a tenth, and this much at least. Deletes leave
/// new versions of rows behind where a foreign key sets NULL.
const GROWTH: u64 = 16 << 20;
/// The parts of a quota, in percent, that the log tells of when they are reached.
const TOLD: [u64; 3] = [80, 90, 100];

/// What a tenant's requests may do with its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Everything.
    Free,
    /// Read and delete: it is over its quota.
    Full(Use),
    /// Read: it is over its quota, and grew on.
    ReadOnly(Use),
}

/// What of a quota is used, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// The database.
    pub bytes: u64,
    /// Its quota: the tenant's `max_database_size`.
    pub most: u64,
}

impl Use {
    fn percent(self) -> u64 {
        u64::try_from(u128::from(self.bytes) * 100 / u128::from(self.most.max(1))).unwrap_or(u64::MAX)
    }
}

/// What is known of all databases; a handle, cheap to clone.
#[derive(Clone, Default)]
pub struct Disk(Arc<DashMap<TenantId, Known>>);

/// What is known of one database.
#[derive(Default)]
struct Known {
    /// None before it was measured.
    bytes: Option<u64>,
    /// When this router measured it, and how long that took.
    measured: Option<(Instant, Duration)>,
    /// Whether it was used since.
    used: AtomicBool,
    /// Its quota when it was used.
    most: AtomicU64,
    over: Option<Over>,
    /// The part of the quota that the log was told of.
    told: u64,
}

/// Since when a database is over its quota.
struct Over {
    since: Instant,
    /// The size from which it may not grow on.
    bytes: u64,
}

impl Disk {
    /// What a request of this tenant may do, which is about to use the database.
    pub fn enter(&self, tenant: &Tenant) -> Room {
        let Some(most) = tenant.limits.max_database_size else { return Room::Free };
        let room = |known: &Known| {
            known.most.store(most, Ordering::Relaxed);
            known.used.store(true, Ordering::Relaxed);
            known.room(most)
        };
        match self.0.get(&tenant.id) {
            Some(known) => room(&known),
            None => room(&self.0.entry(tenant.id.clone()).or_default()),
        }
    }

    /// Those that shall be measured now, the longest due first; they count as unused from now on.
    pub fn due(&self, now: Instant) -> Vec<TenantId> {
        let mut due: Vec<_> = self
            .0
            .iter()
            .map(|known| (known.next(), known))
            .filter(|(next, known)| {
                next.is_none_or(|next| next <= now) && known.used.swap(false, Ordering::Relaxed)
            })
            .map(|(next, known)| (next, known.key().clone()))
            .collect();
        due.sort();
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Those that were due could not be measured.
    pub fn still_due(&self, tenants: &[TenantId]) {
        tenants
            .iter()
            .filter_map(|id| self.0.get(id))
            .for_each(|known| known.used.store(true, Ordering::Relaxed));
    }

    /// What this router measured, in the time that it took.
    pub fn note(&self, tenant: &Tenant, bytes: u64, took: Duration, now: Instant) {
        let mut known = self.0.entry(tenant.id.clone()).or_default();
        known.measured = Some((now, took));
        known.take(tenant, bytes, now);
    }

    /// What another router measured some time ago: it counts where this one has nothing newer.
    pub fn hear(&self, tenant: &Tenant, bytes: u64, now: Instant) {
        let mut known = self.0.entry(tenant.id.clone()).or_default();
        if known.measured.is_none_or(|(at, _)| now.saturating_duration_since(at) > TIMES.1) {
            known.take(tenant, bytes, now);
        }
    }

    /// Forgets those that are not `known` any more.
    pub fn retain(&self, known: impl Fn(&TenantId) -> bool) {
        self.0.retain(|id, _| known(id));
    }

    /// Every database that was measured, in bytes.
    pub fn sizes(&self) -> Vec<(TenantId, u64)> {
        self.0.iter().filter_map(|known| Some((known.key().clone(), known.bytes?))).collect()
    }
}

impl Known {
    /// When it may be measured again; none for one that was not yet.
    fn next(&self) -> Option<Instant> {
        let (at, took) = self.measured?;
        let left = self.most.load(Ordering::Relaxed).saturating_sub(self.bytes.unwrap_or(0));
        let filled = Duration::from_secs(left / FILLING).clamp(TIMES.0, TIMES.1);
        Some(at + filled.max(took.saturating_mul(REST)))
    }

    fn room(&self, most: u64) -> Room {
        let Some(bytes) = self.bytes.filter(|bytes| *bytes >= most) else { return Room::Free };
        let used = Use { bytes, most };
        let from = self.over.as_ref().map_or(bytes, |over| over.bytes);
        if bytes > from.saturating_add(GROWTH.max(from / 10)) {
            Room::ReadOnly(used)
        } else {
            Room::Full(used)
        }
    }

    fn take(&mut self, tenant: &Tenant, bytes: u64, now: Instant) {
        let before = self.bytes.replace(bytes);
        let Some(most) = tenant.limits.max_database_size else {
            (self.over, self.told) = (None, 0);
            return;
        };
        self.over = match self.over.take() {
            _ if bytes < most => None,
            None => Some(Over { since: now, bytes }),
            // What was being written when it was first seen, also by other routers, ends in this time.
            Some(over)
                if now.saturating_duration_since(over.since) < tenant.limits.request_timeout + TIMES.1 =>
            {
                Some(Over { bytes, ..over })
            }
            Some(over) => Some(Over { bytes: over.bytes.min(bytes), ..over }),
        };
        self.tell(tenant, Use { bytes, most }, before);
    }

    /// Logs that a part of the quota is reached, once, until the database is clearly below it again.
    fn tell(&mut self, tenant: &Tenant, used: Use, before: Option<u64>) {
        let percent = used.percent();
        let reached = TOLD.into_iter().rfind(|part| percent >= *part).unwrap_or(0);
        if reached > self.told {
            tracing::warn!(
                tenant.id = %tenant.id,
                tenant.slug = %tenant.slug,
                database.bytes = used.bytes,
                database.max = used.most,
                "a database has {percent} % of its max_database_size{}",
                if reached >= 100 { ": it takes no inserts and updates any more" } else { "" }
            );
            self.told = reached;
        } else if percent + 5 < self.told {
            self.told = reached;
        }
        let grew = before.is_some_and(|before| matches!(self.with(before).room(used.most), Room::Full(_)));
        if grew && matches!(self.room(used.most), Room::ReadOnly(_)) {
            tracing::warn!(
                tenant.id = %tenant.id,
                tenant.slug = %tenant.slug,
                database.bytes = used.bytes,
                database.max = used.most,
                "a database over its max_database_size grew on: it may only be read now; what do its triggers on deletes write?"
            );
        }
    }

    fn with(&self, bytes: u64) -> Self {
        let over = self.over.as_ref().map(|over| Over { since: over.since, bytes: over.bytes });
        Self { bytes: Some(bytes), over, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Api, Limits};
    use crate::tenant::Record;

    const MB: u64 = 1 << 20;

    fn tenant(most: Option<u64>) -> Tenant {
        let limits = Limits { max_database_size: most, ..Limits::default() };
        Tenant::new(Record::example("aaaaaaaaaaaaaaaa", "acme"), limits, Api::default())
    }

    fn disk(most: u64) -> (Disk, Tenant, Instant, impl Fn(&Disk, u64, u64)) {
        let (acme, begun) = (tenant(Some(most)), Instant::now());
        let own = acme.clone();
        let note = move |disk: &Disk, second: u64, bytes: u64| {
            disk.note(&own, bytes, Duration::from_millis(1), begun + Duration::from_secs(second));
        };
        (Disk::default(), acme, begun, note)
    }

    #[test]
    fn nothing_is_asked_of_a_tenant_without_a_quota() {
        let disk = Disk::default();
        assert_eq!(disk.enter(&tenant(None)), Room::Free);
        assert_eq!(disk.due(Instant::now()), []);
    }

    #[test]
    fn only_what_is_used_is_measured_and_soon_again_where_little_is_left() {
        let (disk, acme, begun, note) = disk(1000 * MB);
        let at = |second| begun + Duration::from_secs(second);
        assert_eq!(disk.enter(&acme), Room::Free);
        assert_eq!((disk.due(at(0)).len(), disk.due(at(0)).len()), (1, 0));
        note(&disk, 0, 100 * MB);
        disk.enter(&acme);
        assert_eq!((disk.due(at(8)).len(), disk.due(at(9)).len()), (0, 1));
        note(&disk, 9, 950 * MB);
        disk.enter(&acme);
        assert_eq!((disk.due(at(13)).len(), disk.due(at(14)).len()), (0, 1));
        // Very many files: measured for three seconds.
        disk.note(&acme, 999 * MB, Duration::from_secs(3), at(14));
        disk.enter(&acme);
        assert_eq!((disk.due(at(70)).len(), disk.due(at(74)).len()), (0, 1));
    }

    #[test]
    fn over_its_quota_a_database_is_full_and_read_only_once_it_grew_on() {
        let (disk, acme, _, note) = disk(1000 * MB);
        note(&disk, 0, 1100 * MB);
        assert!(matches!(disk.enter(&acme), Room::Full(_)));
        // A long statement that was under way.
        note(&disk, 20, 1500 * MB);
        assert!(matches!(disk.enter(&acme), Room::Full(_)));
        note(&disk, 200, 1600 * MB);
        assert!(matches!(disk.enter(&acme), Room::Full(_)));
        note(&disk, 205, 1700 * MB);
        assert_eq!(disk.enter(&acme), Room::ReadOnly(Use { bytes: 1700 * MB, most: 1000 * MB }));
        // By an operator's VACUUM FULL.
        note(&disk, 300, 1200 * MB);
        assert!(matches!(disk.enter(&acme), Room::Full(_)));
        note(&disk, 305, 1350 * MB);
        assert!(matches!(disk.enter(&acme), Room::ReadOnly(_)));
        note(&disk, 310, 999 * MB);
        assert_eq!(disk.enter(&acme), Room::Free);
        note(&disk, 310, 999 * MB);
        assert_eq!(disk.enter(&tenant(Some(900 * MB))), Room::Full(Use { bytes: 999 * MB, most: 900 * MB }));
    }

    #[test]
    fn what_others_measured_counts_until_it_is_measured_here() {
        let (disk, acme, begun, note) = disk(1000 * MB);
        disk.hear(&acme, 2000 * MB, begun);
        assert!(matches!(disk.enter(&acme), Room::Full(_)));
        note(&disk, 1, 500 * MB);
        disk.hear(&acme, 2000 * MB, begun + Duration::from_secs(2));
        assert_eq!(disk.enter(&acme), Room::Free);
        assert_eq!(disk.sizes(), [(acme.id.clone(), 500 * MB)]);
        disk.retain(|_| false);
        assert_eq!(disk.sizes(), []);
    }
}
