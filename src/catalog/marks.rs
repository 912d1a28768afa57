//! Marks: what each tenant's database was last told about itself, and the rows that come back from them.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::types::Json;

use super::base_urls::{Urls, insert_base_urls};
use super::{Catalog, CatalogError};
use crate::tenant::{BaseUrl, Record, TenantId};

/// A tenant whose row was lost, as the mark of its database and its history say.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// What the data plane sees of it, without base URLs and secrets.
    pub record: Record,
    /// The version up to which other tools had made its database.
    pub baseline: Option<i64>,
    /// Base URLs from the templates.
    pub templated: Vec<BaseUrl>,
    /// Base URLs that an operator gave.
    pub given: Vec<BaseUrl>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Names of secrets that only the lost catalog had.
    pub lost_secrets: Vec<String>,
    /// When it was intended.
    pub created_at: OffsetDateTime,
    /// Until when it may not be purged.
    pub keep_until: Option<OffsetDateTime>,
    /// Whether it was suspended when it was retired.
    pub was_suspended: bool,
}

impl Catalog {
    /// The fleet's identity.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn fleet_id(&self) -> Result<String, CatalogError> {
        Ok(self.sessions.query_one("SELECT id FROM catalog.fleet", &[]).await?.try_get(0)?)
    }

    /// Gives a catalog that was made anew the identity that its servers keep.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn fleet_id_kept(&self, id: &str) -> Result<(), CatalogError> {
        self.change(
            "WITH f AS (UPDATE catalog.fleet SET id = $1 WHERE id <> $1 RETURNING id)
             INSERT INTO journal.line (action, detail)
             SELECT 'rebuild', jsonb_build_object('fleet', id) FROM f",
            &[&id],
        )
        .await
    }

    /// The marks that databases were last given, with the number of the key that signed each, by their tenant's id.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn marks(&self) -> Result<HashMap<String, (Value, i32)>, CatalogError> {
        let rows = self.sessions.query("SELECT tenant, what, key FROM catalog.mark", &[]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)))).collect()
    }

    /// A tenant's database has this mark now, signed by this key.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn marked(&self, id: &TenantId, mark: &Value, key: i32) -> Result<(), CatalogError> {
        // Without a wait for the disk: where a crash takes it back, the mark is written again.
        let sql = "WITH s AS (SELECT set_config('synchronous_commit', 'off', true))
                   INSERT INTO catalog.mark (tenant, what, key) SELECT $1, $2, $3 FROM s
                   ON CONFLICT (tenant) DO UPDATE SET what = excluded.what, key = excluded.key";
        self.change(sql, &[&id.as_str(), mark, &key]).await
    }

    /// Writes the row of a tenant whose row was lost. It is unsettled: its server has to be made to follow.
    ///
    /// # Errors
    /// `unique_violation` when the id, the slug or a base URL is another tenant's; for an adopted one.
    pub async fn tenant_recover(&self, tenant: &Recovered) -> Result<(), CatalogError> {
        let record = &tenant.record;
        let (templated, given) = (Urls::of(&tenant.templated), Urls::of(&tenant.given));
        let adopted = || CatalogError::Row("adopted databases have no mark".into());
        let lineage = record.lineage().ok_or_else(adopted)?;
        let base_urls = insert_base_urls([17, 18, 19], [20, 21, 22]);
        let sql = format!(
            "WITH t AS (
                INSERT INTO catalog.tenant
                    (id, slug, state, unsettled, tier, server, edition, version, history, baseline, generation, key, overrides,
                     labels, lost_secrets, created_at, keep_until, was_suspended)
                VALUES ($1, $2, $3, true, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
                        coalesce((SELECT jsonb_object_agg(name, '') FROM unnest($14::text[]) AS s (name)), '{{}}'), $15, $16, $23)
                RETURNING id
             ), b AS ({base_urls})
             INSERT INTO journal.line (tenant, action, detail)
             SELECT id, 'recovered', jsonb_build_object(
                'slug', $2::text, 'server', $5::text, 'edition', $6::text, 'version', $7::int8, 'lost', $14::text[]) FROM t"
        );
        self.change(
            &sql,
            &[
                &record.id.as_str(),
                &record.slug.as_str(),
                &record.state.as_str(),
                &record.tier,
                &record.server,
                &lineage.edition,
                &lineage.version,
                &lineage.history,
                &tenant.baseline,
                &record.generation,
                &record.key,
                &Json(&record.overrides.clone().with_jwt_secret(None)),
                &Json(&tenant.labels),
                &tenant.lost_secrets,
                &tenant.created_at,
                &tenant.keep_until,
                &templated.hosts,
                &templated.prefixes,
                &templated.urls,
                &given.hosts,
                &given.prefixes,
                &given.urls,
                &tenant.was_suspended,
            ],
        )
        .await
    }
}
