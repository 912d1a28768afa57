//! Verifications that somebody asked the control service for: how far each is, and its report.

use serde_json::Value;
use time::OffsetDateTime;

use super::{Catalog, CatalogError};

/// Verifications that are kept.
const KEPT: i64 = 50;

/// One verification.
#[derive(Debug, Clone)]
pub struct VerificationRow {
    /// Its number.
    pub id: i64,
    /// Who asked for it.
    pub actor: String,
    /// When it began.
    pub begun_at: OffsetDateTime,
    /// When it last said how far it is. One that has not for a while, and has not ended, was cut off.
    pub seen_at: OffsetDateTime,
    /// When it ended.
    pub ended_at: Option<OffsetDateTime>,
    /// Tenants looked into so far.
    pub looked_into: i64,
    /// The report, in the verifier's form.
    pub report: Option<Value>,
    /// Why there is none.
    pub failure: Option<String>,
}

impl Catalog {
    /// Notes that a verification begins, and returns its number. The oldest are forgotten.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn verification_begin(&self, actor: &str) -> Result<i64, CatalogError> {
        let sql = "WITH old AS (
                DELETE FROM catalog.verification
                WHERE id <= (SELECT id FROM catalog.verification ORDER BY id DESC OFFSET $2 LIMIT 1)
             ), j AS (INSERT INTO catalog.journal (action, detail) VALUES ('verify', jsonb_build_object('by', $1::text)))
             INSERT INTO catalog.verification (actor) VALUES ($1) RETURNING id";
        Ok(self.sessions.query_one(sql, &[&actor, &(KEPT - 1)]).await?.try_get(0)?)
    }

    /// Notes how far it is.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn verification_goes_on(&self, id: i64, looked_into: i64) -> Result<(), CatalogError> {
        let sql = "UPDATE catalog.verification SET looked_into = $2, seen_at = now() WHERE id = $1";
        self.sessions.execute(sql, &[&id, &looked_into]).await?;
        Ok(())
    }

    /// Stores its report, or why there is none.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn verification_end(&self, id: i64, report: Result<&Value, &str>) -> Result<(), CatalogError> {
        let sql = "UPDATE catalog.verification SET report = $2, failure = $3, seen_at = now(), ended_at = now() WHERE id = $1";
        self.sessions.execute(sql, &[&id, &report.ok(), &report.err()]).await?;
        Ok(())
    }

    /// The newest verifications, newest first.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn verifications(&self, most: i64) -> Result<Vec<VerificationRow>, CatalogError> {
        let sql = "SELECT id, actor, begun_at, seen_at, ended_at, looked_into, report, failure
                   FROM catalog.verification ORDER BY id DESC LIMIT $1";
        let rows = self.sessions.query(sql, &[&most]).await?;
        rows.iter()
            .map(|row| {
                Ok(VerificationRow {
                    id: row.try_get(0)?,
                    actor: row.try_get(1)?,
                    begun_at: row.try_get(2)?,
                    seen_at: row.try_get(3)?,
                    ended_at: row.try_get(4)?,
                    looked_into: row.try_get(5)?,
                    report: row.try_get(6)?,
                    failure: row.try_get(7)?,
                })
            })
            .collect()
    }
}
