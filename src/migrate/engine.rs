//! One file in one transaction with its history row, and with the questions about what it left.
//!
//! The history table is kept as refinery would, so that it reads what we wrote. Its runner is not used: it opens three
//! transactions for one file, makes its table each time and commits before anybody could look at what the file left.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::Client;

use super::file::File;
use super::guard;
use super::history::{self, ALL, HISTORY, HistoryError, REPEATED, Rows};
use super::script::{self, Company};
use super::session::{LOCK, Roles, State, StatementError, answers, first_row};
use crate::pg::literal;

/// A transaction that has just been opened.
#[derive(Debug)]
pub(super) struct OpenTransaction {
    /// Whether the migration lock is ours.
    pub(super) locked: bool,
    /// Who logged in.
    pub(super) session_user: String,
    /// Whether the history's tables are its owner's; if not, [`guard::strangers`] says what is wrong with them.
    pub(super) taken_over: bool,
    /// All that was applied, read under the lock.
    pub(super) history: Rows,
}

/// Opens a transaction, pins the session, tries the lock and reads the history, in one message. BEGIN comes first: if
/// any of it fails, whatever is sent behind it is refused.
///
/// # Errors
/// When any of it fails; in a database without a history too. The transaction is to be rolled back then.
pub(super) async fn begin(
    client: &Client,
    roles: &Roles,
    pin: &str,
) -> Result<OpenTransaction, HistoryError> {
    let (writer, owner) = (roles.set_writer(), roles.set_owner());
    let sql = format!(
        "BEGIN; {pin}; {writer}; SELECT pg_catalog.pg_try_advisory_lock({LOCK}), session_user, ({}); {ALL}; {owner}",
        guard::taken_over(roles)
    );
    let answers = answers(client.simple_query(&sql).await?);
    let [.., found, rows, _] = answers.as_slice() else {
        return Err(HistoryError::Tampered("the history gave no answer".into()));
    };
    let Some(found) = found.first() else {
        return Err(HistoryError::Tampered("the lock gave no answer".into()));
    };
    Ok(OpenTransaction {
        locked: found.try_get(0)? == Some("t"),
        session_user: found.try_get(1)?.unwrap_or_default().to_owned(),
        taken_over: found.try_get(2)? == Some("t"),
        history: history::rows(rows)?,
    })
}

/// Opens the next file's transaction, pins the session and takes the lock once more, in one message: it can be had unless a
/// file released it, and another migrator came in between.
///
/// # Errors
/// When any of it fails. The transaction is to be rolled back then.
pub(super) async fn begin_next(client: &Client, pin: &str) -> Result<bool, StatementError> {
    let sql = format!("BEGIN; {pin}; SELECT pg_catalog.pg_try_advisory_lock({LOCK})");
    let answers = answers(client.simple_query(&sql).await?);
    Ok(first_row(answers.last())?.try_get(0)? == Some("t"))
}

/// What a file left in its transaction, which is still open.
#[derive(Debug)]
pub(super) struct FileEffects {
    pub(super) state: State,
    pub(super) history: Result<Rows, HistoryError>,
}

/// Runs a file in the open transaction, then asks what it left and writes its history row. `clamp` takes back what the
/// file raised of its timeouts.
///
/// # Errors
/// The file's own error, or that of its deferred constraints or its row. The transaction is to be rolled back then.
pub(super) async fn apply(
    client: &Client,
    file: &File,
    roles: &Roles,
    clamp: &str,
    company: &mut Company<'_, '_>,
) -> Result<FileEffects, StatementError> {
    script::run(client, file, clamp, company).await?;
    // Deferred constraints are checked before we look, and under the role that the file left.
    let after = format!(
        "SET CONSTRAINTS ALL IMMEDIATE; {}; {}; {}; {ALL}; {}",
        State::question(roles),
        roles.set_writer(),
        insert(file)?,
        roles.set_owner()
    );
    let after = client.simple_query(&after).await;
    company.said.take(None);
    let answers = answers(after.map_err(ours)?);
    Ok(FileEffects {
        state: State::read(first_row(answers.get(1))?)?,
        history: history::rows(answers.iter().rev().nth(1).map_or(&[], Vec::as_slice)),
    })
}

/// What writes a file's row, as refinery does; of a repeatable file, in place of the one from before; of a squashed one, the
/// rows of the files that it takes the place of.
fn insert(file: &File) -> Result<String, StatementError> {
    let applied_on =
        OffsetDateTime::now_utc().format(&Rfc3339).map_err(|e| StatementError::ours(e.to_string()))?;
    if file.is_repeatable() {
        let name = literal(&file.name);
        return Ok(format!(
            "DELETE FROM {REPEATED} WHERE name OPERATOR(pg_catalog.=) {name};
             INSERT INTO {REPEATED} (name, applied_on, checksum) VALUES ({name}, {}, {})",
            literal(&applied_on),
            literal(&file.checksum.to_string()),
        ));
    }
    let values = history::rows_of(file).into_iter().map(|row| {
        let (name, checksum) = (literal(&row.name), literal(&row.checksum.to_string()));
        format!("({}, {name}, {}, {checksum})", row.version, literal(&applied_on))
    });
    Ok(format!(
        "INSERT INTO {HISTORY} (version, name, applied_on, checksum) VALUES {}",
        values.collect::<Vec<_>>().join(", ")
    ))
}

/// An error whose position, if it has one, is in our own text and not the file's.
fn ours(error: tokio_postgres::Error) -> StatementError {
    StatementError { position: None, ..StatementError::from(error) }
}
