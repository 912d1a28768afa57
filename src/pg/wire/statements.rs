//! Prepared statements of one connection: found by role, search path and text, bounded.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use tokio_postgres::types::Type;

use super::row::Column;

/// Most statements kept per connection. Each costs some 10 to 100 KB in the backend.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Longest text of a statement that is kept, in bytes. What is longer came out of a long URL, is not asked again soon,
/// and takes megabytes in the backend, of which a caller could otherwise have [`CAPACITY`] kept.
const MAX_TEXT: usize = 16 * 1024;

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

    fn is_kept(&self) -> bool {
        self.0.len() <= MAX_TEXT
    }
}

/// What the server said of a statement when it was prepared. A change of either makes the server refuse the statement.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub(super) values: Arc<[Type]>,
    pub(super) columns: Arc<[Column]>,
}

/// A statement that has a name on the server.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) name: String,
    pub(super) described: Described,
}

/// The statements that have a name.
pub(super) struct Statements {
    kept: LruCache<StatementKey, Prepared>,
    next: u64,
    /// Names to be closed in front of the next pipeline: behind an error a Close would be skipped, and the name lost.
    closing: Vec<String>,
}

impl Default for Statements {
    fn default() -> Self {
        Self { kept: LruCache::new(CAPACITY), next: 0, closing: Vec::new() }
    }
}

impl Statements {
    pub(super) fn get(&mut self, key: &StatementKey) -> Option<&Prepared> {
        self.kept.get(key)
    }

    /// A name for a new statement; the empty one, which lives until the next Parse, for a text that is not kept.
    pub(super) fn name(&mut self, key: &StatementKey) -> String {
        if !key.is_kept() {
            return String::new();
        }
        self.next_name()
    }

    /// A name that this connection has not used yet.
    pub(super) fn next_name(&mut self) -> String {
        self.next += 1;
        format!("s{}", self.next)
    }

    /// Keeps a statement that the server has prepared. The least recently used one gives way.
    pub(super) fn keep(&mut self, key: StatementKey, prepared: Prepared) {
        if let Some((_, gone)) = self.kept.push(key, prepared) {
            self.closing.push(gone.name);
        }
    }

    /// Drops a statement that is of no more use.
    pub(super) fn forget(&mut self, key: &StatementKey) {
        if let Some(gone) = self.kept.pop(key) {
            self.closing.push(gone.name);
        }
    }

    /// Drops a name that the server may have and nobody will use.
    pub(super) fn abandon(&mut self, name: String) {
        if !name.is_empty() {
            self.closing.push(name);
        }
    }

    pub(super) fn take_closing(&mut self) -> Vec<String> {
        std::mem::take(&mut self.closing)
    }
}
