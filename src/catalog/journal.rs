//! Journal: what was done to the fleet, when and by whom; only ever appended to.

use time::OffsetDateTime;
use tokio_postgres::Row;
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

/// Which lines of the journal to list. What is `None` says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalQuery {
    /// About tenants with this text in their slug, or with this id.
    pub tenant: Option<String>,
    /// By operators and logins with this text in their name.
    pub who: Option<String>,
    /// Actions with this text.
    pub action: Option<String>,
    /// Older than the line of this number.
    pub before: Option<i64>,
}

/// A line of the journal with its number and the tenant that it is about.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its number.
    pub id: i64,
    /// The tenant's slug, as it is now.
    pub slug: Option<String>,
    /// The line.
    pub entry: Entry,
}

pub(super) fn entry(row: &Row) -> Result<Entry, CatalogError> {
    Ok(Entry {
        at: row.try_get("at")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        detail: row.try_get("detail")?,
        act: row.try_get::<_, Option<Json<Act>>>("act")?.map(|json| json.0),
        outcome: row.try_get("outcome")?,
    })
}

impl Catalog {
    /// The newest lines that match, newest first.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn journal_page(&self, query: &JournalQuery, most: i64) -> Result<Vec<Told>, CatalogError> {
        let sql = "SELECT j.id, j.at, j.actor, j.action, j.detail, j.act, j.outcome, t.slug
                   FROM journal.line j LEFT JOIN catalog.tenant t ON t.id = j.tenant
                   WHERE ($1::int8 IS NULL OR j.id < $1)
                     AND ($2::text IS NULL OR j.tenant IN (
                          SELECT id FROM catalog.tenant WHERE position(lower($2) IN slug) > 0 OR id = $2))
                     AND ($3::text IS NULL OR position(lower($3) IN lower(coalesce(j.act ->> 'operator', j.actor))) > 0)
                     AND ($4::text IS NULL OR position(lower($4) IN lower(j.action)) > 0)
                   ORDER BY j.id DESC LIMIT $5";
        let JournalQuery { tenant, who, action, before } = query;
        let rows = self.sessions.query(sql, &[before, tenant, who, action, &most]).await?;
        rows.iter()
            .map(|row| Ok(Told { id: row.try_get("id")?, slug: row.try_get("slug")?, entry: entry(row)? }))
            .collect()
    }

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
        let sql = "INSERT INTO journal.line (tenant, action, detail) VALUES ($1, $2, $3)";
        self.sessions.execute(sql, &[&id.as_str(), &action, detail]).await?;
        Ok(())
    }

    /// A tenant's newest lines, newest first.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn journal(&self, id: &TenantId, most: i64) -> Result<Vec<Entry>, CatalogError> {
        let sql = "SELECT at, actor, action, detail, act, outcome FROM journal.line WHERE tenant = $1 ORDER BY id DESC LIMIT $2";
        let rows = self.sessions.query(sql, &[&id.as_str(), &most]).await?;
        rows.iter().map(entry).collect()
    }
}
