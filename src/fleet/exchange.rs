//! Exchange: two tenants of one server trade their databases, each keeping id, login, keys, base URLs and settings.

use tokio_postgres::Client;

use super::roles::migrator_of;
use super::server::run;
use super::{Doing, Fleet, FleetError, database};
use crate::catalog::Exchange;
use crate::pg::{AdvisoryLock, Ident};
use crate::tenant::TenantId;

/// How long to wait for another command that is at work on one of the two.
const LOCK_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

impl Fleet {
    /// Has two tenants trade their databases. Requests to both are refused for that moment (503). What was begun is finished
    /// by `apply` when this is killed.
    ///
    /// # Errors
    /// When a server refuses, or another command is at work on one of them.
    pub async fn exchange(&self, one: &TenantId, other: &TenantId) -> Result<(), FleetError> {
        let unknown = |id: &TenantId| FleetError::Unknown(id.to_string());
        let row = self.catalog.tenant(one).await?.ok_or_else(|| unknown(one))?;
        let (_, client) = self.admin(&row.record.server).await?;
        let before = oid(&client, &one.database()).await?;
        self.keep(&row.record.server, client);
        if !self.catalog.exchange_begin(one, &Exchange { with: other.to_string(), before }).await? {
            return Err(FleetError::Busy(format!("the databases of tenant `{}`", row.record.slug)));
        }
        self.finish_exchange(one).await
    }

    /// Finishes an exchange that was begun, if one was.
    ///
    /// # Errors
    /// As [`Fleet::exchange`].
    pub async fn finish_exchange(&self, one: &TenantId) -> Result<(), FleetError> {
        let Some(row) = self.catalog.tenant(one).await? else { return Ok(()) };
        let Some(exchange) = &row.exchange else { return Ok(()) };
        let other: TenantId = exchange.with.parse()?;
        let (server, client) = self.admin(&row.record.server).await?;
        let mut ids = [one, &other];
        // Whoever needs both takes them in one order.
        ids.sort();
        let mut locks = Vec::new();
        for id in ids {
            let key = self.keys.lock_key(&["tenant", id.as_str()]);
            let lock = AdvisoryLock::acquire(&client, key, LOCK_WAIT).await;
            let lock = lock.doing(|| format!("locking tenant {id}"))?;
            locks.push(lock.ok_or_else(|| FleetError::Busy(format!("tenant {id}")))?);
        }
        let (a, b) = (one.database(), other.database());
        let exchanged = async {
            if oid(&client, &a).await? == exchange.before {
                if !database::exists(&client, &b).await? {
                    // It was purged before the two could trade.
                    return Ok(self.catalog.exchange_cancel(one).await?);
                }
                let traded = trade(&client, &a, &b).await;
                open_both(&client, &a, &b).await?;
                traded?;
            } else {
                open_both(&client, &a, &b).await?;
            }
            Ok::<_, FleetError>(self.catalog.exchange_end(one, &other).await?)
        };
        let exchanged = server.unhindered(exchanged).await;
        for lock in locks {
            lock.release(&client).await.doing(|| "releasing the tenants' locks".into())?;
        }
        self.keep(&row.record.server, client);
        for id in [one, &other] {
            self.mark(id).await;
        }
        exchanged
    }
}

/// Closes both databases, ends their sessions, and gives each the other's name and rights in one transaction.
async fn trade(client: &Client, a: &str, b: &str) -> Result<(), FleetError> {
    for name in [a, b] {
        run(client, &format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", Ident::new(name))).await?;
        database::terminate_in(client, name).await?;
    }
    let (one, other, between) = (Ident::new(a), Ident::new(b), Ident::new(format!("{a}_x")));
    let mut sql = format!(
        "BEGIN; ALTER DATABASE {one} RENAME TO {between}; ALTER DATABASE {other} RENAME TO {one};
         ALTER DATABASE {between} RENAME TO {other};"
    );
    for (name, was) in [(a, b), (b, a)] {
        sql.push_str(&format!(
            "REVOKE ALL ON DATABASE {database} FROM {}, {}; GRANT CONNECT ON DATABASE {database} TO {database}, {};",
            Ident::new(was),
            Ident::new(migrator_of(was)),
            Ident::new(migrator_of(name)),
            database = Ident::new(name),
        ));
    }
    sql.push_str("COMMIT");
    let traded = run(client, &sql).await;
    if traded.is_err() {
        // Its own outcome adds nothing: where it fails the session is over.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    traded
}

async fn open_both(client: &Client, a: &str, b: &str) -> Result<(), FleetError> {
    for name in [a, b] {
        run(client, &format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", Ident::new(name))).await?;
    }
    Ok(())
}

/// The number by which the server knows a database, whatever its name.
async fn oid(client: &Client, database: &str) -> Result<u32, FleetError> {
    let sql = "SELECT oid FROM pg_catalog.pg_database WHERE datname = $1";
    let row = client.query_opt(sql, &[&database]).await.doing(|| format!("looking for `{database}`"))?;
    let row = row.ok_or_else(|| FleetError::Settings(format!("there is no database `{database}`")))?;
    row.try_get(0).doing(|| "reading the number of a database".into())
}
