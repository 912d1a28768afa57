//! Answers by their Idempotency-Key: a request that is sent again is answered as it was, and not carried out again.

use super::{Catalog, CatalogError};

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keyed {
    /// It is new, or whoever worked on it is dead: the request is this worker's to carry out.
    Yours,
    /// Somebody carries it out.
    UnderWay,
    /// It was another request's.
    Other,
    /// It was answered.
    Answered(StoredAnswer),
}

/// An answer that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// Its status.
    pub status: u16,
    /// Where what was made can be found.
    pub location: Option<String>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Catalog {
    /// Takes a key for a request, unless it is taken. Keys of yesterday are forgotten.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn key_take(
        &self,
        operator: &str,
        key: &str,
        fingerprint: &[u8],
        executor: i64,
    ) -> Result<Keyed, CatalogError> {
        let sql = "WITH old AS (DELETE FROM catalog.idempotency WHERE created_at < now() - interval '1 day')
             INSERT INTO catalog.idempotency AS i (operator, key, fingerprint, executor) VALUES ($1, $2, $3, $4)
             ON CONFLICT (operator, key) DO UPDATE SET executor = excluded.executor
             WHERE i.status IS NULL AND i.fingerprint = excluded.fingerprint AND NOT catalog.is_alive(i.executor)";
        if self.sessions.execute(sql, &[&operator, &key, &fingerprint, &executor]).await? == 1 {
            return Ok(Keyed::Yours);
        }
        let sql = "SELECT fingerprint, status, location, body FROM catalog.idempotency WHERE operator = $1 AND key = $2";
        let Some(row) = self.sessions.query_opt(sql, &[&operator, &key]).await? else {
            return Ok(Keyed::UnderWay);
        };
        if row.try_get::<_, &[u8]>(0)? != fingerprint {
            return Ok(Keyed::Other);
        }
        let Some(status) = row.try_get::<_, Option<i32>>(1)? else { return Ok(Keyed::UnderWay) };
        Ok(Keyed::Answered(StoredAnswer {
            status: u16::try_from(status).unwrap_or(500),
            location: row.try_get(2)?,
            body: row.try_get::<_, Option<Vec<u8>>>(3)?.unwrap_or_default(),
        }))
    }

    /// Keeps the answer to a request with a key; without one the key is free again.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn key_answered(
        &self,
        operator: &str,
        key: &str,
        answer: Option<&StoredAnswer>,
    ) -> Result<(), CatalogError> {
        let Some(StoredAnswer { status, location, body }) = answer else {
            let sql = "DELETE FROM catalog.idempotency WHERE operator = $1 AND key = $2";
            return self.change(sql, &[&operator, &key]).await;
        };
        let sql = "UPDATE catalog.idempotency SET status = $3, location = $4, body = $5 WHERE operator = $1 AND key = $2";
        self.change(sql, &[&operator, &key, &i32::from(*status), location, body]).await
    }
}
