//! `Activity`: what a migration is doing now, for whoever shows it or looks for what it waits for.

use std::fmt;

use serde::Serialize;

use super::place::{Piece, Place};

/// What a migration is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "activity")]
pub enum Activity {
    /// It connects, and compares the history with the edition.
    #[default]
    Beginning,
    /// It waits for another migrator of the same database.
    Waiting {
        /// Which, since when, from where.
        holder: String,
    },
    /// A statement runs.
    Applying {
        /// Which.
        place: Place,
        /// How many the file has.
        of: usize,
        /// How often the file could not have a lock.
        tries: u32,
    },
    /// It cleans up behind a statement that failed outside a transaction.
    CleaningUp,
}

impl Activity {
    pub(super) fn applying(piece: &Piece<'_>, tries: u32) -> Self {
        Self::Applying { place: piece.place(None), of: piece.of, tries }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beginning => f.write_str("connecting"),
            Self::Waiting { holder } => write!(f, "waiting for another migrator: {holder}"),
            Self::Applying { place, of, tries } => {
                write!(f, "{place}, statement {} of {of}", place.statement.unwrap_or(1))?;
                if *tries > 0 {
                    write!(f, ", try {} for its lock", tries + 1)?;
                }
                Ok(())
            }
            Self::CleaningUp => f.write_str("cleaning up"),
        }
    }
}
