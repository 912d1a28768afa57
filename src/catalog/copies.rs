//! Copies: tenants whose databases are filled from somewhere else than a template, or trade places.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_postgres::types::Json;

use super::{Catalog, CatalogError};
use crate::tenant::{Lineage, TenantId};

/// An exchange of databases that was begun. It stands at one of the two tenants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Exchange {
    /// The id of the other.
    pub with: String,
    /// The server's number (oid) for the database that this one had: whoever finds another behind its name knows that
    /// they have traded.
    pub before: u32,
}

impl Catalog {
    /// The database of a tenant was filled: it is put into service, or retired where it waits to take another's place. Nothing
    /// happens to one that is no longer in creation.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_filled(&self, id: &TenantId, lineage: &Lineage) -> Result<(), CatalogError> {
        self.change(
            "WITH t AS (
                UPDATE catalog.tenant
                SET state = CASE WHEN replaces IS NULL THEN 'active' ELSE 'retired' END, unsettled = false, filling = NULL,
                    edition = $2, version = $3, history = $4, changed_at = now()
                WHERE id = $1 AND state = 'creating' RETURNING id
             )
             INSERT INTO journal.line (tenant, action, detail)
             SELECT id, 'filled', jsonb_build_object('edition', $2::text, 'version', $3::int8) FROM t",
            &[&id.as_str(), &lineage.edition, &lineage.version, &lineage.history],
        )
        .await
    }

    /// Writes the intent that two tenants trade databases. Returns false when the one is to trade with another already.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn exchange_begin(&self, id: &TenantId, exchange: &Exchange) -> Result<bool, CatalogError> {
        let sql = "WITH t AS (
                UPDATE catalog.tenant SET exchange = $2, unsettled = true, changed_at = now()
                WHERE id = $1 AND exchange IS NULL RETURNING id
             )
             INSERT INTO journal.line (tenant, action, detail) SELECT id, 'exchange', $2 FROM t";
        Ok(self.sessions.execute(sql, &[&id.as_str(), &Json(exchange)]).await? == 1)
    }

    /// Nothing comes of an exchange that was begun: the other is gone.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn exchange_cancel(&self, id: &TenantId) -> Result<(), CatalogError> {
        self.change(
            "WITH t AS (
                UPDATE catalog.tenant SET exchange = NULL, unsettled = false WHERE id = $1 AND exchange IS NOT NULL RETURNING id
             )
             INSERT INTO journal.line (tenant, action) SELECT id, 'exchange-cancelled' FROM t",
            &[&id.as_str()],
        )
        .await
    }

    /// They have: each is what the other's database was. Routers read both schemas again.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn exchange_end(&self, one: &TenantId, other: &TenantId) -> Result<(), CatalogError> {
        self.change(
            "WITH t AS (
                UPDATE catalog.tenant t
                SET edition = o.edition, version = o.version, history = o.history, baseline = o.baseline, failure = o.failure,
                    migrated_at = o.migrated_at, quarantined = o.quarantined, reloads = t.reloads + 1, exchange = NULL,
                    replaces = NULL, unsettled = false, changed_at = now()
                FROM catalog.tenant o
                WHERE t.id IN ($1, $2) AND o.id IN ($1, $2) AND t.id <> o.id
                  AND EXISTS (SELECT FROM catalog.tenant i WHERE i.id = $1 AND i.exchange IS NOT NULL)
                RETURNING t.id
             )
             INSERT INTO journal.line (tenant, action, detail)
             SELECT id, 'exchanged', jsonb_build_object('with', CASE id WHEN $1 THEN $2 ELSE $1 END) FROM t",
            &[&one.as_str(), &other.as_str()],
        )
        .await
    }

    /// Has a retired tenant kept until then.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_keep(&self, id: &TenantId, until: OffsetDateTime) -> Result<(), CatalogError> {
        self.change(
            "WITH t AS (
                UPDATE catalog.tenant SET keep_until = $2 WHERE id = $1 AND state = 'retired' RETURNING id
             )
             INSERT INTO journal.line (tenant, action, detail)
             SELECT id, 'keep', jsonb_build_object('until', $2::timestamptz) FROM t",
            &[&id.as_str(), &until],
        )
        .await
    }

    /// Gives a tenant another slug, and the base URLs that the settings make of it in place of those of the old one.
    ///
    /// # Errors
    /// `unique_violation` when the slug is taken.
    pub async fn tenant_rename(&self, id: &TenantId, slug: &str) -> Result<(), CatalogError> {
        self.change(
            "WITH o AS (SELECT id, slug FROM catalog.tenant WHERE id = $1),
             t AS (
                UPDATE catalog.tenant t SET slug = $2, changed_at = now() FROM o WHERE t.id = o.id AND t.slug <> $2
                RETURNING t.id, o.slug
             )
             INSERT INTO journal.line (tenant, action, detail)
             SELECT id, 'rename', jsonb_build_object('from', slug, 'to', $2::text) FROM t",
            &[&id.as_str(), &slug],
        )
        .await
    }
}
