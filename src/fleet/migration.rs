//! Migrating one of our databases: as its migrator, in a session that is closed behind it.

use super::{Doing, Fleet, FleetError, rights, roles};
use crate::migrate::{self, Edition, MigrationFailure, MigrationOutcome, Options};

impl Fleet {
    /// Applies what a database lacks of an edition. `known` is the version that it had when last heard of.
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
    ) -> Result<Result<MigrationOutcome, MigrationFailure>, FleetError> {
        if i32::try_from(known).is_ok() && i32::try_from(edition.latest()).is_err() {
            self.widen_history(server, database, edition.latest()).await?;
        }
        let mut migrator = self.migrator(server, database).await?;
        let outcome = migrate::migrate(&mut migrator, edition, options).await;
        if let Err(error) = self.close_migrator(server, migrator).await {
            // What was applied stands. The next use of the login closes it, and so does `manybox init`.
            tracing::warn!(database, %error, "the migrator of {database} stays open");
        }
        Ok(outcome)
    }

    /// Gives the history of a database room for versions that its edition did not have before. Its migrator may not: the
    /// tables aren't its own.
    async fn widen_history(&self, server: &str, database: &str, newest: i64) -> Result<(), FleetError> {
        let mut admin = self.servers.get(server)?.connect_admin_inside(database).await?;
        let taken = migrate::take_over_history(&mut admin, &roles::of_tenants(), newest).await;
        admin.close().await;
        let taken = taken.doing(|| format!("widening the history of database `{database}`"))?;
        rights::all_taken(database, taken).map(drop)
    }
}
