//! What operators say of tenants for rollouts: labels, by which waves take them, and whether they are set aside.

use std::collections::BTreeMap;

use tokio_postgres::types::Json;

use super::{Catalog, CatalogError, TenantRow};
use crate::settings::Wave;
use crate::tenant::TenantId;

impl TenantRow {
    /// Whether all that a wave says of tenants applies to this one, but for its share of the fleet.
    pub fn is_taken_by(&self, wave: &Wave) -> bool {
        let record = &self.record;
        let edition = record.lineage().map(|lineage| &lineage.edition);
        (wave.tenants.is_empty() || wave.tenants.iter().any(|slug| slug == record.slug.as_str()))
            && wave.labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
            && wave.tier.as_ref().is_none_or(|tier| *tier == record.tier)
            && wave.server.as_ref().is_none_or(|server| *server == record.server)
            && wave.edition.as_ref().is_none_or(|wanted| edition == Some(wanted))
    }
}

impl Catalog {
    /// Gives a tenant these labels, in place of those that it has.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_label(
        &self,
        id: &TenantId,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), CatalogError> {
        self.change(
            "WITH t AS (UPDATE catalog.tenant SET labels = $2 WHERE id = $1 RETURNING id)
             INSERT INTO journal.line (tenant, action, detail) SELECT id, 'label', $2 FROM t",
            &[&id.as_str(), &Json(labels)],
        )
        .await
    }

    /// Makes later rollouts leave a tenant out, or take it in again. It is in the journal.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_quarantine(&self, id: &TenantId, set: bool) -> Result<(), CatalogError> {
        let sql = "WITH t AS (
                UPDATE catalog.tenant SET quarantined = CASE WHEN $2 THEN COALESCE(quarantined, now()) END
                WHERE id = $1 AND (quarantined IS NOT NULL) <> $2 RETURNING id
             )
             INSERT INTO journal.line (tenant, action)
             SELECT id, CASE WHEN $2 THEN 'quarantined' ELSE 'quarantine-ended' END FROM t";
        self.sessions.execute(sql, &[&id.as_str(), &set]).await?;
        Ok(())
    }
}
