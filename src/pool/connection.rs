//! A connection as the ledger keeps it, and the slot it occupies.

use std::mem;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::ClientWrapper;

use super::ledger::{Key, Session};
use super::server::Server;
use super::statements::Statements;
use crate::pg::Address;

/// A usable connection to one tenant's database.
///
/// The client is deadpool-postgres' wrapper, with all that its users know; its drop ends the task that drives the
/// connection. Its pool is not used: it has one limit for one database, and can neither wait for the end of a
/// connection it drops nor take one from another pool.
pub(super) struct Connection {
    // Dropped before the slot.
    pub(super) client: ClientWrapper,
    pub(super) statements: Statements,
    /// The role that the session has, when its last user left it one.
    pub(super) role: Option<String>,
    pub(super) address: Address,
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
    fn is_closed(&self) -> bool {
        self.client.is_closed()
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

    pub(super) fn server(&self) -> Weak<Server> {
        Weak::clone(&self.server)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(server) = mem::take(&mut self.server).upgrade() {
            server.freed(self.key, *self.evicted.get_mut());
        }
    }
}
