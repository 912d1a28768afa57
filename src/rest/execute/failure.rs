//! Why a job has no outcome, and whether it may do better once more.

use tokio_postgres::error::SqlState;

use super::super::error::{Error, is_stale, within_function};

/// Why there is no outcome.
#[derive(Debug)]
pub(in crate::rest) enum Failure {
    /// PostgreSQL refused, or the connection broke.
    Postgres(tokio_postgres::Error),
    /// PostgreSQL refused a statement that was prepared for an earlier request.
    Remembered(tokio_postgres::Error),
    /// PostgreSQL refused a plain reading. Somebody's code that the schema doesn't know of may have missed the settings.
    Plain {
        error: tokio_postgres::Error,
        /// It ran under the role that the session had already.
        kept: bool,
    },
    /// A plain reading was not plain, so what it gave is not used.
    Changed,
    /// The outcome was not what was expected; nothing was changed.
    Refused(Error),
}

impl Failure {
    /// Whether our SQL may have been made from a schema that is not the database's any more. What a function
    /// raises has a context; that is the function's error, and the same again next time.
    pub(in crate::rest) fn is_stale(&self) -> bool {
        matches!(self, Self::Changed)
            || self.error().is_some_and(|error| {
                is_stale(error.code()) && error.as_db_error().is_some_and(|db| db.where_().is_none())
            })
    }

    /// Whether the same reading may do better with all settings. Not when a time limit ended it or the server is in
    /// trouble, nor when the role lacks a right, which no setting gives; but a role that the session has kept may have
    /// been dropped, and another made of that name.
    pub(in crate::rest) fn wants_settings(&self) -> bool {
        let Self::Plain { error, kept } = self else { return matches!(self, Self::Changed) };
        let code = error.code();
        code.is_some_and(|code| !["08", "53", "57", "58"].iter().any(|class| code.code().starts_with(class)))
            && (*kept
                || code != Some(&SqlState::INSUFFICIENT_PRIVILEGE)
                || error.as_db_error().is_some_and(within_function))
    }

    /// Whether a value was refused, and so the statement is not at fault: the types of a plain reading's columns are its
    /// own, so that it is refused itself when one changes.
    pub(super) fn is_of_a_value(&self) -> bool {
        self.error().and_then(tokio_postgres::Error::code).is_some_and(|code| code.code().starts_with("22"))
    }

    fn error(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Postgres(error) | Self::Remembered(error) | Self::Plain { error, .. } => Some(error),
            Self::Changed | Self::Refused(_) => None,
        }
    }

    /// Whether a prepared statement may be at fault, and a fresh one not: it keeps the types that its values had when
    /// it was prepared, so after a column's type changed it compares with the old one, or refuses what fits the new.
    pub(in crate::rest) fn is_remembered(&self) -> bool {
        let Self::Remembered(error) = self else { return false };
        let kept = [
            SqlState::INVALID_TEXT_REPRESENTATION,
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            SqlState::INVALID_DATETIME_FORMAT,
        ];
        (is_stale(error.code()) || error.code().is_some_and(|code| kept.contains(code)))
            && error.as_db_error().is_some_and(|db| !within_function(db))
    }

    /// Whether two transactions waited for each other and this one was chosen to give way: all that it did is undone.
    pub(in crate::rest) fn is_deadlock(&self) -> bool {
        self.error().is_some_and(|error| error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED))
    }

    pub(super) fn of(error: tokio_postgres::Error, remembered: bool) -> Self {
        if remembered { Self::Remembered(error) } else { Self::Postgres(error) }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}
