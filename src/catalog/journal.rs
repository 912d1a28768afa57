//! Journal: what was done to the fleet, when and by whom; only ever appended to.

use time::OffsetDateTime;
use tokio_postgres::types::Json;

use super::{Act, Catalog, CatalogError};
use crate::tenant::TenantId;

/// One line of the journal.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct Entry {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The login that did it.
    pub actor: String,
    /// What.
    pub action: String,
    /// More about it.
    pub detail: serde_json::Value,
    /// By whose order, when it came by the control service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
    /// What became of an order, in its last line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

impl Catalog {
    /// Writes a line about what changes nothing in the catalog.
    ///
    /// # Errors
    /// When the catalog can't be written.
    pub async fn note(
        &self,
        id: &TenantId,
        action: &str,
        detail: &serde_json::Value,
    ) -> Result<(), CatalogError> {
        let sql = "INSERT INTO catalog.journal (tenant, action, detail) VALUES ($1, $2, $3)";
        self.sessions.execute(sql, &[&id.as_str(), &action, detail]).await?;
        Ok(())
    }

    /// A tenant's newest lines, newest first.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn journal(&self, id: &TenantId, most: i64) -> Result<Vec<Entry>, CatalogError> {
        let sql = "SELECT at, actor, action, detail, act, outcome FROM catalog.journal WHERE tenant = $1 ORDER BY id DESC LIMIT $2";
        let rows = self.sessions.query(sql, &[&id.as_str(), &most]).await?;
        rows.iter()
            .map(|row| {
                Ok(Entry {
                    at: row.try_get(0)?,
                    actor: row.try_get(1)?,
                    action: row.try_get(2)?,
                    detail: row.try_get(3)?,
                    act: row.try_get::<_, Option<Json<Act>>>(4)?.map(|json| json.0),
                    outcome: row.try_get(5)?,
                })
            })
            .collect()
    }
}
