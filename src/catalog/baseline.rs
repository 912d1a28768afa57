//! Baseline: an adopted tenant becomes one of an edition, or one of an edition that of another.

use tokio_postgres::types::Json;

use super::{Catalog, CatalogError};
use crate::tenant::{Lineage, Sealed, TenantId};

impl Catalog {
    /// Makes an adopted tenant one of an edition, when its database has the name, the login and the history of one. Its
    /// password derives from this master key from then on. `detail` is for the journal.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_baselined(
        &self,
        id: &TenantId,
        lineage: &Lineage,
        (key, sealed): (i32, &Sealed),
        detail: &serde_json::Value,
    ) -> Result<(), CatalogError> {
        self.change(
            "WITH t AS (
                UPDATE catalog.tenant
                SET edition = $2, version = $3, history = $4, baseline = $3, database = NULL, login_role = NULL, key = $5,
                    sealed = $6, unsettled = true, failure = NULL, changed_at = now()
                WHERE id = $1 AND database IS NOT NULL RETURNING id
             )
             INSERT INTO journal.line (tenant, action, detail) SELECT id, 'baseline', $7 FROM t",
            &[
                &id.as_str(),
                &lineage.edition,
                &lineage.version,
                &lineage.history,
                &key,
                &Json(sealed),
                detail,
            ],
        )
        .await
    }
    /// Makes a tenant one of another edition, when its database has the history of that. Drift that was accepted was so by the
    /// files from before. Routers read its schema again. `detail` is for the journal.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_edition_changed(
        &self,
        id: &TenantId,
        lineage: &Lineage,
        baseline: i64,
        detail: &serde_json::Value,
    ) -> Result<(), CatalogError> {
        self.change(
            "WITH t AS (
                UPDATE catalog.tenant
                SET edition = $2, version = $3, history = $4, baseline = $5, failure = NULL, reloads = reloads + 1,
                    changed_at = now()
                WHERE id = $1 AND database IS NULL AND (edition, version, history) <> ($2, $3, $4) RETURNING id
             ), d AS (DELETE FROM catalog.accepted_drift WHERE tenant IN (SELECT id FROM t))
             INSERT INTO journal.line (tenant, action, detail) SELECT id, 'change-edition', $6 FROM t",
            &[&id.as_str(), &lineage.edition, &lineage.version, &lineage.history, &baseline, detail],
        )
        .await
    }
}
