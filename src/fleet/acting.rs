//! A fleet that works by somebody's order: what it shares with the one that it came of is all but the catalog's word for whose.

use std::sync::Arc;

use super::Fleet;
use crate::catalog::Act;

impl Fleet {
    /// The same fleet, for work by somebody's order: lines of the journal say whose.
    #[must_use]
    pub fn acting(&self, act: &Act) -> Self {
        Self {
            settings: self.settings.clone(),
            catalog: self.catalog.acting(act),
            servers: self.servers.clone(),
            keys: Arc::clone(&self.keys),
            kept: Arc::clone(&self.kept),
            copies: Arc::clone(&self.copies),
            agreed: Arc::clone(&self.agreed),
            failed_builds: Arc::clone(&self.failed_builds),
            read: Arc::clone(&self.read),
            proved: Arc::clone(&self.proved),
        }
    }
}
