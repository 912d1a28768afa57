//! What the server says besides rows: errors and notices, with a bound on each, for a tenant's code may write them.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio_postgres::error::DbError;

use super::place::Place;
use crate::pg;

/// Bytes kept of each part of an error.
const KEPT: usize = 2_000;
/// Notices kept of one migration.
const NOTICES: usize = 100;

/// An error of the server. Each part has at most 2,000 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerError {
    /// The SQLSTATE.
    pub sqlstate: String,
    /// What it says.
    pub message: String,
    /// DETAIL
    #[serde(default)]
    pub detail: Option<String>,
    /// HINT
    #[serde(default)]
    pub hint: Option<String>,
    /// CONTEXT: the calls that led there.
    #[serde(default)]
    pub context: Option<String>,
    /// The schema of what it is about.
    #[serde(default)]
    pub schema: Option<String>,
    /// The table that it is about.
    #[serde(default)]
    pub table: Option<String>,
    /// The column that it is about.
    #[serde(default)]
    pub column: Option<String>,
    /// The constraint that it is about.
    #[serde(default)]
    pub constraint: Option<String>,
}

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> Self {
        let kept = |text: Option<&str>| text.map(|text| pg::shortened(text, KEPT));
        Self {
            sqlstate: error.code().code().to_owned(),
            message: pg::shortened(error.message(), KEPT),
            detail: kept(error.detail()),
            hint: kept(error.hint()),
            context: kept(error.where_()),
            schema: kept(error.schema()),
            table: kept(error.table()),
            column: kept(error.column()),
            constraint: kept(error.constraint()),
        }
    }
}

impl fmt::Display for ServerError {
    /// In one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.sqlstate)?;
        let parts = [("detail", &self.detail), ("hint", &self.hint), ("context", &self.context)];
        for (name, part) in parts {
            if let Some(text) = part {
                write!(f, "; {name}: {}", text.trim_end_matches('.').replace('\n', " / "))?;
            }
        }
        Ok(())
    }
}

/// What a file's statement said: `RAISE NOTICE` and the like, or the server of its own accord.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The file.
    pub file: String,
    /// The line that the statement begins on, from 1; `None` when no single one said it.
    #[serde(default)]
    pub line: Option<u64>,
    /// `NOTICE`, `WARNING`, …
    pub severity: String,
    /// What it said, at most 1,000 bytes.
    pub message: String,
    /// DETAIL
    #[serde(default)]
    pub detail: Option<String>,
    /// HINT
    #[serde(default)]
    pub hint: Option<String>,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))?;
        write!(f, ": {}: {}", self.severity, self.message)
    }
}

/// The notices of a migration so far, and where further ones come from.
pub(super) struct Collected<'n> {
    from: &'n mut pg::Notices,
    pub(super) notices: Vec<Notice>,
}

impl<'n> Collected<'n> {
    /// What came before is nobody's.
    pub(super) fn new(from: &'n mut pg::Notices) -> Self {
        while from.take().is_some() {}
        Self { from, notices: Vec::new() }
    }

    /// Takes what has come, as said at this place; `None` for what our own statements caused.
    pub(super) fn take(&mut self, place: Option<&Place>) {
        while let Some(pg::Notice { severity, message, detail, hint }) = self.from.take() {
            if let Some(place) = place
                && self.notices.len() < NOTICES
            {
                let (file, line) = (place.file.clone(), place.line);
                self.notices.push(Notice { file, line, severity, message, detail, hint });
            }
        }
    }
}
