//! Base URLs of tenants in the catalog: those made from templates, and those that operators gave.

use std::collections::HashMap;

use super::{Catalog, CatalogError};
use crate::tenant::{BaseUrl, TenantId};

/// The columns of `catalog.base_url` as parallel arrays.
pub(super) struct Urls {
    pub(super) hosts: Vec<String>,
    pub(super) prefixes: Vec<String>,
    pub(super) urls: Vec<String>,
}

impl Urls {
    pub(super) fn of(urls: &[BaseUrl]) -> Self {
        Self {
            hosts: urls.iter().map(|u| u.host.to_string()).collect(),
            prefixes: urls.iter().map(|u| u.prefix.as_str().to_owned()).collect(),
            urls: urls.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The statement that gives the tenant of `t`, a row of this query, its base URLs: from the templates and from an operator,
/// each as three parameters, in the order of the fields of [`Urls`]. One that is both is from the templates.
pub(super) fn insert_base_urls(templated: [u8; 3], given: [u8; 3]) -> String {
    let arrays = |[hosts, prefixes, urls]: [u8; 3]| {
        format!("unnest(${hosts}::text[], ${prefixes}::text[], ${urls}::text[]) AS a (host, prefix, url)")
    };
    format!(
        "INSERT INTO catalog.base_url (tenant, host, prefix, url, templated)
         SELECT t.id, u.* FROM t, (
            SELECT DISTINCT ON (host, prefix) * FROM (
                SELECT *, true AS templated FROM {} UNION ALL SELECT *, false FROM {}
            ) every ORDER BY host, prefix, templated DESC) u",
        arrays(templated),
        arrays(given)
    )
}

impl Catalog {
    /// Makes these the tenant's base URLs: all that were `templated`, or all that were given.
    ///
    /// # Errors
    /// `unique_violation` when one belongs to another tenant or is nested with one of its.
    pub async fn base_urls_replace(
        &self,
        id: &TenantId,
        urls: &[BaseUrl],
        templated: bool,
    ) -> Result<(), CatalogError> {
        let urls = Urls::of(urls);
        self.change(
            "WITH gone AS (
                DELETE FROM catalog.base_url
                WHERE tenant = $1 AND templated = $2
                  AND (host, prefix) NOT IN (SELECT * FROM unnest($3::text[], $4::text[]))
             ), new AS (
                INSERT INTO catalog.base_url (tenant, host, prefix, url, templated)
                SELECT $1, host, prefix, url, $2 FROM unnest($3::text[], $4::text[], $5::text[]) AS u (host, prefix, url)
                -- The guard locks one host after the other: in the same order everywhere, so that nobody waits in a circle.
                ORDER BY host, prefix
                ON CONFLICT (host, prefix) DO UPDATE SET url = excluded.url
                WHERE base_url.tenant = excluded.tenant
             )
             INSERT INTO journal.line (tenant, action, detail) VALUES ($1, 'base-urls', to_jsonb($5::text[]))",
            &[&id.as_str(), &templated, &urls.hosts, &urls.prefixes, &urls.urls],
        )
        .await
    }

    /// The tenant's base URLs that an operator gave, without those made from templates.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn base_urls_given(&self, id: &TenantId) -> Result<Vec<BaseUrl>, CatalogError> {
        let sql = "SELECT url FROM catalog.base_url WHERE tenant = $1 AND NOT templated ORDER BY url";
        let rows = self.sessions.query(sql, &[&id.as_str()]).await?;
        rows.iter().map(|row| Ok(row.try_get::<_, String>(0)?.parse()?)).collect()
    }

    /// Whether a base URL is a tenant's, or nested with one, so that no other may have it.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn base_url_is_taken(&self, url: &BaseUrl) -> Result<bool, CatalogError> {
        // As the guard of the table has it.
        let sql = "SELECT EXISTS (
                SELECT FROM catalog.base_url b
                WHERE b.host = $1 AND (b.prefix = '' OR $2::text = '' OR b.prefix = $2
                    OR starts_with($2, b.prefix || '/') OR starts_with(b.prefix, $2 || '/')))";
        let row = self.sessions.query_one(sql, &[&url.host.to_string(), &url.prefix.as_str()]).await?;
        Ok(row.try_get(0)?)
    }

    /// The base URLs that operators gave, by their tenant's id.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn every_base_url_given(&self) -> Result<HashMap<String, Vec<String>>, CatalogError> {
        let sql = "SELECT tenant, array_agg(url) FROM catalog.base_url WHERE NOT templated GROUP BY tenant";
        let rows = self.sessions.query(sql, &[]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}
