//! The messages that end a request's transaction and leave the session as it was when it was opened.

/// What `DISCARD ALL` does, less what would cost us our prepared statements; it can't be sent itself, because behind
/// `COMMIT` in one message the server opens a transaction again, in which `DISCARD ALL` is refused.
///
/// - `SET SESSION AUTHORIZATION DEFAULT` and `RESET ROLE` first: `RESET ALL` leaves both alone.
/// - `RESET ALL` goes back to what the startup packet said, so to the tier's timeouts.
/// - `UNLISTEN *` holds from the end of the message on; what arrived before is skipped by the connection.
/// - `DISCARD TEMP` and the others cost nothing where there is nothing to discard.
///
/// Statements that a function made by `EXECUTE 'PREPARE …'` stay: see docs/security.md, "What stays in a session".
macro_rules! ending {
    ($end:literal) => {
        concat!(
            $end,
            "SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; ",
            "SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD SEQUENCES; DISCARD TEMP"
        )
    };
}

/// Commits and resets, as one Query message. Of a failed transaction the server makes a ROLLBACK, and says so in the
/// first command's tag. When COMMIT itself fails (a deferred constraint), nothing behind it has run, and [`RESET`] must
/// follow.
pub const COMMIT: &str = ending!("COMMIT; ");

/// Rolls back and resets, as one Query message.
pub const ROLLBACK: &str = ending!("ROLLBACK; ");

/// Resets where no transaction is open.
pub const RESET: &str = ending!("");
