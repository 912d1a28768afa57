//! What became of one database: the version it reached, and what stopped it.

/// A database that was migrated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationOutcome {
    /// The version found; 0 when nothing had been applied.
    pub before: i64,
    /// The version left.
    pub after: i64,
    /// The digest of the history that was left, as [`Edition::history_digest`](super::Edition::history_digest) has it.
    pub history: String,
    /// The versions applied by this call.
    pub applied: Vec<i64>,
    /// How often a file was tried again for want of a lock.
    pub lock_retries: u32,
}

/// What kept a database from reaching the target version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Other files were applied than the edition holds, or the history was tampered with.
    Divergent,
    /// The database is newer than the edition.
    Ahead,
    /// The edition has a new file below a version that was applied.
    OutOfOrder,
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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MigrationFailure {
    /// What kind of failure, for decisions.
    pub kind: FailureKind,
    /// What was wrong, where, what to do next.
    pub message: String,
    /// The newest version known to be applied; 0 when none, or when the history could not be read.
    pub reached: i64,
    /// The digest of the history up to `reached`.
    pub history: String,
    /// The versions applied by this call.
    pub applied: Vec<i64>,
    /// How often a file was tried again for want of a lock.
    pub lock_retries: u32,
}
