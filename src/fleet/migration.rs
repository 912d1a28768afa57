//! Migrating one of our databases: as its migrator, in a session that is closed behind it.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio::time::timeout;
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
        let migrated = self.migrate_and(server, database, known, edition, options, stop, nothing).await?;
        Ok(migrated.map(|(outcome, ())| outcome))
    }

    /// The same, and asks something of what it left before the session is closed.
    #[allow(clippy::too_many_arguments)]
    async fn migrate_and<T>(
        &self,
        server: &str,
        database: &str,
        known: i64,
        edition: &Edition,
        options: &Options,
        stop: &CancellationToken,
        then: impl AsyncFnOnce(&Migrator, &MigrationOutcome) -> T,
    ) -> Result<Result<(MigrationOutcome, T), MigrationFailure>, FleetError> {
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
            match timeout(PROOF, self.prove_by(migrator, (id, server), &after, Some(before))).await {
                Ok(proof) => proof.map_err(|error| error.to_string()),
                Err(_) => Err(format!("its database did not tell its schema within {} s", PROOF.as_secs())),
            }
        };
        let migrated =
            self.migrate_and(server, &database, lineage.version, edition, options, stop, prove).await?;
        Ok(migrated.map(|(outcome, proof)| ProvedMigration { outcome, proof }))
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
