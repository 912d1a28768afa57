//! Fingerprints in the catalog: what each lineage's template was when it was sealed, and the drift that was accepted.

use super::{Catalog, CatalogError, Template};
use crate::tenant::{Lineage, TenantId};

/// Drift of one tenant that an operator accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedDrift {
    /// What was accepted, in a form that the catalog does not look into.
    pub drift: String,
    /// Why.
    pub reason: String,
}

impl Catalog {
    /// Stores the schema of a lineage's databases on this server: what its hash is of, the hash, and the facts behind it.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn fingerprint_put(
        &self,
        server: &str,
        lineage: &Lineage,
        basis: &str,
        hash: &str,
        facts: &str,
    ) -> Result<(), CatalogError> {
        // The same lineage may contain more than before: an edition's extensions are settings.
        let sql = "INSERT INTO catalog.fingerprint (server, edition, version, history, basis, hash, facts)
                   VALUES ($1, $2, $3, $4, $5, $6, $7)
                   ON CONFLICT (server, edition, version, history, basis) DO UPDATE
                   SET hash = excluded.hash, facts = excluded.facts, stored_at = excluded.stored_at";
        let Lineage { edition, version, history } = lineage;
        self.sessions.execute(sql, &[&server, edition, version, history, &basis, &hash, &facts]).await?;
        Ok(())
    }

    /// The hashes of a lineage's schema on this server, each with what it is of.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn fingerprints(
        &self,
        server: &str,
        lineage: &Lineage,
    ) -> Result<Vec<(String, String)>, CatalogError> {
        let sql = "SELECT basis, hash FROM catalog.fingerprint
                   WHERE server = $1 AND edition = $2 AND version = $3 AND history = $4";
        let Lineage { edition, version, history } = lineage;
        let rows = self.sessions.query(sql, &[&server, edition, version, history]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// The facts behind one of them.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn facts(
        &self,
        server: &str,
        lineage: &Lineage,
        basis: &str,
    ) -> Result<Option<String>, CatalogError> {
        let sql = "SELECT facts FROM catalog.fingerprint
                   WHERE server = $1 AND edition = $2 AND version = $3 AND history = $4 AND basis = $5";
        let Lineage { edition, version, history } = lineage;
        let row = self.sessions.query_opt(sql, &[&server, edition, version, history, &basis]).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// The finished templates of a server of which no hash with this basis is stored.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn templates_without_fingerprint(
        &self,
        server: &str,
        basis: &str,
    ) -> Result<Vec<Template>, CatalogError> {
        let sql = "SELECT t.database, t.server, t.edition, t.version::int8, t.history, t.state FROM catalog.template t
                   WHERE t.server = $1 AND t.state <> 'building' AND NOT EXISTS (
                       SELECT FROM catalog.fingerprint f
                       WHERE f.server = t.server AND f.edition = t.edition AND f.version = t.version
                         AND f.history = t.history AND f.basis = $2)
                   ORDER BY t.edition, t.created_at";
        self.sessions.query(sql, &[&server, &basis]).await?.iter().map(Template::read).collect()
    }

    /// Accepts the drift of a tenant, in place of what was accepted before. `differences` is their number, for the
    /// journal.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn drift_accept(
        &self,
        id: &TenantId,
        drift: &str,
        differences: usize,
        reason: &str,
    ) -> Result<(), CatalogError> {
        let sql = "WITH d AS (
                     INSERT INTO catalog.accepted_drift (tenant, drift, reason) VALUES ($1, $2, $4)
                     ON CONFLICT (tenant) DO UPDATE SET drift = excluded.drift, reason = excluded.reason,
                         accepted_at = excluded.accepted_at, accepted_by = excluded.accepted_by
                     RETURNING tenant
                   )
                   INSERT INTO journal.line (tenant, action, detail)
                   SELECT tenant, 'drift-accepted', jsonb_build_object('differences', $3::int8, 'reason', $4::text) FROM d";
        let differences = i64::try_from(differences).unwrap_or(i64::MAX);
        self.sessions.execute(sql, &[&id.as_str(), &drift, &differences, &reason]).await?;
        Ok(())
    }

    /// The drift that was accepted of a tenant.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn accepted_drift(&self, id: &TenantId) -> Result<Option<AcceptedDrift>, CatalogError> {
        let sql = "SELECT drift, reason FROM catalog.accepted_drift WHERE tenant = $1";
        let row = self.sessions.query_opt(sql, &[&id.as_str()]).await?;
        row.map(|row| Ok(AcceptedDrift { drift: row.try_get(0)?, reason: row.try_get(1)? })).transpose()
    }
}
