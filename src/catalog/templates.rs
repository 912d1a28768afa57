//! Templates in the catalog: one ready per server and edition, others being built or waiting to be dropped.

use tokio_postgres::Row;

use super::{Catalog, CatalogError};
use crate::tenant::Lineage;

/// A template database.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Template {
    /// Its name.
    pub database: String,
    /// The server that has it.
    pub server: String,
    /// What was applied to it.
    pub lineage: Lineage,
    /// `building`, `ready` or `stale`.
    pub state: String,
}

impl Template {
    /// Reads a row of the columns above, in their order.
    pub(super) fn read(row: &Row) -> Result<Self, CatalogError> {
        Ok(Self {
            database: row.try_get(0)?,
            server: row.try_get(1)?,
            lineage: Lineage { edition: row.try_get(2)?, version: row.try_get(3)?, history: row.try_get(4)? },
            state: row.try_get(5)?,
        })
    }
}

impl Catalog {
    /// All templates.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn templates(&self) -> Result<Vec<Template>, CatalogError> {
        let sql = "SELECT database, server, edition, version::int8, history, state FROM catalog.template ORDER BY server, edition, created_at";
        let rows = self.sessions.query(sql, &[]).await?;
        rows.iter().map(Template::read).collect()
    }

    /// Writes the intent to build a template.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn template_insert(
        &self,
        database: &str,
        server: &str,
        edition: &str,
    ) -> Result<(), CatalogError> {
        let sql =
            "INSERT INTO catalog.template (database, server, edition, state) VALUES ($1, $2, $3, 'building')";
        self.sessions.execute(sql, &[&database, &server, &edition]).await?;
        Ok(())
    }

    /// Writes the intent to bring a stale template up.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn template_reuse(&self, database: &str) -> Result<(), CatalogError> {
        let sql = "UPDATE catalog.template SET state = 'building' WHERE database = $1";
        self.sessions.execute(sql, &[&database]).await?;
        Ok(())
    }

    /// Makes a built template the one that new tenants are copied from; the one before becomes stale.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn template_ready(
        &self,
        database: &str,
        version: i64,
        history: &str,
    ) -> Result<(), CatalogError> {
        // Two statements, because a unique index is checked row by row within one UPDATE. The first is harmless alone: a
        // creation that finds no ready template builds one.
        self.sessions
            .execute(
                "UPDATE catalog.template o SET state = 'stale' FROM catalog.template n
                 WHERE n.database = $1 AND o.server = n.server AND o.edition = n.edition AND o.state = 'ready'",
                &[&database],
            )
            .await?;
        let sql =
            "UPDATE catalog.template SET state = 'ready', version = $2, history = $3 WHERE database = $1";
        self.sessions.execute(sql, &[&database, &version, &history]).await?;
        Ok(())
    }

    /// Has a template no longer be the one that tenants are copied from, unless it was brought up meanwhile.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn template_retire(&self, template: &Template, reason: &str) -> Result<(), CatalogError> {
        let sql = "WITH t AS (
                       UPDATE catalog.template SET state = 'stale' WHERE database = $1 AND history = $3 AND state = 'ready'
                       RETURNING database, server, edition, version
                   )
                   INSERT INTO journal.line (action, detail)
                   SELECT 'template-retired', jsonb_build_object('template', database, 'server', server, 'edition', edition,
                                                                 'version', version, 'reason', $2::text) FROM t";
        let Template { database, lineage, .. } = template;
        self.sessions.execute(sql, &[database, &reason, &lineage.history]).await?;
        Ok(())
    }

    /// Forgets a template whose database is gone.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn template_delete(&self, database: &str) -> Result<(), CatalogError> {
        self.sessions.execute("DELETE FROM catalog.template WHERE database = $1", &[&database]).await?;
        Ok(())
    }
}
