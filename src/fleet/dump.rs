//! Dump: a database through `pg_dump` and `pg_restore`, each by a login that reaches that database alone.

mod content;
mod history;
mod program;
mod snapshot;

use super::{FleetError, FleetServer};
use crate::migrate::{self, Facts};

pub(super) use content::Content;
pub use history::HistoryRows;
pub(super) use program::{beginning, dump, finished, restore};
pub(super) use snapshot::Snapshot;

/// What the schema of a database is, asked by the admin.
pub(super) async fn facts_of(server: &FleetServer, database: &str) -> Result<Facts, FleetError> {
    let client = server.connect_admin_inside(database).await?;
    let facts = migrate::facts(&client).await;
    client.close().await;
    facts.map_err(|source| FleetError::Fingerprint { database: database.to_owned(), source })
}
