//! Master keys in the catalog: which there are, by fingerprint, what is made from each, and which routers have them.

use std::collections::BTreeMap;

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::{Catalog, CatalogError, Reader};
use crate::vault::{KeyState, KnownKey};

/// How often a router says at least which keys it has.
pub const KEY_REPORT: std::time::Duration = std::time::Duration::from_secs(5);

/// A router is alive while its session is, and for as long after its last word as two reports may be apart: its session may
/// just have been lost.
const ALIVE: &str = "
    (r.seen > now() - interval '15 seconds'
     OR EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = r.process AND a.usename = $1))";

/// A master key, and how much is made from it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KeyUse {
    /// The key.
    #[serde(flatten)]
    pub key: KnownKey,
    /// Tenants whose passwords derive from it, or whose secrets are sealed with it.
    pub tenants: i64,
    /// Secrets that are sealed with it, tenants' and webhooks'.
    pub secrets: i64,
}

fn known(row: &Row) -> Result<KnownKey, CatalogError> {
    Ok(KnownKey {
        number: row.try_get("number")?,
        fingerprint: row.try_get("fingerprint")?,
        state: row.try_get::<_, String>("state")?.parse()?,
    })
}

impl Catalog {
    /// The fleet's master keys, oldest first; none in a catalog that has never been told of one.
    ///
    /// # Errors
    /// [`CatalogError::Outdated`] when the catalog is of a version that does not know them.
    pub async fn master_keys(&self) -> Result<Vec<KnownKey>, CatalogError> {
        let sql = "SELECT number, fingerprint, state FROM catalog.master_key ORDER BY number";
        match self.sessions.query(sql, &[]).await {
            Ok(rows) => rows.iter().map(known).collect(),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Err(CatalogError::Outdated),
            Err(error) => Err(error.into()),
        }
    }

    /// The same, with how much is made from each.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn key_uses(&self) -> Result<Vec<KeyUse>, CatalogError> {
        let sql = "
            WITH sealed AS (
                SELECT t.id, split_part(s.value, ':', 1) AS key
                FROM catalog.tenant t, jsonb_each_text(t.sealed) AS s WHERE t.state <> 'purged'
                UNION ALL SELECT NULL, split_part(w.sealed, ':', 1) FROM catalog.webhook w
            )
            SELECT k.number, k.fingerprint, k.state,
                   (SELECT count(*) FROM catalog.tenant t WHERE t.state <> 'purged' AND (
                        t.key = k.number OR EXISTS (SELECT FROM sealed s WHERE s.id = t.id AND s.key = k.number::text))),
                   (SELECT count(*) FROM sealed s WHERE s.key = k.number::text)
            FROM catalog.master_key k ORDER BY k.number";
        let rows = self.sessions.query(sql, &[]).await?;
        rows.iter()
            .map(|row| Ok(KeyUse { key: known(row)?, tenants: row.try_get(3)?, secrets: row.try_get(4)? }))
            .collect()
    }

    /// The highest number that a key of this fleet has or had.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn highest_key(&self) -> Result<i32, CatalogError> {
        let sql = "SELECT greatest((SELECT max(number) FROM catalog.master_key), (SELECT max(key) FROM catalog.tenant), 0)";
        Ok(self.sessions.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// Tells of the keys of a catalog that knows none: the last is current, those before it former.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn keys_registered(&self, keys: &[KnownKey]) -> Result<(), CatalogError> {
        let numbers: Vec<_> = keys.iter().map(|key| key.number).collect();
        let prints: Vec<_> = keys.iter().map(|key| key.fingerprint.as_str()).collect();
        let states: Vec<_> = keys.iter().map(|key| key.state.as_str()).collect();
        self.change(
            "WITH k AS (
                INSERT INTO catalog.master_key (number, fingerprint, state)
                SELECT * FROM unnest($1::int[], $2::text[], $3::text[])
                WHERE NOT EXISTS (SELECT FROM catalog.master_key)
                RETURNING number, fingerprint, state
             )
             INSERT INTO journal.line (action, detail) SELECT 'master-key', to_jsonb(k) FROM k",
            &[&numbers, &prints, &states],
        )
        .await
    }

    /// A new key, from which nothing is made yet.
    ///
    /// # Errors
    /// When the number is another key's, or the catalog can't be changed.
    pub async fn key_introduced(&self, number: i32, fingerprint: &str) -> Result<(), CatalogError> {
        self.change(
            "WITH k AS (
                INSERT INTO catalog.master_key (number, fingerprint, state) VALUES ($1, $2, 'introduced')
                ON CONFLICT (fingerprint) DO NOTHING RETURNING number, fingerprint, state
             )
             INSERT INTO journal.line (action, detail) SELECT 'master-key', to_jsonb(k) FROM k",
            &[&number, &fingerprint],
        )
        .await
    }

    /// Moves keys to other states, by number, in one step.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn keys_moved(&self, to: &BTreeMap<i32, KeyState>) -> Result<(), CatalogError> {
        let numbers: Vec<_> = to.keys().copied().collect();
        let states: Vec<_> = to.values().map(|state| state.as_str()).collect();
        self.change(
            "WITH k AS (
                UPDATE catalog.master_key k SET state = n.state, changed_at = now()
                FROM unnest($1::int[], $2::text[]) AS n (number, state)
                WHERE k.number = n.number AND k.state <> n.state RETURNING k.number, k.fingerprint, k.state
             )
             INSERT INTO journal.line (action, detail) SELECT 'master-key', to_jsonb(k) FROM k",
            &[&numbers, &states],
        )
        .await
    }

    /// The live routers that have not said yet that they have this key, as `MACHINE (ROUTER)`; `login` is that of routers.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn routers_without(&self, fingerprint: &str, login: &str) -> Result<Vec<String>, CatalogError> {
        let sql = format!(
            "SELECT r.host || ' (' || r.router || ')' FROM catalog.router_key r
             WHERE {ALIVE} AND NOT $2 = ANY (r.fingerprints) ORDER BY 1"
        );
        let rows = self.sessions.query(&sql, &[&login, &fingerprint]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

impl Reader {
    /// Says which keys a router has, by fingerprint, and hears which the fleet has.
    ///
    /// # Errors
    /// When the catalog can't be reached, or is of a version that does not know of keys.
    pub async fn report_keys(
        &self,
        router: &str,
        host: &str,
        fingerprints: &[String],
    ) -> Result<Vec<KnownKey>, CatalogError> {
        let sql = "SELECT number, fingerprint, state FROM catalog.report_keys($1, $2, $3)";
        let rows = self.sessions.query(sql, &[&router, &host, &fingerprints]).await?;
        rows.iter().map(known).collect()
    }

    /// This router stops, and nobody need wait for it.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn forget_keys(&self, router: &str) -> Result<(), CatalogError> {
        self.sessions.execute("SELECT catalog.forget_router_keys($1)", &[&router]).await?;
        Ok(())
    }

    /// Waits until the catalog tells of a change of the fleet's keys.
    pub async fn keys_changed(&self) {
        self.keys_told.notified().await;
    }
}
