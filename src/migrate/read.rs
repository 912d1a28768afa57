//! `History`: what was applied to a database, by its own word, for whoever compares or repairs it.

use tokio_postgres::Client;

use super::history::{self, Disagreement, HistoryError, Rows};
use super::session::Roles;
use super::{Edition, File, guard};
use crate::pg;
use crate::tenant::Lineage;

/// What was applied to a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History(pub(super) Rows);

/// Why a history can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The server refused, or the connection broke.
    #[error(transparent)]
    Server(#[from] pg::Error),
    /// It has what manybox did not write.
    #[error("{0}")]
    Tampered(String),
}

impl From<tokio_postgres::Error> for ReadError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error.into())
    }
}

impl From<HistoryError> for ReadError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Database(error) => Self::Server(error),
            HistoryError::Tampered(why) => Self::Tampered(why),
        }
    }
}

impl History {
    /// Reads it, in a session that may become the history's writer, and leaves the session as that role.
    ///
    /// # Errors
    /// When the server refuses, or the history's tables have what manybox did not make.
    pub async fn read(client: &Client, roles: &Roles) -> Result<Self, ReadError> {
        client.batch_execute("SET search_path = pg_catalog, pg_temp").await?;
        client.batch_execute(&roles.set_writer()).await?;
        let strangers = guard::strangers(client, roles).await?;
        if !strangers.is_empty() {
            return Err(ReadError::Tampered(format!(
                "the schema `manybox` has what manybox did not make: {}; run `manybox init`",
                strangers.join("; ")
            )));
        }
        Ok(Self(history::read(client).await?.0))
    }

    /// The lineage of a database that has it.
    pub fn lineage(&self, edition: &str) -> Lineage {
        Lineage { edition: edition.to_owned(), version: self.0.newest(), history: self.0.digest() }
    }

    /// The digest of its files with a version.
    pub fn versions_digest(&self) -> String {
        history::digest_of(&self.0.versions)
    }

    /// The versions of files that it lacks below its newest, when that is all by which it differs from an edition's files.
    pub fn gaps(&self, edition: &Edition) -> Option<Vec<i64>> {
        let pending = history::pending(edition, &self.0.versions, true).ok()?;
        let newest = self.0.newest();
        let below: Vec<_> =
            pending.iter().map(|file| file.version).filter(|version| *version < newest).collect();
        (!below.is_empty()).then_some(below)
    }

    /// The names of an edition's repeatable files that it lacks, or has otherwise than they are now.
    pub fn repeats(&self, edition: &Edition) -> Vec<String> {
        history::to_repeat(edition, &self.0.repeatables).into_iter().map(File::file_name).collect()
    }

    /// Where an edition's files differ from it first, in words; `None` when they begin as it does.
    pub fn disagreement(&self, edition: &Edition) -> Option<String> {
        history::pending(edition, &self.0.versions, false).err().map(|disagreement| match disagreement {
            Disagreement::Divergent(why) | Disagreement::Ahead(why) | Disagreement::OutOfOrder(why) => why,
        })
    }
}
