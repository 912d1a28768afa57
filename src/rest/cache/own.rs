//! A schema in use, and what is known of how it was read from its tenant's own database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::key::Key;
use crate::schema::Schema;

/// Bounds of the time from one reading of a tenant's own schema to the next: [`READ_SHARE`] times what the reading took.
const READ_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
pub(super) const READ_SHARE: u32 = 5;
/// Longest part of the time that is spent on asking whether a schema changed: a twentieth.
const ASK_SHARE: u32 = 20;

/// A schema in use.
#[derive(Debug)]
pub(in crate::rest) struct Entry {
    pub(in crate::rest) schema: Arc<Schema>,
    /// When it was read from the tenant's own database; `None` of a lineage's.
    pub(super) read: Option<Reading>,
}

/// A reading of a tenant's own schema.
#[derive(Debug)]
pub(super) struct Reading {
    ended: Instant,
    took: Duration,
    /// What [`stamp`](crate::schema::stamp) was then, and which schemas were exposed.
    pub(super) stamp: String,
    /// When it was last asked whether that is still so: milliseconds after `ended`.
    asked: AtomicU64,
    /// How long the last question took, in milliseconds.
    cost: AtomicU64,
}

impl Reading {
    pub(super) fn new(begun: Instant, stamp: String) -> Self {
        let ended = Instant::now();
        Self { ended, took: ended - begun, stamp, asked: AtomicU64::new(0), cost: AtomicU64::new(0) }
    }

    /// How long the next one has to wait, if it would come too early. Readings take their tenant's connections, but
    /// manybox's processor.
    pub(super) fn wait(&self) -> Option<Duration> {
        let (least, most) = READ_INTERVAL;
        let interval = self.took.saturating_mul(READ_SHARE).clamp(least, most);
        interval.checked_sub(self.ended.elapsed()).filter(|wait| !wait.is_zero())
    }

    /// Whether it is time to ask whether anything changed, for the one caller who is told so.
    pub(super) fn claim(&self, interval: Duration) -> bool {
        let now = milliseconds(self.ended.elapsed());
        let cost = Duration::from_millis(self.cost.load(Ordering::Relaxed));
        let interval = milliseconds(interval.max(cost.saturating_mul(ASK_SHARE)));
        let asked = self.asked.load(Ordering::Relaxed);
        now.saturating_sub(asked) >= interval
            && self.asked.compare_exchange(asked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The question was answered, and took so long.
    pub(super) fn answered(&self, took: Duration) {
        self.cost.store(milliseconds(took), Ordering::Relaxed);
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What is known of a tenant's own schema.
#[derive(Clone)]
pub(super) enum Own {
    /// An operator wants it read; it never was.
    Wanted,
    /// It was read, under this key.
    Read {
        key: Arc<Key>,
        entry: Arc<Entry>,
        /// Only because the lineage's is not stored.
        stands_in: bool,
        /// An operator wants it read again.
        wanted: bool,
        bytes: u32,
    },
}

/// Why a tenant's own schema is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// An operator wants it read.
    Wanted,
    /// Its lineage has none.
    NoShared,
    /// What is in use did not fit the database.
    Unfit,
    /// It may have changed since it was read.
    Doubt,
}
