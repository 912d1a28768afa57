//! Routers, and what tenants name of the settings, as operators ask for them.

use time::OffsetDateTime;

use super::made::made;
use super::{Catalog, CatalogError, Made};

/// A router that has a session in the catalog, or had one a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterRow {
    /// The name of its leases.
    pub name: String,
    /// Where its session comes from.
    pub address: String,
    /// Its version of manybox.
    pub version: String,
    /// The number of its newest master key.
    pub key_number: i32,
    /// When it began.
    pub since: OffsetDateTime,
    /// Whether its session stands.
    pub is_alive: bool,
}

/// A server's budget as a router knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownBudget {
    /// The server's name in the settings.
    pub server: String,
    /// The router's name.
    pub router: String,
    /// Most connections of all routers.
    pub total: u32,
}

/// What tenants that are not purged name of the settings, and how many do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The name.
    pub name: String,
    /// How many tenants have it.
    pub tenants: u64,
    /// One of these.
    pub example: String,
}

/// What a tenant's row names of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// `servers`
    Server,
    /// `editions`; adopted databases have none.
    Edition,
    /// `tiers`
    Tier,
}

impl Catalog {
    /// Every router, by name.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn routers(&self) -> Result<Vec<RouterRow>, CatalogError> {
        let sql =
            "SELECT name, address, version, key_number, since, catalog.is_alive(catalog.router_lock(name))
                   FROM catalog.router ORDER BY name";
        let rows = self.sessions.query(sql, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(RouterRow {
                    name: row.try_get(0)?,
                    address: row.try_get(1)?,
                    version: row.try_get(2)?,
                    key_number: row.try_get(3)?,
                    since: row.try_get(4)?,
                    is_alive: row.try_get(5)?,
                })
            })
            .collect()
    }

    /// Every server's budget, as each router that lives knows it.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn known_budgets(&self) -> Result<Vec<KnownBudget>, CatalogError> {
        let sql = "SELECT server, router, total FROM catalog.lease
                   WHERE catalog.is_alive(catalog.router_lock(router)) ORDER BY server, router";
        let rows = self.sessions.query(sql, &[]).await?;
        rows.iter()
            .map(|row| {
                let total: i32 = row.try_get(2)?;
                let total = u32::try_from(total).unwrap_or(0);
                Ok(KnownBudget { server: row.try_get(0)?, router: row.try_get(1)?, total })
            })
            .collect()
    }

    /// What tenants name of the settings, by name.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn uses(&self, of: Named) -> Result<Vec<Use>, CatalogError> {
        // Three texts, so that each is prepared as it stands.
        let sql = match of {
            Named::Server => {
                "SELECT server, count(*), min(slug) FROM catalog.tenant WHERE state <> 'purged' GROUP BY 1 ORDER BY 1"
            }
            Named::Edition => {
                "SELECT edition, count(*), min(slug) FROM catalog.tenant
                 WHERE state <> 'purged' AND database IS NULL GROUP BY 1 ORDER BY 1"
            }
            Named::Tier => {
                "SELECT tier, count(*), min(slug) FROM catalog.tenant WHERE state <> 'purged' GROUP BY 1 ORDER BY 1"
            }
        };
        let rows = self.sessions.query(sql, &[]).await?;
        rows.iter()
            .map(|row| {
                let tenants: i64 = row.try_get(1)?;
                let tenants = u64::try_from(tenants).unwrap_or(0);
                Ok(Use { name: row.try_get(0)?, tenants, example: row.try_get(2)? })
            })
            .collect()
    }

    /// Tenants whose last change of state has not reached their server: how many, and one of them.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn unsettled(&self) -> Result<Option<(u64, String)>, CatalogError> {
        let sql = "SELECT count(*), min(slug) FROM catalog.tenant
                   WHERE state <> 'purged' AND (unsettled OR state IN ('creating', 'purging'))
                     -- A copy is finished by its own command, and not by `apply`.
                     AND NOT (state = 'creating' AND filling IS NOT NULL)";
        let row = self.sessions.query_one(sql, &[]).await?;
        let (tenants, example): (i64, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        Ok(example.map(|example| (u64::try_from(tenants).unwrap_or(0), example)))
    }

    /// By which version the catalog was made last; `None` where that was before versions were kept.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn made(&self) -> Result<Option<Made>, CatalogError> {
        made(&self.sessions).await
    }
}
