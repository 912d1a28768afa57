//! A connection as the ledger keeps it, and the slot it occupies.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::Session;
use crate::pg::{Hold, wire};
use crate::tenant::Tenant;

/// A usable connection to one tenant's database.
pub(super) struct Connection {
    // Dropped before the slot.
    pub(super) wire: wire::Connection,
    pub(super) epoch: u64,
    /// The tenant as it was when the connection was opened.
    pub(super) tenant: Arc<Tenant>,
    pub(super) slot: Arc<Slot>,
}

impl Connection {
    /// Closes it for somebody who waits for its slot.
    pub(super) fn evict(self) {
        self.slot.evicted.store(true, Ordering::Relaxed);
    }
}

impl Session for Connection {
    fn is_usable(&mut self) -> bool {
        !self.wire.is_closed() && self.wire.is_settled() && !self.wire.is_worn()
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// What is called when a slot is free; whether the connection was evicted.
type Freed = Box<dyn FnOnce(bool) + Send + Sync>;

/// How long the server's word counts that a session is there, which is asked again within half of that.
const CONFIRMED: Duration = Duration::from_secs(25);

/// One connection's place in the budget. Held by its socket until the server has closed its side, and by the
/// connection itself: so what the ledger counts as usable always has a slot.
pub(super) struct Slot {
    /// `None` once it was freed.
    freed: Mutex<Option<Freed>>,
    evicted: AtomicBool,
    /// When the server last said that the session is still there, although it was given up.
    confirmed: Mutex<Option<Instant>>,
}

impl Slot {
    pub(super) fn new(freed: impl FnOnce(bool) + Send + Sync + 'static) -> Self {
        Self {
            freed: Mutex::new(Some(Box::new(freed))),
            evicted: AtomicBool::new(false),
            confirmed: Mutex::default(),
        }
    }

    /// The server says that the session is there.
    pub(super) fn confirm(&self) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Frees the slot, if that was not done before.
    pub(super) fn free(&self) {
        let freed = self.freed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(freed) = freed {
            freed(self.evicted.load(Ordering::Relaxed));
        }
    }
}

impl Hold for Slot {
    fn is_held(&self) -> bool {
        let confirmed = *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.is_some_and(|at| at.elapsed() < CONFIRMED)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.free();
    }
}
