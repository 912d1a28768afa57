//! Declared: what the settings said of tenants when `apply` last made it so.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use tokio_postgres::types::Json;

use super::{Catalog, CatalogError};
use crate::tenant::TenantId;

/// Which things the settings declared of a tenant, without their values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeclaredBefore {
    /// Whether they gave it a tier.
    pub tier: bool,
    /// The keys that they set.
    pub settings: BTreeSet<String>,
    /// The base URLs that they gave it.
    pub base_urls: BTreeSet<String>,
}

impl Catalog {
    /// The slugs of all tenants, but for purged ones.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn slugs(&self) -> Result<Vec<String>, CatalogError> {
        let sql = "SELECT slug FROM catalog.tenant WHERE state <> 'purged' ORDER BY slug";
        let rows = self.sessions.query(sql, &[]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// What was declared of each tenant, by its id.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn declared_before(&self) -> Result<HashMap<String, DeclaredBefore>, CatalogError> {
        let rows = self.sessions.query("SELECT tenant, what FROM catalog.declared", &[]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get::<_, Json<_>>(1)?.0))).collect()
    }

    /// Remembers what is declared of tenants that are as declared.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn declared_now(&self, declared: &[(TenantId, DeclaredBefore)]) -> Result<(), CatalogError> {
        let ids: Vec<_> = declared.iter().map(|(id, _)| id.as_str()).collect();
        let what: Vec<_> = declared.iter().map(|(_, what)| Json(what)).collect();
        self.change(
            "INSERT INTO catalog.declared (tenant, what) SELECT * FROM unnest($1::text[], $2::jsonb[])
             ON CONFLICT (tenant) DO UPDATE SET what = excluded.what WHERE declared.what <> excluded.what",
            &[&ids, &what],
        )
        .await
    }
}
