//! A connection as the ledger keeps it, and the slot it occupies.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ledger::Session;
use crate::pg::wire;
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

/// One connection's place in the budget. Held by its socket until the server has closed its side, and by the
/// connection itself: so what the ledger counts as usable always has a slot.
pub(super) struct Slot {
    /// `None` only while it is dropped.
    freed: Option<Freed>,
    evicted: AtomicBool,
}

impl Slot {
    pub(super) fn new(freed: impl FnOnce(bool) + Send + Sync + 'static) -> Self {
        Self { freed: Some(Box::new(freed)), evicted: AtomicBool::new(false) }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(freed) = self.freed.take() {
            freed(*self.evicted.get_mut());
        }
    }
}
