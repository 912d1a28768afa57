//! Why a job has no outcome, and what would help.

use tokio_postgres::error::SqlState;

use super::super::error::{Error, is_stale};
use super::{Phase, Refusal, WireError};

/// Why there is no outcome.
#[derive(Debug)]
pub(in crate::rest) enum Failure {
    /// PostgreSQL refused a statement; all that the transaction did is undone.
    Refused(Refusal),
    /// The connection broke, or was of no more use.
    Broken(WireError),
    /// The answer is longer than the tier's `max_answer`.
    TooLong,
    /// The plan can't be made, or the outcome was not what was expected; nothing was changed.
    Unexpected(Error),
}

/// What may help, of a request whose transaction was undone. It is sent once more at most, and then with statements
/// prepared anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rest) enum Remedy {
    /// Nothing: the same would come of it.
    Nothing,
    /// The same again.
    Again,
    /// The same in a session that is newer than this one.
    Session,
    /// The same in a new session, on another host where there is one.
    Elsewhere,
    /// The same with the schema as it is now, if that is another one.
    Schema,
    /// The same with the schema as it is now, be it another one or not.
    SchemaOrAgain,
}

/// The one place that decides whether a request is sent again.
pub(in crate::rest) fn remedy(failure: &Failure) -> Remedy {
    let refusal = match failure {
        Failure::Refused(refusal) => refusal,
        // Names that the schema does not have may have been made a moment ago.
        Failure::Unexpected(error) if error.is_missing_from_schema() => return Remedy::Schema,
        Failure::Unexpected(_) | Failure::Broken(_) | Failure::TooLong => return Remedy::Nothing,
    };
    let stale = is_stale(&refusal.error.code) && !refusal.error.is_of_a_function();
    match (stale, refusal.remembered) {
        _ if failure.is_of_a_standby() => Remedy::Elsewhere,
        _ if failure.is_of_a_name() => Remedy::Again,
        _ if failure.is_of_a_session() => Remedy::Session,
        (true, true) => Remedy::SchemaOrAgain,
        (true, false) => Remedy::Schema,
        (false, true) if failure.is_of_a_text() => Remedy::Again,
        // Two transactions waited for each other, and this one was chosen to give way.
        _ if refusal.error.code == SqlState::T_R_DEADLOCK_DETECTED => Remedy::Again,
        // Something that the statement found by its name was dropped before it was used ("cache lookup failed"): functions and
        // types are not locked. Looked for again, it is there anew, or missed by its name.
        _ if refusal.error.code == SqlState::INTERNAL_ERROR => Remedy::Again,
        _ => Remedy::Nothing,
    }
}

impl Failure {
    /// Whether a name under which a statement was kept is gone, or was given to another: by a function, for nobody else
    /// names statements in this session. BEGIN and ROLLBACK do not fail by themselves: what failed was put in their place.
    pub(super) fn is_of_a_name(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        let of_ours = refusal.command.is_some_and(|command| matches!(command.tag, "BEGIN" | "ROLLBACK"));
        match refusal.phase {
            // The server ends the session, for reasons of its own.
            _ if refusal.error.is_fatal() => false,
            _ if of_ours && refusal.remembered => true,
            Phase::Parse => refusal.error.code == SqlState::DUPLICATE_PSTATEMENT,
            Phase::Bind => refusal.error.code == SqlState::INVALID_SQL_STATEMENT_NAME,
            _ => false,
        }
    }

    /// Whether the server is a standby, or was made one: it refused to begin a transaction that may write. BEGIN fails by
    /// nothing else, and one that was sent for this request is nobody else's: with a kept one's name, a function could pretend.
    pub(in crate::rest) fn is_of_a_standby(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        let begins = refusal.command.is_some_and(|command| command.tag == "BEGIN");
        begins
            && !refusal.remembered
            && !refusal.error.is_fatal()
            && refusal.phase == Phase::Execute
            && refusal.error.code == SqlState::FEATURE_NOT_SUPPORTED
    }

    /// Whether a statement that was prepared for an earlier request may be at fault, and a new one not: it keeps the
    /// types that its values had then, so after a column's type changed it compares with the old one, or refuses what
    /// fits the new.
    pub(super) fn is_of_a_text(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        let of_a_type = [
            SqlState::INVALID_TEXT_REPRESENTATION,
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            SqlState::INVALID_DATETIME_FORMAT,
        ];
        refusal.remembered
            && (is_stale(&refusal.error.code) || of_a_type.contains(&refusal.error.code))
            && !refusal.error.is_of_a_function()
    }
}

impl Failure {
    /// Whether a function may have failed by what its session remembers of it. PL/pgSQL keeps types for as long as the
    /// session lasts, so that after a column's type was changed, or a type made anew, a function that was called before
    /// fails in that session for ever. A new session has none of it.
    ///
    /// It may as well have raised that itself: then it is run twice, and nothing else comes of it.
    fn is_of_a_session(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        let of_types =
            [SqlState::DATATYPE_MISMATCH, SqlState::FEATURE_NOT_SUPPORTED, SqlState::INTERNAL_ERROR];
        !refusal.error.is_fatal()
            && of_types.contains(&refusal.error.code)
            && refusal.error.is_of_a_function()
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Broken(error)
    }
}
