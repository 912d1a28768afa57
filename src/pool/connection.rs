//! A connection as the ledger keeps it, and the slot it occupies.

use std::mem;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ledger::{Key, Session};
use super::server::Server;
use crate::pg::wire;

/// A usable connection to one tenant's database.
pub(super) struct Connection {
    // Dropped before the slot.
    pub(super) wire: wire::Connection,
    pub(super) epoch: u64,
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
        !self.wire.is_closed() && self.wire.is_settled()
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// One connection's place in the budget. Held by its socket until the server has closed its side, and by the
/// connection itself: so what the ledger counts as usable always has a slot.
pub(super) struct Slot {
    server: Weak<Server>,
    key: Key,
    evicted: AtomicBool,
}

impl Slot {
    pub(super) fn new(server: Weak<Server>, key: Key) -> Self {
        Self { server, key, evicted: AtomicBool::new(false) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(server) = mem::take(&mut self.server).upgrade() {
            server.freed(self.key, *self.evicted.get_mut());
        }
    }
}
