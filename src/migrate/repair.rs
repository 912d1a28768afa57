//! `repair`: changes what a database's history says was applied, where an operator knows better; no file is run.

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::Client;

use super::history::{self, Applied, HISTORY, UNFINISHED};
use super::read::{History, ReadError};
use super::session::Roles;
use super::{Edition, File};

/// What a history shall say, by the version that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repair {
    /// The file as it is now was applied: its name and checksum take the place of what was recorded.
    AcceptChecksum(i64),
    /// The file was applied, or what it does was done in another way.
    MarkApplied(i64),
    /// The file was not applied, or what it did was undone.
    MarkNotApplied(i64),
}

/// What becomes of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// What changes, in words; `None` when it says so already.
    pub change: Option<String>,
    /// The history with that change.
    pub history: History,
}

/// Why a history is not repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// It would be one that no order of files leads to.
    #[error("{0}")]
    Refused(String),
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<tokio_postgres::Error> for RepairError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Read(error.into())
    }
}

/// The rows that a repair takes away and adds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rows {
    taken: Option<Applied>,
    added: Option<Applied>,
}

/// What a repair changes in a history. Pure.
///
/// # Errors
/// In words when the edition has no such file, or files below it would be left out.
fn rows(repair: Repair, edition: &Edition, history: &[Applied]) -> Result<Rows, String> {
    let file = |version: i64| -> Result<&File, String> {
        edition
            .files
            .iter()
            .find(|file| file.version == version)
            .ok_or_else(|| format!("edition `{}` has no file of version {version}", edition.name))
    };
    let applied = |version: i64| history.iter().find(|row| row.version == version).cloned();
    match repair {
        Repair::AcceptChecksum(version) => {
            let new = history::row_of(file(version)?);
            match applied(version) {
                Some(old) if old == new => Ok(Rows::default()),
                Some(old) => Ok(Rows { taken: Some(old), added: Some(new) }),
                None => Ok(Rows::default()),
            }
        }
        Repair::MarkApplied(version) => {
            let new = history::row_of(file(version)?);
            if let Some(old) = applied(version) {
                return if old == new {
                    Ok(Rows::default())
                } else {
                    Err(format!(
                        "version {version} is applied with another checksum: accept that of the file"
                    ))
                };
            }
            let missing =
                edition.files.iter().find(|file| file.version < version && applied(file.version).is_none());
            if let Some(missing) = missing {
                return Err(format!("{} comes before it and is not applied", missing.file_name()));
            }
            if let Some(newer) = history.iter().find(|row| row.version > version) {
                return Err(format!("version {} comes after it and is applied already", newer.version));
            }
            Ok(Rows { taken: None, added: Some(new) })
        }
        Repair::MarkNotApplied(version) => {
            let taken = applied(version);
            let newer = history.iter().find(|row| row.version > version);
            match (&taken, newer) {
                (Some(_), Some(newer)) => {
                    Err(format!("version {} comes after it and is applied: mark that first", newer.version))
                }
                _ => Ok(Rows { taken, added: None }),
            }
        }
    }
}

impl Rows {
    fn words(&self) -> Option<String> {
        let name = |row: &Applied| format!("V{}__{}.sql", row.version, row.name);
        match (&self.taken, &self.added) {
            (None, None) => None,
            (Some(old), Some(new)) => Some(format!(
                "{} with checksum {} is recorded instead of {} with {}",
                name(new),
                new.checksum,
                name(old),
                old.checksum
            )),
            (None, Some(new)) => Some(format!("{} is recorded as applied", name(new))),
            (Some(old), None) => Some(format!("{} is recorded as not applied", name(old))),
        }
    }

    fn applied_to(&self, history: History) -> History {
        let history::Rows { mut versions, repeatables } = history.0;
        versions.retain(|row| Some(row) != self.taken.as_ref());
        versions.extend(self.added.clone());
        versions.sort_by_key(|row| row.version);
        History(history::Rows { versions, repeatables })
    }
}

/// Repairs the history of the database behind `client`, a session of its migrator; with `dry_run` it only says what would
/// change.
///
/// # Errors
/// When the change is refused, or the server refuses; nothing was changed then.
pub async fn repair(
    client: &mut Client,
    roles: &Roles,
    edition: &Edition,
    repair: Repair,
    dry_run: bool,
) -> Result<Repaired, RepairError> {
    let history = History::read(client, roles).await?;
    let rows = rows(repair, edition, &history.0.versions).map_err(RepairError::Refused)?;
    let unbegun = match repair {
        Repair::MarkNotApplied(version) if rows.taken.is_none() => {
            is_begun(client, version).await?.then_some(version)
        }
        _ => None,
    };
    let words = |version| format!("version {version}, of which a part was run, is recorded as not begun");
    let change = rows.words().or_else(|| unbegun.map(words));
    if change.is_some() && !dry_run {
        let transaction = client.transaction().await?;
        let mut applied_on = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        if let Some(old) = &rows.taken {
            let sql = format!("DELETE FROM {HISTORY} WHERE version = $1::int8 RETURNING applied_on");
            let when = transaction.query_one(&sql, &[&old.version]).await?;
            applied_on = when.try_get(0)?;
        }
        if let Some(new) = &rows.added {
            let sql = format!(
                "INSERT INTO {HISTORY} (version, name, applied_on, checksum) VALUES ($1::int8, $2, $3, $4)"
            );
            let checksum = new.checksum.to_string();
            transaction.execute(&sql, &[&new.version, &new.name, &applied_on, &checksum]).await?;
        }
        if let Some(version) = rows.added.as_ref().map(|new| new.version).or(unbegun) {
            let sql = format!("DELETE FROM {UNFINISHED} WHERE version = $1::int8");
            transaction.execute(&sql, &[&version]).await?;
        }
        transaction.commit().await?;
    }
    Ok(Repaired { change, history: rows.applied_to(history) })
}

/// Whether a file outside transactions was begun and not recorded.
async fn is_begun(client: &Client, version: i64) -> Result<bool, tokio_postgres::Error> {
    let sql = format!("SELECT FROM {UNFINISHED} WHERE version = $1::int8");
    Ok(client.query_opt(&sql, &[&version]).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edition() -> Edition {
        let files = [("V1__a.sql", "SELECT 1;"), ("V2__b.sql", "SELECT 2;"), ("V4__c.sql", "SELECT 4;")];
        Edition::embedded("core", &files).unwrap()
    }

    fn repaired(repair: Repair, history: &[Applied]) -> Result<(Option<String>, Vec<Applied>), String> {
        let rows = rows(repair, &edition(), history)?;
        Ok((
            rows.words(),
            rows.applied_to(History(history::Rows { versions: history.to_vec(), repeatables: vec![] }))
                .0
                .versions,
        ))
    }

    #[test]
    fn a_checksum_takes_the_place_of_another() {
        let files: Vec<_> = edition().files.iter().map(history::row_of).collect();
        let mut history = files.clone();
        history[1].checksum = 7;
        history[1].name = "old".into();
        let (words, after) = repaired(Repair::AcceptChecksum(2), &history).unwrap();
        assert_eq!(after, files);
        assert!(words.unwrap().ends_with("instead of V2__old.sql with 7"));
        // Where it is so already, or nothing was applied, there is nothing to do.
        assert_eq!(repaired(Repair::AcceptChecksum(2), &files).unwrap().0, None);
        assert_eq!(repaired(Repair::AcceptChecksum(4), &files[..2]).unwrap().0, None);
        assert!(repaired(Repair::AcceptChecksum(3), &files).unwrap_err().contains("no file of version 3"));
    }

    #[test]
    fn marks_leave_no_gaps() {
        let files: Vec<_> = edition().files.iter().map(history::row_of).collect();
        assert_eq!(repaired(Repair::MarkApplied(4), &files[..2]).unwrap().1, files);
        assert_eq!(repaired(Repair::MarkApplied(2), &files).unwrap().0, None);
        assert!(
            repaired(Repair::MarkApplied(4), &files[..1]).unwrap_err().contains("V2__b.sql comes before")
        );
        let gap = [files[0].clone(), files[2].clone()];
        assert!(repaired(Repair::MarkApplied(2), &gap).unwrap_err().contains("version 4 comes after"));
        assert_eq!(repaired(Repair::MarkNotApplied(4), &files).unwrap().1, files[..2]);
        assert_eq!(repaired(Repair::MarkNotApplied(4), &files[..2]).unwrap().0, None);
        assert!(repaired(Repair::MarkNotApplied(2), &files).unwrap_err().contains("version 4 comes after"));
        // Also of a version that the edition has no file of: it was renumbered.
        let stray = Applied { version: 9, name: "x".into(), checksum: 1 };
        let mut history = files.clone();
        history.push(stray);
        assert_eq!(repaired(Repair::MarkNotApplied(9), &history).unwrap().1, files);
    }
}
