//! Schemas in the catalog: what each lineage's template contained when it was sealed, for routers to read.

use super::{Catalog, CatalogError, Reader, Template};
use crate::pg::Ident;
use crate::tenant::Lineage;

impl Catalog {
    /// Stores what a lineage's databases on this server contain; `facts` are in the form `format`, which the catalog does
    /// not look into.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn schema_put(
        &self,
        server: &str,
        lineage: &Lineage,
        format: i32,
        facts: &str,
    ) -> Result<(), CatalogError> {
        // The same lineage may contain more than before: an edition's extensions are settings.
        let sql = "INSERT INTO catalog.schema (server, edition, version, history, format, facts)
                   VALUES ($1, $2, $3, $4, $5, $6)
                   ON CONFLICT (server, edition, version, history, format) DO UPDATE
                   SET facts = excluded.facts, stored_at = excluded.stored_at";
        let Lineage { edition, version, history } = lineage;
        self.sessions.execute(sql, &[&server, edition, version, history, &format, &facts]).await?;
        Ok(())
    }

    /// The finished templates whose schemas are not stored in this form.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn templates_without_schema(&self, format: i32) -> Result<Vec<Template>, CatalogError> {
        let sql =
            "SELECT t.database, t.server, t.edition, t.version::int8, t.history, t.state FROM catalog.template t
                   WHERE t.state <> 'building' AND NOT EXISTS (
                       SELECT FROM catalog.schema s
                       WHERE s.server = t.server AND s.edition = t.edition AND s.version = t.version
                         AND s.history = t.history AND s.format = $1)
                   ORDER BY t.server, t.edition, t.created_at";
        self.sessions.query(sql, &[&format]).await?.iter().map(Template::read).collect()
    }

    /// Forgets what is kept of an edition's lineages on a server that neither a tenant nor a template has any more: schemas and
    /// fingerprints. Called under the template's lock, so that nothing is forgotten whose template is being finished.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn lineages_sweep(&self, server: &str, edition: &str) -> Result<(), CatalogError> {
        for kept in ["schema", "fingerprint"] {
            let sql = format!(
                "DELETE FROM catalog.{} k WHERE k.server = $1 AND k.edition = $2
                   AND NOT EXISTS (
                     SELECT FROM catalog.template t
                     WHERE t.server = $1 AND t.edition = $2 AND t.version = k.version AND t.history = k.history)
                   AND NOT EXISTS (
                     SELECT FROM catalog.tenant t
                     WHERE t.server = $1 AND t.edition = $2 AND t.version = k.version AND t.history = k.history
                       AND t.state <> 'purged')",
                Ident::new(kept)
            );
            self.sessions.execute(&sql, &[&server, &edition]).await?;
        }
        Ok(())
    }
}

impl Reader {
    /// What a lineage's databases on this server contain, as its template did; `None` when that is not stored in this
    /// form.
    ///
    /// # Errors
    /// When the catalog can't be read, as one that `manybox init` has not brought up yet.
    pub async fn schema(
        &self,
        server: &str,
        lineage: &Lineage,
        format: i32,
    ) -> Result<Option<String>, CatalogError> {
        let sql = "SELECT facts FROM catalog.schema
                   WHERE server = $1 AND edition = $2 AND version = $3 AND history = $4 AND format = $5";
        let Lineage { edition, version, history } = lineage;
        let row = self.sessions.query_opt(sql, &[&server, edition, version, history, &format]).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }
}
