//! What was applied to a database: making and reading its tables, and whether an edition agrees with it.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryRow};

use super::edition::Edition;
use super::file::{self, File, digest};
use super::file_name::REPEATABLE;
use super::session::answers;
use crate::pg;
use crate::tenant::Lineage;

/// refinery's table, in a schema that no API exposes and that is not the tenants' owner's.
pub(super) const HISTORY: &str = "manybox.schema_history";
/// Files outside transactions that were begun and not recorded yet.
pub(super) const UNFINISHED: &str = "manybox.schema_unfinished";
/// Repeatable files, as they were when they were run last.
pub(super) const REPEATED: &str = "manybox.schema_repeatable";
/// Asks for the whole history, repeatable files with version 0; [`rows`] reads the answer, and puts it in order: planned in a
/// fresh session, that is cheaper than the server's.
pub(super) const ALL: &str = "SELECT version, name, checksum, applied_on FROM manybox.schema_history
                              UNION ALL SELECT 0, name, checksum, applied_on FROM manybox.schema_repeatable";
/// The same of a database that an older manybox made.
const OLDER: &str = "SELECT version, name, checksum, applied_on FROM manybox.schema_history";

/// One row of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) version: i64,
    pub(super) name: String,
    pub(super) checksum: u64,
}

/// All that was applied to a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rows {
    /// In order of version.
    pub(super) versions: Vec<Applied>,
    /// Repeatable files, in order of their names.
    pub(super) repeatables: Vec<Applied>,
}

impl Rows {
    /// The newest version; 0 for none.
    pub(super) fn newest(&self) -> i64 {
        self.versions.last().map_or(0, |row| row.version)
    }

    /// As [`Edition::history_digest`] has it.
    pub(super) fn digest(&self) -> String {
        file::history(&digest_of(&self.versions), &digest_of(&self.repeatables))
    }

    /// The same with a file's row.
    pub(super) fn with(&self, file: &File) -> Self {
        let mut rows = self.clone();
        for row in rows_of(file) {
            if file.is_repeatable() {
                rows.repeatables.retain(|repeated| repeated.name != row.name);
                rows.repeatables.insert(rows.repeatables.partition_point(|r| r.name < row.name), row);
            } else {
                rows.versions.insert(rows.versions.partition_point(|r| r.version < row.version), row);
            }
        }
        rows
    }
}

/// How a database's history differs from an edition; the sentence says where first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Disagreement {
    /// Something else was applied than the edition holds.
    Divergent(String),
    /// Newer versions were applied than the edition holds.
    Ahead(String),
    /// The edition has a file below a version that was already applied.
    OutOfOrder(String),
}

pub(super) fn digest_of(rows: &[Applied]) -> String {
    digest(rows.iter().map(|row| (row.version, row.name.as_str(), row.checksum)))
}

/// Why the history can't be had.
#[derive(Debug)]
pub(super) enum HistoryError {
    Database(pg::Error),
    /// A row that refinery can't have written; refinery itself would panic on it.
    Tampered(String),
}

impl From<tokio_postgres::Error> for HistoryError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Reads the history; empty when there is no table. Whether the tables are those of an older manybox, without room for
/// repeatable files.
pub(super) async fn read(client: &Client) -> Result<(Rows, bool), HistoryError> {
    let exists = "SELECT pg_catalog.to_regclass($1) IS NOT NULL, pg_catalog.to_regclass($2) IS NOT NULL";
    let there = client.query_typed(exists, &[(&HISTORY, Type::TEXT), (&REPEATED, Type::TEXT)]).await?;
    let Some(row) = there.first() else { return Ok((Rows::default(), false)) };
    match (row.try_get(0)?, row.try_get(1)?) {
        (false, _) => Ok((Rows::default(), false)),
        (true, true) => Ok((read_known(client).await?, false)),
        (true, false) => Ok((ask(client, OLDER).await?, true)),
    }
}

/// The same where the history is known to be there.
pub(super) async fn read_known(client: &Client) -> Result<Rows, HistoryError> {
    ask(client, ALL).await
}

async fn ask(client: &Client, all: &str) -> Result<Rows, HistoryError> {
    rows(answers(client.simple_query(all).await?).first().map_or(&[], Vec::as_slice))
}

/// Reads the rows that [`ALL`] gave.
pub(super) fn rows(rows: &[SimpleQueryRow]) -> Result<Rows, HistoryError> {
    let mut applied = Vec::with_capacity(rows.len());
    for row in rows {
        let (version, name) = (row.try_get(0)?.unwrap_or_default(), row.try_get(1)?);
        let (checksum, applied_on) = (row.try_get(2)?, row.try_get(3)?);
        let dated = applied_on.is_some_and(|text| OffsetDateTime::parse(text, &Rfc3339).is_ok());
        match (version.parse(), name, checksum.map(str::parse)) {
            (Ok(version), Some(name), Some(Ok(checksum))) if dated => {
                applied.push(Applied { version, name: name.to_owned(), checksum });
            }
            _ => {
                return Err(HistoryError::Tampered(format!(
                    "row {version} of {HISTORY} was not written by a migration (checksum {}): compare the \
                     database with a sound one and restore the row",
                    checksum.unwrap_or("missing")
                )));
            }
        }
    }
    applied.sort_by(|a, b| (a.version, &a.name).cmp(&(b.version, &b.name)));
    let versions = applied.split_off(applied.partition_point(|row| row.version <= REPEATABLE));
    Ok(Rows { versions, repeatables: applied })
}

/// What schema the database behind `client` has, by its own history. Needs the rights of the history's writer.
///
/// # Errors
/// When the connection fails or the role may not read the history. A tampered row gives a lineage that no edition
/// has, so that it shows as divergent.
pub async fn lineage(client: &Client, edition: &str) -> Result<Lineage, pg::Error> {
    let edition = edition.to_owned();
    match read(client).await {
        Ok((rows, _)) => Ok(Lineage { edition, version: rows.newest(), history: rows.digest() }),
        Err(HistoryError::Tampered(_)) => Ok(Lineage { edition, version: 0, history: "tampered".to_owned() }),
        Err(HistoryError::Database(error)) => Err(error),
    }
}

/// Checks that what was applied is the edition's, and gives the files that were not, in order. Those below an applied
/// version are among them where `out_of_order` allows it; otherwise they are a disagreement.
pub(super) fn pending<'e>(
    edition: &'e Edition,
    applied: &[Applied],
    out_of_order: bool,
) -> Result<Vec<&'e File>, Disagreement> {
    let (mut files, mut pending) = (edition.files.iter().peekable(), Vec::new());
    for row in applied {
        while let Some(file) = files.next_if(|file| file.version < row.version) {
            if !out_of_order {
                return Err(Disagreement::OutOfOrder(format!(
                    "{} was never applied, while V{}__{} was: give the file a version over {}",
                    file.file_name(),
                    row.version,
                    row.name,
                    edition.latest()
                )));
            }
            pending.push(file);
        }
        let Some(file) = files.next_if(|file| file.version == row.version) else {
            return Err(if files.peek().is_none() {
                Disagreement::Ahead(format!(
                    "V{}__{} is applied, while edition `{}` ends at {}: use the newer edition's files",
                    row.version,
                    row.name,
                    edition.name,
                    edition.latest()
                ))
            } else {
                Disagreement::Divergent(format!(
                    "V{}__{} is applied (checksum {}), and edition `{}` has no such file: put it back",
                    row.version, row.name, row.checksum, edition.name
                ))
            });
        };
        if file.name != row.name || file.checksum != row.checksum {
            return Err(Disagreement::Divergent(format!(
                "version {0} was applied as `V{0}__{1}.sql` with checksum {2}, and edition `{3}` has `{4}` with checksum \
                 {5}: restore the file that was applied and put the change into a new version",
                row.version,
                row.name,
                row.checksum,
                edition.name,
                file.file_name(),
                file.checksum
            )));
        }
    }
    pending.extend(files);
    Ok(pending)
}

/// The repeatable files of an edition that were not run as they are now, in order.
pub(super) fn to_repeat<'e>(edition: &'e Edition, applied: &[Applied]) -> Vec<&'e File> {
    let has_changed = |file: &&File| !applied.contains(&row_of(file));
    edition.repeatables.iter().filter(has_changed).collect()
}

/// The row that applying a file with a text of its own adds to the history, in refinery's form.
pub(super) fn row_of(file: &File) -> Applied {
    Applied { version: file.version, name: file.name.clone(), checksum: file.checksum }
}

/// The rows that applying a file adds to the history: of a squashed one those of the files that it takes the place of.
pub(super) fn rows_of(file: &File) -> Vec<Applied> {
    if file.replaces.is_empty() {
        return vec![row_of(file)];
    }
    let replaced = file.replaces.iter();
    replaced.map(|r| Applied { version: r.version, name: r.name.clone(), checksum: r.checksum }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edition() -> Edition {
        Edition::embedded(
            "core",
            &[("V1__a.sql", "SELECT 1;"), ("V3__b.sql", "SELECT 2;"), ("V5__c.sql", "SELECT 3;")],
        )
        .unwrap()
    }

    #[test]
    fn what_is_pending_follows_what_was_applied() {
        let edition = edition();
        let rows: Vec<_> = edition.files.iter().map(row_of).collect();
        for (count, left) in [(0, 3), (1, 2), (3, 0)] {
            assert_eq!(pending(&edition, &rows[..count], false).unwrap().len(), left);
            let version = if count == 0 { 0 } else { rows[count - 1].version };
            assert_eq!(digest_of(&rows[..count]), edition.history_digest(version));
        }
    }

    #[test]
    fn every_disagreement_names_the_first_version() {
        let edition = edition();
        let mut rows: Vec<_> = edition.files.iter().map(row_of).collect();
        rows[1].checksum ^= 1;
        let Err(Disagreement::Divergent(error)) = pending(&edition, &rows, false) else { panic!() };
        assert!(error.contains("version 3") && error.contains(&rows[1].checksum.to_string()), "{error}");
        assert!(error.contains(&edition.files[1].checksum.to_string()), "{error}");

        let row = |version| Applied { version, name: "x".to_owned(), checksum: 1 };
        assert!(
            matches!(pending(&edition, &[row(2)], false), Err(Disagreement::OutOfOrder(s)) if s.contains("V1__a.sql"))
        );
        let first = row_of(&edition.files[0]);
        assert!(
            matches!(pending(&edition, &[first, row(2)], false), Err(Disagreement::Divergent(s)) if s.contains("V2__x"))
        );
        let mut newer: Vec<_> = edition.files.iter().map(row_of).collect();
        newer.push(row(9));
        assert!(
            matches!(pending(&edition, &newer, false), Err(Disagreement::Ahead(s)) if s.contains("V9__x"))
        );
    }

    #[test]
    fn files_below_what_was_applied_are_pending_where_that_is_allowed() {
        let edition = edition();
        let rows: Vec<_> = edition.files.iter().map(row_of).collect();
        let versions = |applied: &[Applied]| -> Vec<i64> {
            pending(&edition, applied, true).unwrap().iter().map(|file| file.version).collect()
        };
        assert_eq!(versions(&rows[2..]), [1, 3]);
        assert_eq!(versions(&rows[1..2]), [1, 5]);
        assert!(matches!(pending(&edition, &rows[2..], false), Err(Disagreement::OutOfOrder(_))));
        // What was applied is compared all the same.
        let mut edited = rows.clone();
        edited[2].checksum ^= 1;
        assert!(matches!(pending(&edition, &edited[2..], true), Err(Disagreement::Divergent(_))));
    }
}
