//! Baseline: an adopted tenant becomes one of an edition.

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
             INSERT INTO catalog.journal (tenant, action, detail) SELECT id, 'baseline', $7 FROM t",
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
}
