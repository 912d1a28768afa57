//! Scratch: databases that only manybox can connect to, for files and copies to be tried in, and which are then dropped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::database::DatabaseRights;
use super::dump::facts_of;
use super::psql::{OperatorLogin, sweep_operators};
use super::roles::{self, MIGRATORS, OWNER, migrator_of};
use super::{Doing, Fleet, FleetError, FleetServer, database};
use crate::migrate::{self, Edition, Facts, MigrationFailure, MigrationOutcome};
use crate::pg::{AdvisoryLock, Connection};
use crate::tenant::{Lineage, TenantId};

/// How the names of scratch databases begin.
const PREFIX: &str = "mb_x_";
/// A lock that somebody else has is not waited for: the database is theirs.
const NO_WAIT: Duration = Duration::ZERO;
/// How long a killed command's session may take to be gone.
const GONE: Duration = Duration::from_secs(1);

/// A database open to its migrator alone, with the session that holds its lock.
pub(super) struct Scratch {
    pub(super) name: String,
    /// Logins that were made to copy, each for a database, and that are there still.
    logins: Mutex<Vec<(String, Arc<OperatorLogin>)>>,
    pub(super) holder: Connection,
    lock: AdvisoryLock,
}

impl Scratch {
    /// A login for this database that is dropped with the scratch at the latest.
    pub(super) fn keep_login(&self, database: &str, login: OperatorLogin) -> Arc<OperatorLogin> {
        let login = Arc::new(login);
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.push((database.to_owned(), Arc::clone(&login)));
        login
    }
}

impl Fleet {
    /// Makes a database that only its own migrator can connect to, from `template`.
    pub(super) async fn make_scratch(
        &self,
        server: &FleetServer,
        edition: &str,
        template: &str,
    ) -> Result<Scratch, FleetError> {
        let name = format!("{PREFIX}{}", TenantId::random()?);
        let holder = server.connect_admin().await?;
        let lock = AdvisoryLock::acquire(&holder, lock_key(&name), NO_WAIT)
            .await
            .doing(|| format!("locking database `{name}`"))?
            .ok_or_else(|| FleetError::Busy(format!("database `{name}`")))?;
        let scratch = Scratch { name, logins: Mutex::default(), holder, lock };
        let made = async {
            let name = &scratch.name;
            database::create_closed(&scratch.holder, name, template).await?;
            let migrator = migrator_of(name);
            let temporary = self.temporary(edition);
            let rights = DatabaseRights { owner: OWNER, logins: &[&migrator], temporary: &temporary };
            let login = roles::migrator(&migrator, MIGRATORS, false);
            server.unhindered(database::open(&scratch.holder, name, &rights, &login)).await
        };
        match made.await {
            Ok(()) => Ok(scratch),
            Err(error) => {
                self.drop_scratch(server, scratch).await?;
                Err(error)
            }
        }
    }

    /// Makes a database of nothing but an edition's files, as a template has them, does `work` in it, and drops it. It is
    /// dropped, too, when `work` fails; when the command is killed, by the next that sweeps.
    ///
    /// # Errors
    /// When the server refuses, or one of the files fails.
    pub(super) async fn in_build<T>(
        &self,
        server: &FleetServer,
        edition: &Edition,
        work: impl AsyncFnOnce(&Scratch) -> Result<T, FleetError>,
    ) -> Result<T, FleetError> {
        let scratch = self.make_scratch(server, &edition.name, "template0").await?;
        let worked = async {
            self.prepare_for_edition(server, edition, &scratch.name).await?;
            let built = self.migrate_scratch(server, &scratch.name, &edition.for_template(), None).await?;
            built.map_err(|failure| FleetError::Migrate {
                doing: format!("building edition `{}` up to version {}", edition.name, edition.latest()),
                source: Box::new(failure),
            })?;
            work(&scratch).await
        };
        let worked = worked.await;
        let dropped = self.drop_scratch(server, scratch).await;
        let worked = worked?;
        dropped.map(|()| worked)
    }

    /// What all files of an edition make: as the catalog keeps it of a template, or as they make it of a scratch database.
    ///
    /// # Errors
    /// When the server refuses, or one of the files fails.
    pub(super) async fn facts_of_files(
        &self,
        server: &FleetServer,
        edition: &Edition,
    ) -> Result<Facts, FleetError> {
        let (name, version) = (server.endpoint.name(), edition.latest());
        let lineage =
            Lineage { edition: edition.name.clone(), version, history: edition.history_digest(version) };
        let basis = self.fingerprint_basis(name).await?;
        match self.kept_facts(name, &lineage, &basis).await? {
            Some(kept) => Ok(kept),
            None => {
                self.in_build(server, edition, async |scratch| facts_of(server, &scratch.name).await).await
            }
        }
    }

    /// Brings a scratch database to a version, or the newest, by the migrator that tenants have.
    pub(super) async fn migrate_scratch(
        &self,
        server: &FleetServer,
        database: &str,
        edition: &Edition,
        target: Option<i64>,
    ) -> Result<Result<MigrationOutcome, MigrationFailure>, FleetError> {
        let mut migrator = server.migrator(database).await?;
        let options = migrate::Options { target, ..self.migrate_options() };
        let outcome = migrator.migrate(edition, &options, &CancellationToken::new()).await;
        migrator.close().await?;
        Ok(outcome)
    }

    /// Drops the logins that were made to copy.
    pub(super) async fn drop_logins(
        &self,
        server: &FleetServer,
        scratch: &Scratch,
    ) -> Result<(), FleetError> {
        let logins = std::mem::take(&mut *scratch.logins.lock().unwrap_or_else(PoisonError::into_inner));
        let mut dropped = Ok(());
        for (database, login) in &logins {
            dropped = dropped.and(self.drop_made(server.endpoint.name(), database, login).await);
        }
        dropped
    }

    pub(super) async fn drop_scratch(
        &self,
        server: &FleetServer,
        scratch: Scratch,
    ) -> Result<(), FleetError> {
        let closed = self.drop_logins(server, &scratch).await;
        let Scratch { name, holder, lock, .. } = scratch;
        server.unhindered(database::drop(&holder, &name)).await?;
        lock.release(&holder).await.doing(|| format!("unlocking database `{name}`"))?;
        holder.close().await;
        closed
    }

    /// Drops scratch databases of commands that were killed, on every server. Gives their names.
    ///
    /// # Errors
    /// When a server refuses or can't be reached.
    pub async fn sweep_scratch(&self) -> Result<Vec<String>, FleetError> {
        let mut swept = Vec::new();
        for (name, server) in self.servers.iter() {
            let (_, client) = self.admin(name).await?;
            for database in leftovers(&client).await? {
                let lock = AdvisoryLock::acquire(&client, lock_key(&database), GONE)
                    .await
                    .doing(|| format!("locking database `{database}`"))?;
                // Without it somebody is at work there.
                let Some(lock) = lock else { continue };
                let dropping = async {
                    // Whoever had the lock until now may have dropped it.
                    if !database::exists(&client, &database).await? {
                        return Ok(false);
                    }
                    sweep_operators(&client, &database).await?;
                    database::drop(&client, &database).await.map(|()| true)
                };
                let dropped = server.unhindered(dropping).await;
                lock.release(&client).await.doing(|| format!("unlocking database `{database}`"))?;
                if dropped? {
                    swept.push(database);
                }
            }
            self.keep(name, client);
        }
        Ok(swept)
    }
}

/// Databases with the name of a scratch that are the admin's.
async fn leftovers(client: &Client) -> Result<Vec<String>, FleetError> {
    let sql = "SELECT datname::pg_catalog.text FROM pg_catalog.pg_database
               WHERE pg_catalog.starts_with(datname, $1) AND pg_catalog.pg_get_userbyid(datdba) = session_user";
    let rows = client.query(sql, &[&PREFIX]).await;
    let rows = rows.doing(|| "looking for scratch databases".into())?;
    rows.iter().map(|row| row.try_get(0).doing(|| "reading the names of databases".into())).collect()
}

/// The key of the lock that whoever works on a scratch database holds, in the maintenance database.
fn lock_key(database: &str) -> i64 {
    let digest = digest(&SHA256, format!("rehearsal {database}").as_bytes());
    let mut key = [0_u8; 8];
    key.copy_from_slice(&digest.as_ref()[..8]);
    i64::from_be_bytes(key)
}
