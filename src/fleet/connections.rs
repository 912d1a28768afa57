//! Connections: how many a tenant's login may open on its server, over all routers.

use std::collections::HashMap;

use super::{Doing, Fleet, FleetError};
use crate::catalog::TenantRow;
use crate::pg::Ident;
use crate::tenant::{Record, State};

impl Fleet {
    /// Most connections of a tenant's login: twice what one router opens, so that a router and its successor fit beside
    /// each other during a deploy.
    pub(super) fn connection_limit(&self, record: &Record) -> i32 {
        let most = self.settings.tenant(record.clone()).limits.max_connections;
        i32::try_from(most.saturating_mul(2)).unwrap_or(i32::MAX)
    }

    /// Lets the login of a tenant that manybox made have as many connections as its settings say. Those that are open stay.
    pub(super) async fn limit_login(&self, record: &Record) -> Result<(), FleetError> {
        if record.is_adopted() || !matches!(record.state, State::Active | State::Suspended | State::Retired) {
            return Ok(());
        }
        let (_, client) = self.admin(&record.server).await?;
        let (login, limit) = (record.login_role(), self.connection_limit(record));
        let sql = format!("ALTER ROLE {} CONNECTION LIMIT {limit}", Ident::new(&login));
        client.batch_execute(&sql).await.doing(|| format!("setting the connection limit of `{login}`"))
    }

    /// The tenants whose logins have other limits on their servers than the settings say: a tier was changed. By slug, with
    /// the limit as it is and as it should be. A server that can't be asked is told of in the log.
    pub(super) async fn login_limits(&self, rows: &[TenantRow]) -> Vec<(String, i32, i32)> {
        let mut found = Vec::new();
        for (server, _) in self.servers.iter() {
            let of_server = rows.iter().map(|row| &row.record).filter(|record| {
                record.server == server && !record.is_adopted() && record.state == State::Active
            });
            let records: Vec<_> = of_server.collect();
            match self.other_limits(server, &records).await {
                Ok(others) => found.extend(others),
                Err(error) => {
                    tracing::warn!(%error, "the connection limits of logins on server {server} were not compared");
                }
            }
        }
        found
    }

    async fn other_limits(
        &self,
        server: &str,
        records: &[&Record],
    ) -> Result<Vec<(String, i32, i32)>, FleetError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let logins: Vec<String> = records.iter().map(|record| record.login_role()).collect();
        let (_, client) = self.admin(server).await?;
        let sql =
            "SELECT rolname::pg_catalog.text, rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = ANY ($1)";
        let reading = || format!("reading the connection limits of logins on server `{server}`");
        let mut limits: HashMap<String, i32> = HashMap::new();
        for row in client.query(sql, &[&logins]).await.doing(reading)? {
            limits.insert(row.try_get(0).doing(reading)?, row.try_get(1).doing(reading)?);
        }
        let differs = |(record, login): (&&Record, &String)| {
            let (is, wanted) = (*limits.get(login)?, self.connection_limit(record));
            (is != wanted).then(|| (record.slug.to_string(), is, wanted))
        };
        Ok(records.iter().zip(&logins).filter_map(differs).collect())
    }
}
