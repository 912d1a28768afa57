//! `Act`: by whose order something is done, which stands in every line of the journal that comes of it.

use serde::{Deserialize, Serialize};

use super::{Catalog, CatalogError};
use crate::tenant::TenantId;

/// The setting by which a session tells the journal, whose column `act` has it as default.
pub(super) const SETTING: &str = "manybox.act";

/// By whose order something is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Act {
    /// The operator.
    pub operator: String,
    /// What it was known by: `token ID`, or what its session was opened by.
    pub by: String,
    /// The id of the request.
    pub request: String,
    /// Why, in the operator's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Act {
    pub(super) fn as_json(&self) -> String {
        // Texts alone, which always have a form in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Catalog {
    /// Writes what became of an order: the last line of its request.
    ///
    /// # Errors
    /// When the catalog can't be written.
    pub async fn note_outcome(
        &self,
        tenant: Option<&TenantId>,
        action: &str,
        detail: &serde_json::Value,
        outcome: &str,
    ) -> Result<(), CatalogError> {
        let sql = "INSERT INTO journal.line (tenant, action, detail, outcome) VALUES ($1, $2, $3, $4)";
        self.change(sql, &[&tenant.map(TenantId::as_str), &action, detail, &outcome]).await
    }
}
