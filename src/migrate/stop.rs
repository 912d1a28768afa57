//! `Stop`: why a migration goes no further, in words, with where it stopped.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::file::File;
use super::history::{self, HistoryError};
use super::outcome::FailureKind;
use super::place::Place;
use super::reply::ServerError;
use super::session::StatementError;

/// A failure, before it is told which version was reached.
pub(super) struct Stop {
    pub(super) kind: FailureKind,
    pub(super) message: String,
    pub(super) place: Option<Box<Place>>,
    pub(super) server: Option<Box<ServerError>>,
}

impl Stop {
    pub(super) fn new(kind: FailureKind, message: String) -> Self {
        Self { kind, message, place: None, server: None }
    }

    /// At a file, and no statement of it.
    pub(super) fn at(file: &File, kind: FailureKind, message: String) -> Self {
        Self { place: Some(Box::new(Place::file(file))), ..Self::new(kind, message) }
    }

    /// With where and why a statement failed.
    pub(super) fn because(kind: FailureKind, message: String, error: StatementError) -> Self {
        Self { kind, message, place: error.place, server: error.server }
    }
}

impl From<StatementError> for Stop {
    fn from(error: StatementError) -> Self {
        let kind = if error.lost { FailureKind::Connection } else { FailureKind::Sql };
        Self::because(kind, error.text.clone(), error)
    }
}

pub(super) fn unread(why: HistoryError) -> Stop {
    match why {
        HistoryError::Database(error) => StatementError::from(error).into(),
        HistoryError::Tampered(error) => Stop::new(FailureKind::Divergent, error),
    }
}

pub(super) fn busy(waited: Duration) -> Stop {
    let message = format!(
        "another session has held the database's migration lock for {}: see pg_locks there, and try again later",
        humantime::format_duration(waited)
    );
    Stop::new(FailureKind::Busy, message)
}

pub(super) fn stopped(place: Option<&Place>) -> String {
    let at = place.map(|place| format!(" at {place}")).unwrap_or_default();
    format!("was stopped{at}: what ran was cancelled, and the files before it stand; run it again to go on")
}

pub(super) fn tampered(file: &File) -> Stop {
    let message =
        format!("{} changed the history of migrations: restore {}", file.file_name(), history::HISTORY);
    Stop::at(file, FailureKind::Session, message)
}

/// Words a file's error, with where it happened.
pub(super) fn failed(file: &File, mut error: StatementError) -> Stop {
    let place = error.place.get_or_insert_with(|| Box::new(Place::file(file))).clone();
    if error.lost {
        let message = format!("{place}: {error}; whether it was applied shows at the next run");
        return Stop::because(FailureKind::Connection, message, error);
    }
    if error.code == Some(SqlState::INSUFFICIENT_PRIVILEGE)
        && (error.text.contains("schema_history") || error.text.contains("schema manybox"))
    {
        let message = format!(
            "{place} would have changed the history of migrations, which is not the owner's: {error}"
        );
        return Stop::because(FailureKind::Owner, message, error);
    }
    let statement = place.statement.map(|number| format!("; in statement {number}")).unwrap_or_default();
    let text = place.text.as_deref().map(|text| format!(": {}", one_line(text))).unwrap_or_default();
    let message = format!("{place}: {error}{statement}{text}");
    Stop::because(FailureKind::Sql, message, error)
}

/// A text with every run of spaces and line ends as one space.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn not_the_owners((object, whose): &(String, String), when: &str, owner: &str) -> Stop {
    let message = format!(
        "{when} {object} belongs to `{whose}`: all of a tenant's objects belong to `{owner}`, alter its owner or \
         drop it"
    );
    Stop::new(FailureKind::Owner, message)
}
