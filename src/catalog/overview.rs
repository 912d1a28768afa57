//! Overview: the whole fleet in a few numbers, for those who look at it from above.

use super::{Catalog, CatalogError};
use crate::tenant::State;

/// Tenants that have the same state, server and lineage, and how many of them are in trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Their state; purged ones are left out.
    pub state: State,
    /// Their server.
    pub server: String,
    /// Their edition; `None` for adopted databases.
    pub edition: Option<String>,
    /// Their version.
    pub version: i64,
    /// How many.
    pub tenants: u64,
    /// Of these, those whose last migration failed.
    pub failed: u64,
    /// Those that rollouts leave out.
    pub quarantined: u64,
    /// Those whose last change of state has not reached their server, and those that are being made or dropped.
    pub unsettled: u64,
    /// Those with secrets that nobody can open any more.
    pub lost_secrets: u64,
}

/// What a router holds of a server's connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The server.
    pub server: String,
    /// The router.
    pub router: String,
    /// The budget of the server, as the router knows it.
    pub total: u32,
    /// The most that it may hold now.
    pub share: u32,
    /// What it could use.
    pub wanted: u32,
    /// Whether its session in the catalog stands.
    pub is_alive: bool,
}

impl Catalog {
    /// Every tenant that is not purged, counted in one pass.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn groups(&self) -> Result<Vec<Group>, CatalogError> {
        let sql = "SELECT state, server, edition, version, count(*), count(failure), count(quarantined),
                          count(*) FILTER (WHERE unsettled OR state IN ('creating', 'purging')),
                          count(*) FILTER (WHERE lost_secrets <> '{}')
                   FROM catalog.tenant WHERE state <> 'purged' GROUP BY 1, 2, 3, 4 ORDER BY 3, 4, 2, 1";
        let rows = self.sessions.query(sql, &[]).await?;
        rows.iter()
            .map(|row| {
                let count = |column: usize| {
                    row.try_get::<_, i64>(column).map(|count| u64::try_from(count).unwrap_or(0))
                };
                Ok(Group {
                    state: row.try_get::<_, &str>(0)?.parse()?,
                    server: row.try_get(1)?,
                    edition: row.try_get(2)?,
                    version: row.try_get(3)?,
                    tenants: count(4)?,
                    failed: count(5)?,
                    quarantined: count(6)?,
                    unsettled: count(7)?,
                    lost_secrets: count(8)?,
                })
            })
            .collect()
    }

    /// Who holds what of every server's connections, by server and router.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn shares(&self) -> Result<Vec<Share>, CatalogError> {
        let sql = "SELECT server, router, total, share, wanted, catalog.is_alive(catalog.router_lock(router))
                   FROM catalog.lease ORDER BY server, router";
        let rows = self.sessions.query(sql, &[]).await?;
        rows.iter()
            .map(|row| {
                let number = |column: usize| {
                    row.try_get::<_, i32>(column).map(|number| u32::try_from(number).unwrap_or(0))
                };
                Ok(Share {
                    server: row.try_get(0)?,
                    router: row.try_get(1)?,
                    total: number(2)?,
                    share: number(3)?,
                    wanted: number(4)?,
                    is_alive: row.try_get(5)?,
                })
            })
            .collect()
    }
}
