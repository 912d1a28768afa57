//! Frozen: values that a template makes anew at each build, and that all tenants copied from it share.

use super::{Fleet, FleetError};
use crate::migrate::{Edition, Finding};

impl Fleet {
    /// Builds an edition twice on a server, where the first build leaves rows, and says in which columns of which tables the
    /// two differ: secrets and ids that were to be each tenant's own. Files that allow it for their tables are heeded.
    ///
    /// # Errors
    /// When a file fails, or a server refuses.
    pub async fn frozen_rows(&self, server: &str, edition: &Edition) -> Result<Vec<Finding>, FleetError> {
        let (server, files) = (self.servers.get(server)?, edition.by_files());
        let first =
            self.in_build(server, &files, async |scratch| self.content(server, scratch).await).await?;
        if first.is_empty() {
            return Ok(Vec::new());
        }
        let second =
            self.in_build(server, &files, async |scratch| self.content(server, scratch).await).await?;
        let volatile = first.volatile(&second).into_iter();
        Ok(volatile.filter_map(|(table, what)| edition.frozen_row(&table, &what)).collect())
    }
}
