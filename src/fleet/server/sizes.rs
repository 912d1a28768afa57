//! Sizes of tenants' databases, asked of each server now.

use std::collections::{BTreeMap, HashMap};

use futures_util::future::join_all;

use super::super::{Doing, FleetError};
use super::Servers;
use crate::catalog::TenantRow;
use crate::tenant::{State, TenantId};

/// One question a server. What the admin may not look at has none.
const SIZES: &str = "
SELECT datname::pg_catalog.text,
       CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
            THEN pg_catalog.pg_database_size(oid) END
FROM pg_catalog.pg_database WHERE datname = ANY ($1)";

/// What servers said.
#[derive(Debug, Default)]
pub struct Sizes {
    /// In bytes on disk; a tenant whose size is not known has no entry.
    pub bytes: HashMap<TenantId, u64>,
    /// Servers that could not be asked, and why.
    pub unasked: Vec<(String, FleetError)>,
}

impl Servers {
    /// How large the databases of these tenants are.
    pub async fn sizes(&self, rows: &[TenantRow]) -> Sizes {
        let mut servers: BTreeMap<&str, Vec<&TenantRow>> = BTreeMap::new();
        let have_one = |row: &&TenantRow| !matches!(row.record.state, State::Creating | State::Purged);
        for row in rows.iter().filter(have_one) {
            servers.entry(&row.record.server).or_default().push(row);
        }
        let asked = servers.into_iter().map(|(server, rows)| async move {
            let databases: Vec<_> = rows.iter().map(|row| row.record.database()).collect();
            (server, self.sizes_on(server, &databases).await, rows)
        });
        let mut sizes = Sizes::default();
        for (server, outcome, rows) in join_all(asked).await {
            match outcome {
                Ok(known) => sizes
                    .bytes
                    .extend(rows.into_iter().filter_map(|row| {
                        Some((row.record.id.clone(), *known.get(&row.record.database())?))
                    })),
                Err(error) => sizes.unasked.push((server.to_owned(), error)),
            }
        }
        sizes
    }

    async fn sizes_on(&self, server: &str, databases: &[String]) -> Result<HashMap<String, u64>, FleetError> {
        let doing = || format!("asking server `{server}` for the sizes of databases");
        let client = self.get(server)?.connect_admin().await?;
        let rows = match client.query(SIZES, &[&databases]).await {
            // One was dropped meanwhile.
            Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::UNDEFINED_DATABASE) => {
                client.query(SIZES, &[&databases]).await
            }
            asked => asked,
        };
        let size = |row: &tokio_postgres::Row| {
            let bytes: Option<i64> = row.try_get(1)?;
            Ok((row.try_get::<_, String>(0)?, bytes))
        };
        let rows: Result<Vec<_>, tokio_postgres::Error> = rows.doing(doing)?.iter().map(size).collect();
        let known = rows.doing(doing)?.into_iter();
        Ok(known.filter_map(|(name, bytes)| Some((name, u64::try_from(bytes?).ok()?))).collect())
    }
}
