//! Editions: the files of the settings' editions, read by the fleet, and how they are run.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::PoisonError;

use super::{Fleet, FleetError, FolderStamp, roles};
use crate::migrate;
use crate::settings::Settings;

/// Every edition of the settings, read and checked, without a server. One that is broken stops no other.
pub fn editions(settings: &Settings) -> migrate::Editions {
    let folders = settings.editions.iter();
    let folders = folders.filter_map(|(name, e)| Some((name.as_str(), e.migrations.as_deref()?)));
    let mut editions = migrate::Editions::read(folders, &limits(settings));
    for (name, edition) in &mut editions.sound {
        edition.settings = run_with(settings, name);
    }
    editions
}

/// What the files of an edition run with.
fn run_with(settings: &Settings, edition: &str) -> BTreeMap<String, String> {
    settings.editions.get(edition).map(|files| files.settings.clone()).unwrap_or_default()
}

/// The timeouts that files may not raise.
fn limits(settings: &Settings) -> migrate::Limits {
    let migrate = &settings.migrate;
    migrate::Limits { lock_timeout: Some(migrate.lock_timeout), statement_timeout: migrate.statement_timeout }
}

impl Fleet {
    /// Every edition of the settings, read and checked. One that is broken stops no other.
    pub fn editions(&self) -> migrate::Editions {
        editions(&self.settings)
    }

    /// One edition, read and checked; again only after one of its files changed.
    ///
    /// # Errors
    /// When the settings don't have it, or one of its files is malformed or may not be run.
    pub fn edition(&self, name: &str) -> Result<migrate::Edition, FleetError> {
        let folder = self.edition_files(name)?;
        let stamp = stamp(folder);
        let known = |read: &HashMap<String, (FolderStamp, migrate::Edition)>| {
            let (of, edition) = read.get(name)?;
            (stamp.as_ref().ok() == Some(of)).then(|| edition.clone())
        };
        if let Some(edition) = known(&self.read.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(edition);
        }
        let mut edition = migrate::Edition::read(name, folder, &limits(&self.settings))?;
        edition.settings = run_with(&self.settings, name);
        if let Ok(stamp) = stamp {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.insert(name.to_owned(), (stamp, edition.clone()));
        }
        Ok(edition)
    }

    /// Where an edition's files are.
    fn edition_files(&self, name: &str) -> Result<&Path, FleetError> {
        let edition = self.settings.editions.get(name);
        edition.and_then(|e| e.migrations.as_deref()).ok_or_else(|| {
            let known: Vec<_> = self.settings.editions.keys().map(|known| format!("`{known}`")).collect();
            FleetError::Settings(format!(
                "there is no edition `{name}` in the settings; expected one of {}, or add [editions.{name}]",
                if known.is_empty() { "(none is set)".to_owned() } else { known.join(", ") }
            ))
        })
    }

    /// How migrations run by the settings.
    pub fn migrate_options(&self) -> migrate::Options {
        migrate::Options {
            roles: roles::of_tenants(),
            lock_timeout: self.settings.migrate.lock_timeout,
            lock_patience: self.settings.migrate.lock_patience,
            statement_timeout: self.settings.migrate.statement_timeout,
            ..migrate::Options::default()
        }
    }
}

fn stamp(folder: &Path) -> std::io::Result<FolderStamp> {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry?;
        // Follows links, as reading does.
        let file = std::fs::metadata(entry.path())?;
        Ok((entry.file_name(), file.len(), file.ctime(), file.ctime_nsec()))
    };
    let mut stamp = std::fs::read_dir(folder)?.map(entry).collect::<std::io::Result<FolderStamp>>()?;
    stamp.sort();
    Ok(stamp)
}
