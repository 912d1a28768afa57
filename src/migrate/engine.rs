//! One file in one transaction with its history row, in as few messages as the checks allow.
//!
//! refinery names, orders and fingerprints the files, and its history table is kept as it would, so that it reads what
//! we wrote. Its runner is not used: it opens three transactions for one file, makes its table each time and commits
//! before anybody could look at what the file left. This is the only file that names refinery.

use futures_util::future::join;
use refinery::Migration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::Client;

use super::edition::File;
use super::history::{self, ALL, Applied, HISTORY, Unread};
use super::session::{LOCK, Said, State, answers, the_row};
use crate::pg::literal;

/// refinery's checksum of a file: a hash over its name, version and text. A history row holds it in decimal.
///
/// # Errors
/// When refinery can't read the file's name.
pub(super) fn checksum(file_name: &str, sql: &str) -> Result<u64, String> {
    Migration::unapplied(file_name, sql).map(|m| m.checksum()).map_err(|e| e.to_string())
}

/// A transaction that has just been opened.
#[derive(Debug)]
pub(super) struct Begun {
    /// Whether the migration lock is ours.
    pub(super) locked: bool,
    /// Who logged in.
    pub(super) session_user: String,
    /// All that was applied, read under the lock.
    pub(super) history: Vec<Applied>,
}

/// Opens a transaction, pins the session, tries the lock and reads the history, in one message. BEGIN comes first: if
/// any of it fails, whatever is sent behind it is refused.
///
/// # Errors
/// When any of it fails; in a database without a history too. The transaction is to be rolled back then.
pub(super) async fn begin(client: &Client, pin: &str) -> Result<Begun, Unread> {
    let sql = format!("BEGIN; {pin}; SELECT pg_catalog.pg_try_advisory_lock({LOCK}), session_user; {ALL}");
    let answers = answers(client.simple_query(&sql).await?);
    let [.., found, rows] = answers.as_slice() else {
        return Err(Unread::Tampered("the history gave no answer".into()));
    };
    let Some(found) = found.first() else { return Err(Unread::Tampered("the lock gave no answer".into())) };
    Ok(Begun {
        locked: found.try_get(0)? == Some("t"),
        session_user: found.try_get(1)?.unwrap_or_default().to_owned(),
        history: history::rows(rows)?,
    })
}

/// What a file left in its transaction, which is still open.
#[derive(Debug)]
pub(super) struct Applying {
    pub(super) state: State,
    pub(super) history: Result<Vec<Applied>, Unread>,
}

/// Sends a file into the open transaction, and behind it its history row and the questions about what it left.
///
/// # Errors
/// The file's own error, or that of its deferred constraints or its row. The transaction is to be rolled back then.
pub(super) async fn apply(client: &Client, file: &File, owner: &str) -> Result<Applying, Said> {
    // By whoever the file left us as. What the file deferred is run before we look.
    let after =
        format!("SET CONSTRAINTS ALL IMMEDIATE; {}; {}; {ALL}", insert(file)?, State::question(owner));
    let (applied, after) = join(client.batch_execute(&file.sql), client.simple_query(&after)).await;
    applied?;
    let answers = answers(after.map_err(ours)?);
    Ok(Applying {
        state: State::read(the_row(answers.get(2))?)?,
        history: history::rows(answers.get(3).map_or(&[], Vec::as_slice)),
    })
}

/// Sends an inert file into the open transaction, and behind it its history row and COMMIT: there is nothing to ask.
/// If the file fails, what is sent behind it is refused.
///
/// # Errors
/// The file's own error, or that of its row. The transaction is to be rolled back then.
pub(super) async fn apply_inert(client: &Client, file: &File) -> Result<(), Said> {
    let after = format!("{}; COMMIT", insert(file)?);
    let (applied, after) = join(client.batch_execute(&file.sql), client.batch_execute(&after)).await;
    applied?;
    after.map_err(ours)
}

/// The statement that writes a file's row, as refinery does.
fn insert(file: &File) -> Result<String, Said> {
    let applied_on = OffsetDateTime::now_utc().format(&Rfc3339).map_err(|e| Said::ours(e.to_string()))?;
    Ok(format!(
        "INSERT INTO {HISTORY} (version, name, applied_on, checksum) VALUES ({}, {}, {}, {})",
        file.version,
        literal(&file.name),
        literal(&applied_on),
        literal(&file.checksum.to_string()),
    ))
}

/// An error whose position, if it has one, is in our own text and not the file's.
fn ours(error: tokio_postgres::Error) -> Said {
    Said { position: None, ..Said::from(error) }
}
