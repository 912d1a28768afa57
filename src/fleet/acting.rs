//! A fleet that works by somebody's order: what it shares with the one that it came of is all but the catalog's word for whose.

use super::{Fleet, FleetError};
use crate::catalog::{Act, JobSeat};
use crate::tenant::TenantId;

impl Fleet {
    /// The same fleet, for work by somebody's order: lines of the journal say whose.
    #[must_use]
    pub fn acting(&self, act: &Act) -> Self {
        Self { catalog: self.catalog.acting(act), ..self.clone() }
    }

    /// A seat for a worker on jobs, by a session of its own in the catalog.
    ///
    /// # Errors
    /// When the catalog's server refuses.
    pub async fn job_seat(&self) -> Result<JobSeat, FleetError> {
        let server = self.servers.get(&self.settings.catalog.server)?;
        let connection = server.connect_admin_inside(&self.settings.catalog.database).await?;
        let key = self.keys.lock_key(&["executor", TenantId::random()?.as_str()]);
        Ok(JobSeat::take(connection, key).await?)
    }
}
