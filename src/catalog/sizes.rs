//! Sizes of tenants' databases, as routers measure them by turns.

use std::time::Duration;

use super::{CatalogError, Reader};
use crate::tenant::TenantId;

impl Reader {
    /// Whether this router shall measure all databases of a server now: one router in each `every`.
    ///
    /// # Errors
    /// When the catalog can't be reached, or was made by an older manybox.
    pub async fn claim_size_round(&self, server: &str, every: Duration) -> Result<bool, CatalogError> {
        let sql = "SELECT catalog.claim_size_round($1, make_interval(secs => $2))";
        Ok(self.sessions.query_one(sql, &[&server, &every.as_secs_f64()]).await?.try_get(0)?)
    }

    /// Reports what was measured, in bytes.
    ///
    /// # Errors
    /// As [`Reader::claim_size_round`].
    pub async fn report_sizes(&self, sizes: &[(TenantId, u64)]) -> Result<(), CatalogError> {
        let tenants: Vec<_> = sizes.iter().map(|(tenant, _)| tenant.as_str()).collect();
        let bytes: Vec<_> =
            sizes.iter().map(|(_, bytes)| i64::try_from(*bytes).unwrap_or(i64::MAX)).collect();
        self.sessions.execute("SELECT catalog.report_sizes($1, $2)", &[&tenants, &bytes]).await?;
        Ok(())
    }

    /// What was reported last of each tenant, in bytes.
    ///
    /// # Errors
    /// As [`Reader::claim_size_round`].
    pub async fn sizes(&self) -> Result<Vec<(TenantId, u64)>, CatalogError> {
        let rows = self.sessions.query("SELECT tenant, bytes FROM catalog.database_size", &[]).await?;
        let size = |row: &tokio_postgres::Row| {
            let bytes: i64 = row.try_get(1)?;
            Ok((row.try_get::<_, &str>(0)?.parse()?, u64::try_from(bytes).unwrap_or(0)))
        };
        rows.iter().map(size).collect()
    }
}
