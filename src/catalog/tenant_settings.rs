//! Settings of tenants in the catalog: tier, what they have different, and their sealed secrets.

use tokio_postgres::types::{Json, ToSql};

use super::{Catalog, CatalogError};
use crate::policy::Overrides;
use crate::tenant::{Record, Sealed, TenantId};

impl Catalog {
    /// Changes a tenant's tier, what it has different, and its secrets.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_configure(
        &self,
        id: &TenantId,
        tier: &str,
        overrides: &Overrides,
        sealed: &Sealed,
    ) -> Result<(), CatalogError> {
        self.change(
            "WITH b AS (
                SELECT tier, overrides, sealed FROM catalog.tenant WHERE id = $1
             ), t AS (
                UPDATE catalog.tenant SET tier = $2, overrides = $3, sealed = $4,
                       lost_secrets = lost_secrets - ARRAY(SELECT jsonb_object_keys($4::jsonb)), changed_at = now()
                WHERE id = $1 RETURNING id
             )
             INSERT INTO journal.line (tenant, action, detail)
             SELECT id, 'set', jsonb_strip_nulls(jsonb_build_object(
                'tier', $2::text, 'settings', $3::jsonb,
                'from', jsonb_build_object('tier', b.tier, 'settings', b.overrides),
                -- By name: which were given anew, and which are gone.
                'secrets_set', (SELECT jsonb_agg(k) FROM jsonb_object_keys($4::jsonb) AS k
                                WHERE b.sealed -> k IS DISTINCT FROM $4::jsonb -> k),
                'secrets_removed', (SELECT jsonb_agg(k) FROM jsonb_object_keys(b.sealed) AS k WHERE NOT $4::jsonb ? k)))
             FROM t, b",
            &[&id.as_str(), &tier, &Json(&overrides.clone().with_jwt_secret(None)), &Json(sealed)],
        )
        .await
    }

    /// A secret that was sealed with a lost key will not be set anew.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_secret_given_up(&self, id: &TenantId, name: &str) -> Result<(), CatalogError> {
        self.change(
            "WITH t AS (
                UPDATE catalog.tenant SET lost_secrets = lost_secrets - $2::text, changed_at = now()
                WHERE id = $1 AND lost_secrets ? $2 RETURNING id
             )
             INSERT INTO journal.line (tenant, action, detail)
             SELECT id, 'secret-given-up', jsonb_build_object('secret', $2::text) FROM t",
            &[&id.as_str(), &name],
        )
        .await
    }

    /// Gives an adopted tenant another login, or another password of the same. The generation is raised, so that
    /// routers open no more connections with the one before.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_login_changed(
        &self,
        id: &TenantId,
        login_role: &str,
        sealed: &Sealed,
    ) -> Result<(), CatalogError> {
        self.change(
            "WITH t AS (
                UPDATE catalog.tenant
                SET login_role = $2, sealed = $3, lost_secrets = lost_secrets - ARRAY(SELECT jsonb_object_keys($3::jsonb)), generation = generation + 1, changed_at = now()
                WHERE id = $1 AND database IS NOT NULL RETURNING id
             )
             INSERT INTO journal.line (tenant, action, detail)
             SELECT id, 'login', jsonb_build_object('login', $2::text) FROM t",
            &[&id.as_str(), &login_role, &Json(sealed)],
        )
        .await
    }

    /// The tenant's password now derives from this master key, and its secrets are sealed with it; `lost` are set aside, as
    /// they were sealed. Returns false when its secrets are no longer those of `record`: somebody has just set one.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_rekeyed(
        &self,
        record: &Record,
        key: i32,
        sealed: &Sealed,
        lost: &Sealed,
    ) -> Result<bool, CatalogError> {
        let sql = "WITH t AS (
                UPDATE catalog.tenant SET key = $2, sealed = $3, lost_secrets = lost_secrets || $4
                WHERE id = $1 AND sealed = $5 RETURNING id
             )
             INSERT INTO journal.line (tenant, action, detail)
             SELECT id, 'rekey', jsonb_build_object('key', $2::int)
                    || CASE WHEN $4::jsonb = '{}' THEN '{}'
                       ELSE jsonb_build_object('lost', (SELECT jsonb_agg(k) FROM jsonb_object_keys($4::jsonb) AS k)) END
             FROM t";
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&record.id.as_str(), &key, &Json(sealed), &Json(lost), &Json(&record.sealed)];
        Ok(self.sessions.execute(sql, &parameters).await? == 1)
    }
}
