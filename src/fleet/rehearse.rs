//! Rehearsal: a tenant's pending files on a copy of its database, which nobody else can connect to and which is then
//! dropped.

mod copy;
mod measure;

pub use measure::{FileRehearsal, TableLock, TableRewrite};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use serde::Serialize;
use tokio_postgres::Client;

use super::database::DatabaseRights;
use super::dump::facts_of;
use super::psql::{OperatorLogin, sweep_operators};
use super::roles::{self, MIGRATORS, OWNER, migrator_of};
use super::{Doing, Fleet, FleetError, FleetServer, database};
use crate::catalog::TenantRow;
use crate::migrate::{Drift, Edition, Facts};
use crate::pg::{AdvisoryLock, Connection};
use crate::tenant::{Lineage, TenantId};

/// How the names of copies begin.
const PREFIX: &str = "mb_x_";
/// A lock that somebody else has is not waited for: the copy is theirs.
const NO_WAIT: Duration = Duration::ZERO;
/// How long a killed command's session may take to be gone.
const GONE: Duration = Duration::from_secs(1);

/// What came of a rehearsal.
#[derive(Debug, Clone, Serialize)]
pub struct Rehearsal {
    /// The tenant that was copied.
    pub slug: String,
    /// Its edition.
    pub edition: String,
    /// The version it has.
    pub before: i64,
    /// The version that the copy reached.
    pub after: i64,
    /// How large the tenant's database is.
    pub bytes: i64,
    /// How long it took to copy it.
    pub copy_seconds: f64,
    /// The files that were applied, in their order.
    pub files: Vec<FileRehearsal>,
    /// Why the copy went no further.
    pub failure: Option<String>,
    /// How the copy differs from what the files make of the edition's template; `None` when there was nothing to compare
    /// it with, or it went no further.
    pub drift: Option<Drift>,
    /// What of the tenant's database the copy did not have, and what could not be looked at.
    pub left_out: Vec<String>,
}

impl Rehearsal {
    /// Whether all files were applied, and the copy is what they make.
    pub fn is_good(&self) -> bool {
        self.failure.is_none() && self.drift.as_ref().is_none_or(Drift::is_empty)
    }
}

/// A copy, open to its migrator alone, with the session that holds its lock.
pub(super) struct Scratch {
    pub(super) name: String,
    /// Logins that were made to copy, each for a database, and that are there still.
    logins: Mutex<Vec<(String, Arc<OperatorLogin>)>>,
    holder: Connection,
    lock: AdvisoryLock,
}

impl Scratch {
    /// A login for this database that is dropped with the copy at the latest.
    fn keep_login(&self, database: &str, login: OperatorLogin) -> Arc<OperatorLogin> {
        let login = Arc::new(login);
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.push((database.to_owned(), Arc::clone(&login)));
        login
    }
}

impl Fleet {
    /// Applies the files that a tenant lacks to a copy of its database, and says what they did. The tenant itself is only
    /// read, by a login made for that. `most` bounds the size of what is copied, in bytes. When `stop` comes first, the
    /// copy is dropped and nothing said.
    ///
    /// # Errors
    /// When the tenant can't be copied: it is too large, the client programs are missing, or a server refuses. A file that
    /// fails is no error, but what the rehearsal was for.
    pub async fn rehearse(
        &self,
        tenant: &TenantRow,
        edition: &Edition,
        most: u64,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<Rehearsal>, FleetError> {
        let server = self.servers.get(&tenant.record.server)?;
        let scratch = self.make_scratch(server, &edition.name, "template0").await?;
        let rehearsed = tokio::select! {
            rehearsed = self.rehearse_in(&scratch, tenant, edition, most) => rehearsed.map(Some),
            () = stop => Ok(None),
        };
        let closed = self.drop_logins(server, &scratch).await;
        let dropped = self.drop_scratch(server, scratch).await.and(closed);
        let rehearsed = rehearsed?;
        dropped.map(|()| rehearsed)
    }

    async fn rehearse_in(
        &self,
        scratch: &Scratch,
        tenant: &TenantRow,
        edition: &Edition,
        most: u64,
    ) -> Result<Rehearsal, FleetError> {
        let record = &tenant.record;
        let server = self.servers.get(&record.server)?;
        let slug = record.slug.to_string();
        let lineage =
            record.lineage().ok_or_else(|| FleetError::Adopted(slug.clone(), "rehearsed by an edition"))?;
        let bytes = copy::size(&scratch.holder, &record.database()).await?;
        if u64::try_from(bytes).unwrap_or_default() > most {
            return Err(FleetError::Settings(format!(
                "the database of `{slug}` has {} MB, more than the {} MB that a rehearsal may copy; allow more with \
                 --max-size, or take a smaller tenant",
                bytes / 1_000_000,
                most / 1_000_000
            )));
        }
        let begun = Instant::now();
        self.prepare_for_edition(server, edition, &scratch.name).await?;
        let mut left_out = self.copy_into(scratch, tenant).await?;
        let copy_seconds = begun.elapsed().as_secs_f64();
        let measured = measure::files(self, server, &scratch.name, edition, lineage.version).await?;
        let drift = match measured.failure {
            Some(_) => None,
            None => match self.drift_of_copy(server, edition, &scratch.name).await {
                Ok(drift) => Some(drift),
                Err(error) => {
                    left_out.push(format!("drift: {error}"));
                    None
                }
            },
        };
        Ok(Rehearsal {
            slug,
            edition: edition.name.clone(),
            before: lineage.version,
            after: measured.after.unwrap_or(lineage.version),
            bytes,
            copy_seconds,
            files: measured.files,
            failure: measured.failure,
            drift,
            left_out,
        })
    }

    /// How a copy that has all files differs from what they make.
    async fn drift_of_copy(
        &self,
        server: &FleetServer,
        edition: &Edition,
        copy: &str,
    ) -> Result<Drift, FleetError> {
        let expected = self.facts_after(server, edition).await?;
        Ok(facts_of(server, copy).await?.difference(&expected))
    }

    /// What the edition's files make: as its template says, or as they make it of a copy of the template.
    async fn facts_after(&self, server: &FleetServer, edition: &Edition) -> Result<Facts, FleetError> {
        let (name, version) = (server.endpoint.name(), edition.latest());
        let lineage =
            Lineage { edition: edition.name.clone(), version, history: edition.history_digest(version) };
        let basis = self.fingerprint_basis(name).await?;
        if let Some(kept) = self.kept_facts(name, &lineage, &basis).await? {
            return Ok(kept);
        }
        let templates = self.catalog.templates().await?;
        let template = templates
            .iter()
            .find(|t| t.server == name && t.lineage.edition == edition.name && t.state == "ready")
            .ok_or_else(|| FleetError::Settings(format!("edition `{}` has no template yet", edition.name)))?;
        let scratch = self.make_scratch(server, &edition.name, &template.database).await?;
        let made = async {
            let measured = measure::migrated(self, server, &scratch.name, edition, None).await?;
            measured.map_err(|failure| FleetError::Migrate {
                doing: format!("applying the files to a copy of the template of edition `{}`", edition.name),
                source: Box::new(failure),
            })?;
            facts_of(server, &scratch.name).await
        };
        let made = made.await;
        self.drop_scratch(server, scratch).await?;
        made
    }

    /// Makes a database that only its own migrator can connect to.
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

    /// Drops the logins that were made to copy.
    async fn drop_logins(&self, server: &FleetServer, scratch: &Scratch) -> Result<(), FleetError> {
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
        let Scratch { name, holder, lock, .. } = scratch;
        server.unhindered(database::drop(&holder, &name)).await?;
        lock.release(&holder).await.doing(|| format!("unlocking database `{name}`"))?;
        holder.close().await;
        Ok(())
    }

    /// Drops copies of rehearsals that were killed, on every server. Gives their names.
    ///
    /// # Errors
    /// When a server refuses or can't be reached.
    pub async fn sweep_rehearsals(&self) -> Result<Vec<String>, FleetError> {
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
                    sweep_operators(&client, &database).await?;
                    database::drop(&client, &database).await
                };
                let dropped = server.unhindered(dropping).await;
                lock.release(&client).await.doing(|| format!("unlocking database `{database}`"))?;
                dropped?;
                swept.push(database);
            }
            self.keep(name, client);
        }
        Ok(swept)
    }
}

/// Databases with the name of a copy that are the admin's.
async fn leftovers(client: &Client) -> Result<Vec<String>, FleetError> {
    let sql = "SELECT datname::pg_catalog.text FROM pg_catalog.pg_database
               WHERE pg_catalog.starts_with(datname, $1) AND pg_catalog.pg_get_userbyid(datdba) = session_user";
    let rows = client.query(sql, &[&PREFIX]).await;
    let rows = rows.doing(|| "looking for copies of rehearsals".into())?;
    rows.iter().map(|row| row.try_get(0).doing(|| "reading the names of databases".into())).collect()
}

/// The key of the lock that whoever works on a copy holds, in the maintenance database.
fn lock_key(database: &str) -> i64 {
    let digest = digest(&SHA256, format!("rehearsal {database}").as_bytes());
    let mut key = [0_u8; 8];
    key.copy_from_slice(&digest.as_ref()[..8]);
    i64::from_be_bytes(key)
}
