//! Migrating one of our databases: as its migrator, in a session that is closed behind it.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::drift::{Before, Proof};
use super::migrator::{Migrator, Waiting};
use super::roles::OWNER;
use super::{Doing, Fleet, FleetError, rights, roles};
use crate::migrate::{self, Edition, FailureKind, MigrationFailure, MigrationOutcome, Options};
use crate::pg::{self, Ident};
use crate::tenant::{Lineage, TenantId};

/// Longest time for a proof. A tenant's owner can make every question last.
const PROOF: Duration = Duration::from_secs(60);
/// Longest time for a question to a tenant's database.
const ASK: Duration = Duration::from_secs(10);

/// How long an answer that nobody waits for any more may take.
const LAST_WORD: Duration = Duration::from_millis(500);

/// What is to be done to one database.
#[derive(Clone, Copy)]
struct Work<'a> {
    server: &'a str,
    database: &'a str,
    /// The version that it had when last heard of.
    known: i64,
    edition: &'a Edition,
    options: &'a Options,
    stop: &'a CancellationToken,
}

/// A tenant's database that was migrated, beside its template.
#[derive(Debug)]
pub struct ProvedMigration {
    /// The version it reached.
    pub outcome: MigrationOutcome,
    /// Whether its schema is the template's, or why the database did not tell.
    pub proof: Result<Proof, String>,
}

impl Fleet {
    /// Applies what a database lacks of an edition. `known` is the version that it had when last heard of. When `stop` is
    /// cancelled, what runs is cancelled and waited for, and the login is closed.
    ///
    /// # Errors
    /// The outer error when the database's migrator can't be had; nothing was applied then. The inner one when a file
    /// could not be applied.
    pub async fn migrate_database(
        &self,
        server: &str,
        database: &str,
        known: i64,
        edition: &Edition,
        options: &Options,
        stop: &CancellationToken,
    ) -> Result<Result<MigrationOutcome, MigrationFailure>, FleetError> {
        let nothing = async |_: &Migrator, _: &MigrationOutcome| ();
        let work = Work { server, database, known, edition, options, stop };
        let migrated = self.migrate_and(work, nothing).await?;
        Ok(migrated.map(|(outcome, ())| outcome))
    }

    /// The same, and asks something of what it left before the session is closed.
    async fn migrate_and<T>(
        &self,
        work: Work<'_>,
        then: impl AsyncFnOnce(&Migrator, &MigrationOutcome) -> T,
    ) -> Result<Result<(MigrationOutcome, T), MigrationFailure>, FleetError> {
        let Work { server, database, known, edition, options, stop } = work;
        if i32::try_from(known).is_ok() && i32::try_from(edition.latest()).is_err() {
            self.widen_history(server, database, edition.latest()).await?;
        }
        let waiting = Waiting { stop, activity: &options.activity };
        let mut migrator = match self.migrator_for(server, database, waiting).await {
            Err(FleetError::Busy(what)) if stop.is_cancelled() => {
                return Ok(Err(MigrationFailure::stopped(format!("was stopped while it waited for {what}"))));
            }
            opened => opened?,
        };
        let mut migrated = migrator.migrate(edition, options, stop).await;
        if matches!(&migrated, Err(failure) if failure.kind == FailureKind::Outdated) {
            self.widen_history(server, database, edition.latest()).await?;
            migrated = migrator.migrate(edition, options, stop).await;
        }
        let outcome = match migrated {
            Ok(outcome) => {
                let more = then(&migrator, &outcome).await;
                Ok((outcome, more))
            }
            Err(failure) => Err(failure),
        };
        if let Err(error) = self.close_migrator(server, migrator).await {
            // What was applied stands. The next use of the login closes it, and so does `manybox init`.
            tracing::warn!(database, %error, "the migrator of {database} stays open");
        }
        Ok(outcome)
    }

    /// Brings a tenant's database to the edition's newest version, and proves that its schema is then the template's. In
    /// place of a proof there is the reason why the database gave none.
    ///
    /// # Errors
    /// As [`Fleet::migrate_database`].
    pub async fn migrate_tenant(
        &self,
        (id, server): (&TenantId, &str),
        lineage: &Lineage,
        edition: &Edition,
        options: &Options,
        stop: &CancellationToken,
    ) -> Result<Result<ProvedMigration, MigrationFailure>, FleetError> {
        let database = id.database();
        let prove = async |migrator: &Migrator, outcome: &MigrationOutcome| {
            let after = Lineage {
                edition: edition.name.clone(),
                version: outcome.after,
                history: outcome.history.clone(),
            };
            let before = Before { lineage, fingerprint: None };
            let stopped = async {
                stop.cancelled().await;
                sleep(LAST_WORD).await;
            };
            tokio::select! {
                proof = timeout(PROOF, self.prove_by(migrator, (id, server), &after, Some(before))) => Some(match proof {
                    Ok(proof) => proof.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("its database did not tell its schema within {} s", PROOF.as_secs())),
                }),
                // Nothing is told of it, and nothing is wrong with it: closing the migrator ends the question.
                () = stopped => None,
            }
        };
        let (database, known) = (&database, lineage.version);
        let work = Work { server, database, known, edition, options, stop };
        Ok(match self.migrate_and(work, prove).await? {
            Ok((outcome, Some(proof))) => Ok(ProvedMigration { outcome, proof }),
            // How far it came is not told: whoever takes the step again must know what the database was before, to tell
            // drift of the step from older drift.
            Ok((outcome, None)) => Err(MigrationFailure {
                notices: outcome.notices,
                ..MigrationFailure::stopped("was stopped before its schema was proved".to_owned())
            }),
            Err(failure) => Err(failure),
        })
    }

    /// Asks a query that answers a boolean, as the owner, in a transaction that only reads. `None` when it answers no row,
    /// or null.
    ///
    /// # Errors
    /// When the database can't be reached, or the query fails, answers something else, or lasts for more than
    /// ten seconds.
    pub async fn ask_owner(
        &self,
        server: &str,
        database: &str,
        sql: &str,
    ) -> Result<Option<bool>, FleetError> {
        let migrator = self.migrator(server, database).await?;
        let asked = timeout(ASK, ask(&migrator, sql)).await;
        self.close_migrator(server, migrator).await?;
        let late = || {
            FleetError::Busy(format!("database `{database}` gave no answer within {} s: it", ASK.as_secs()))
        };
        asked.map_err(|_| late())?.doing(|| format!("asking database `{database}`"))
    }

    /// Gives the history of a database room for versions that its edition did not have before, and for what this version of
    /// manybox keeps there. Its migrator may not: the tables aren't its own.
    async fn widen_history(&self, server: &str, database: &str, newest: i64) -> Result<(), FleetError> {
        let mut admin = self.servers.get(server)?.connect_admin_inside(database).await?;
        let taken = migrate::take_over_history(&mut admin, &roles::of_tenants(), newest).await;
        admin.close().await;
        let taken = taken.doing(|| format!("widening the history of database `{database}`"))?;
        rights::all_taken(database, taken).map(drop)
    }
}

async fn ask(client: &Client, sql: &str) -> Result<Option<bool>, pg::Error> {
    // A tenant's functions may run in it.
    let begin = format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = '{}s'; SET LOCAL ROLE {}",
        ASK.as_secs(),
        Ident::new(OWNER)
    );
    client.batch_execute(&begin).await?;
    let none: [&str; 0] = [];
    // One row is enough, however many there are.
    let rows = client.query_raw(sql, none).await?;
    futures_util::pin_mut!(rows);
    match rows.try_next().await? {
        Some(row) => Ok(row.try_get(0)?),
        None => Ok(None),
    }
}
