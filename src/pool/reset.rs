//! How a request's transaction ends, and what leaves the session behind it as it was when it was opened.

use crate::pg::wire::{Command, Connection, Names, Step, WireError};

/// What ends the transaction in front of a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// What was changed lasts.
    Commit,
    /// It does not.
    Rollback,
    /// Nothing: no transaction is open.
    None,
}

/// Ends a read's transaction, and takes back whatever was set, become, declared or listened to in it.
pub const ROLLBACK: Command = Command::new("ROLLBACK", "ROLLBACK");
const COMMIT: Command = Command::new("COMMIT", "COMMIT");

/// What `DISCARD ALL` does, less what would cost us our prepared statements; it can't be sent itself, because behind a
/// COMMIT under the same Sync the server opens a transaction again, in which `DISCARD ALL` is refused.
///
/// - `SET SESSION AUTHORIZATION DEFAULT` and `RESET ROLE` first: `RESET ALL` leaves both alone.
/// - `RESET ALL` goes back to what the startup packet said, so to the tier's timeouts.
/// - `UNLISTEN *` holds from the Sync on; what arrived before is skipped by the connection.
/// - `DISCARD TEMP` and the others cost nothing where there is nothing to discard.
///
/// Statements that a function made by `EXECUTE 'PREPARE …'` stay: see docs/security.md, "What stays in a session".
const RESET: [Command; 7] = [
    Command::new("SET SESSION AUTHORIZATION DEFAULT", "SET"),
    Command::new("RESET ROLE", "RESET"),
    Command::new("RESET ALL", "RESET"),
    Command::new("CLOSE ALL", "CLOSE CURSOR ALL"),
    Command::new("UNLISTEN *", "UNLISTEN"),
    Command::new("DISCARD SEQUENCES", "DISCARD SEQUENCES"),
    Command::new("DISCARD TEMP", "DISCARD TEMP"),
];

/// Frees the session's advisory locks: those that the main query, which does so too, could not see, of deferred triggers.
const UNLOCK: Command = Command::new("SELECT pg_catalog.pg_advisory_unlock_all()", "SELECT 1");

/// Adds the end of the transaction and the reset behind it to the pipeline, under the Sync that follows. An error in front
/// of it skips it all. Gives the step of the COMMIT or ROLLBACK: with that done, what the request did is decided, and an
/// error behind it takes nothing back.
///
/// # Errors
/// As [`Connection::command`].
pub fn write_end(wire: &mut Connection, end: End, names: Names) -> Result<Option<Step>, WireError> {
    let step = match end {
        End::Commit => Some(wire.command(&COMMIT, names)?),
        End::Rollback => Some(wire.command(&ROLLBACK, names)?),
        End::None => None,
    };
    wire.command(&UNLOCK, names)?;
    for command in &RESET {
        wire.command(command, names)?;
    }
    Ok(step)
}

/// The same as one Query message, which needs no names: for sessions in which something failed.
pub fn end_batch(end: End) -> String {
    let first = match end {
        End::Commit => Some(&COMMIT),
        End::Rollback => Some(&ROLLBACK),
        End::None => None,
    };
    let resets = RESET.iter().map(|command| command.sql);
    first
        .map(|command| command.sql)
        .into_iter()
        .chain([UNLOCK.sql])
        .chain(resets)
        .collect::<Vec<_>>()
        .join("; ")
}
