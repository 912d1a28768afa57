//! What became of one database: the version it reached, what its files said, and what stopped it and where.

use serde::{Deserialize, Serialize};

use super::place::Place;
use super::reply::{Notice, ServerError};

/// A database that was migrated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationOutcome {
    /// The version found; 0 when nothing had been applied.
    pub before: i64,
    /// The version left.
    pub after: i64,
    /// The digest of the history that was left, as [`Edition::history_digest`](super::Edition::history_digest) has it.
    pub history: String,
    /// The versions applied by this call.
    pub applied: Vec<i64>,
    /// The repeatable files run by this call, by name.
    #[serde(default)]
    pub repeated: Vec<String>,
    /// How often a file was tried again for want of a lock.
    pub lock_retries: u32,
    /// What the files said, the first hundred.
    #[serde(default)]
    pub notices: Vec<Notice>,
}

/// What kept a database from reaching the target version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Other files were applied than the edition holds, or the history was tampered with.
    Divergent,
    /// The database is newer than the edition.
    Ahead,
    /// The edition has a new file below a version that was applied.
    OutOfOrder,
    /// It lacks files that a squashed one took the place of, and that are not here. Nothing was applied.
    Replaced,
    /// The tables of the history lack what this version of manybox keeps in them. Nothing was applied.
    Outdated,
    /// Another migrator had the database all the time.
    Busy,
    /// The database's traffic kept a lock in every try; trying later may help.
    Lock,
    /// A file's statement failed; the file was rolled back.
    Sql,
    /// Something doesn't belong to the owner, or the login can't become it.
    Owner,
    /// A file changed the session, the transaction or the history behind our back. It was rolled back if it ran in a
    /// transaction and did not end that.
    Session,
    /// It was told to stop. What ran was cancelled and rolled back.
    Stopped,
    /// The connection broke. The file at hand may have been applied: the next call finds out.
    Connection,
}

/// A database that did not reach the target version. What was applied before stays applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct MigrationFailure {
    /// What kind of failure, for decisions.
    pub kind: FailureKind,
    /// What was wrong, where, what to do next; all of it in one sentence, with what the server said.
    pub message: String,
    /// Where in the edition's files; `None` when no file is at fault.
    #[serde(default)]
    pub place: Option<Place>,
    /// What the server said; `None` when it was not the server that refused.
    #[serde(default)]
    pub server: Option<ServerError>,
    /// What the files said before, the first hundred.
    #[serde(default)]
    pub notices: Vec<Notice>,
    /// The newest version known to be applied; 0 when none, or when the history could not be read.
    pub reached: i64,
    /// The digest of the history up to `reached`.
    pub history: String,
    /// The versions applied by this call.
    pub applied: Vec<i64>,
    /// The repeatable files run by this call, by name.
    #[serde(default)]
    pub repeated: Vec<String>,
    /// How often a file was tried again for want of a lock.
    pub lock_retries: u32,
}

impl MigrationFailure {
    /// One that is told to stop before anything is known of the database.
    pub fn stopped(message: String) -> Self {
        Self {
            kind: FailureKind::Stopped,
            message,
            place: None,
            server: None,
            notices: Vec::new(),
            reached: 0,
            history: String::new(),
            applied: Vec::new(),
            repeated: Vec::new(),
            lock_retries: 0,
        }
    }
}
