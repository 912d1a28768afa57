//! Rehearsals in the catalog: which files passed on a copy of which tenant.

use super::{Catalog, CatalogError};
use crate::tenant::{Lineage, TenantId};

impl Catalog {
    /// Keeps that files passed on a copy of a tenant, or that they no longer do. What is older than 90 days is forgotten.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn rehearsed(&self, id: &TenantId, files: &Lineage, passed: bool) -> Result<(), CatalogError> {
        let Lineage { edition, version, history } = files;
        let sql = "WITH old AS (DELETE FROM catalog.rehearsal WHERE at < now() - interval '90 days'), failed AS (
                       DELETE FROM catalog.rehearsal
                       WHERE edition = $1 AND version = $2 AND history = $3 AND tenant = $4 AND NOT $5
                   )
                   INSERT INTO catalog.rehearsal (edition, version, history, tenant) SELECT $1, $2, $3, $4 WHERE $5
                   ON CONFLICT (edition, version, history, tenant) DO UPDATE SET at = now()";
        self.sessions.execute(sql, &[edition, version, history, &id.as_str(), &passed]).await?;
        Ok(())
    }

    /// The files of an edition that passed, up to which version, and on which tenant's copy each.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn rehearsals(&self, edition: &str) -> Result<Vec<(Lineage, String)>, CatalogError> {
        let sql = "SELECT edition, version, history, tenant FROM catalog.rehearsal WHERE edition = $1";
        let rows = self.sessions.query(sql, &[&edition]).await?;
        rows.iter()
            .map(|row| {
                let files =
                    Lineage { edition: row.try_get(0)?, version: row.try_get(1)?, history: row.try_get(2)? };
                Ok((files, row.try_get(3)?))
            })
            .collect()
    }
}
