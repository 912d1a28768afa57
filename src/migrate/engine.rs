//! refinery: parses a migration's name, computes its checksum, applies it with its history row in one transaction.
//!
//! The only file that names refinery. It isn't trusted alone: names, history and locks are checked before it is
//! called, so that its silent skips and its panics can't be reached.

use refinery::{Migration, Runner};

use super::edition::File;
use super::history::HISTORY;
use super::session::Said;

/// refinery's checksum of a file: a hash over its name, version and text. A history row holds it in decimal.
///
/// # Errors
/// When refinery can't read the file's name.
pub(super) fn checksum(file_name: &str, sql: &str) -> Result<u64, String> {
    Migration::unapplied(file_name, sql).map(|m| m.checksum()).map_err(|e| e.to_string())
}

/// Applies the last of `files`; the others are the history that refinery expects to find.
pub(super) async fn apply(client: &mut tokio_postgres::Client, files: &[File]) -> Result<(), Said> {
    let migrations = files
        .iter()
        .map(|file| Migration::unapplied(&file.file_name(), &file.sql))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Said::ours(e.to_string()))?;
    let mut runner = Runner::new(&migrations);
    runner.set_migration_table_name(HISTORY);
    let report = runner.run_async(client).await.map_err(|e| said(&e))?;
    match report.applied_migrations().as_slice() {
        [one] if files.last().is_some_and(|file| file.version == one.version()) => Ok(()),
        other => Err(Said::ours(format!("one file was to be applied, refinery applied {other:?}"))),
    }
}

/// Finds the database's error under refinery's, because its SQLSTATE decides whether the file is tried again.
fn said(error: &refinery::Error) -> Said {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(database) = inner.downcast_ref::<tokio_postgres::Error>() {
            return database.into();
        }
        source = inner.source();
    }
    Said::ours(error.to_string())
}
