//! The messages that end a request's transaction and leave the session as it was when it was opened.

/// What `DISCARD ALL` does, less what would cost us our prepared statements; it can't be sent itself, because behind
/// `COMMIT` in one message the server opens a transaction again, in which `DISCARD ALL` is refused.
///
/// - `SET SESSION AUTHORIZATION DEFAULT` and `RESET ROLE` first: `RESET ALL` leaves both alone.
/// - `RESET ALL` goes back to what the startup packet said, so to the tier's timeouts.
/// - `UNLISTEN *` holds from the end of the message on; what arrived before is thrown away by the connection's task.
/// - `DISCARD TEMP` and the others cost nothing where there is nothing to discard.
///
/// Statements that a function made by `EXECUTE 'PREPARE …'` stay. Such a name may be one of ours (`s17`): our own
/// Parse then fails with 42P05, and works under the next number. A function could also deallocate ours, which we then
/// prepare again, and put another text in its place; we would run it. That gives nobody a right: whoever can have any
/// text executed can as well have `SET ROLE`, to every API role of his tenant, which are all that the login may become.
/// To look for such statements (`pg_prepared_statements.from_sql`) lists all of them, at each request; `DEALLOCATE ALL`
/// costs a round trip at the next one.
macro_rules! ending {
    ($end:literal) => {
        concat!(
            $end,
            "SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; ",
            "SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD SEQUENCES; DISCARD TEMP"
        )
    };
}

/// Commits and resets. Sent as one simple query; when it fails (a deferred constraint does at `COMMIT`), nothing
/// behind the `COMMIT` has run, and [`ROLLBACK`] must follow before the checkout is clean.
pub const COMMIT: &str = ending!("COMMIT; ");

/// The same for a READ ONLY transaction whose last query has called `pg_advisory_unlock_all()` itself.
///
/// Such a transaction can't have made temporary tables or used sequences (PostgreSQL's manual, SET TRANSACTION: all
/// CREATE commands, and `nextval`, are refused), can't have become READ WRITE after its first query, and has no
/// triggers that run at its end. So the reset may stand before the COMMIT, which spares a transaction of its own and
/// makes it nearly free; and in a failed transaction the message fails, where COMMIT alone would report success.
/// A superuser's login, which an adopted tenant has only against a warning, could keep another session user until the
/// next full reset; plain reads reset nothing.
pub const READ_COMMIT: &str = "RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; COMMIT";

/// Rolls back and resets. Outside a transaction its first step only warns, so it may always be sent.
pub const ROLLBACK: &str = ending!("ROLLBACK; ");

/// Resets where no transaction is open, and so nothing is to be rolled back.
pub const RESET: &str = ending!("");
