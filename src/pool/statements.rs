//! Prepared statements of one connection: found by role, search path and text, bounded.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use tokio_postgres::Statement;

/// Most statements kept per connection. Each costs some 10 to 100 KB in the backend.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Longest text of a statement that is kept. What is longer came out of a long URL, is not asked again soon, and takes
/// megabytes in the backend, of which a caller could otherwise have [`CAPACITY`] kept.
const LONGEST: usize = 16 * 1024;

/// What a prepared statement depends on.
///
/// The role and the search path are part of it because the server resolves names when it parses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StatementKey(String);

impl StatementKey {
    /// The key of this text, prepared under this role and search path.
    pub fn new(role: &str, search_path: &str, sql: &str) -> Self {
        // None of them can hold a NUL.
        Self([role, search_path, sql].join("\0"))
    }
}

/// The cache. One that falls out is closed on the server by its own drop.
pub(super) struct Statements(Mutex<LruCache<StatementKey, Statement>>);

impl Statements {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(CAPACITY)))
    }

    pub(super) fn get(&self, key: &StatementKey) -> Option<Statement> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn put(&self, key: StatementKey, statement: Statement) {
        if key.0.len() > LONGEST {
            return;
        }
        let replaced = self.0.lock().unwrap_or_else(PoisonError::into_inner).push(key, statement);
        drop(replaced);
    }

    pub(super) fn remove(&self, key: &StatementKey) {
        let removed = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(key);
        drop(removed);
    }
}
