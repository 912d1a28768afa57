//! A run: a folder with one backup of each of a fleet's tenants, gone on with after whatever stopped it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::macros::format_description;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

use super::files::{PARTIAL, make_folder, named, write_whole, written};
use super::{BackupFiles, Manifest};
use crate::catalog::TenantRow;
use crate::fleet::FleetError;

/// How old a run may be that is gone on with. Beyond that its first tenants would be much older than its last.
const RESUMED: Duration = Duration::hours(12);
/// What says in a run's folder that it is whole.
const FINISHED: &str = "finished.json";
/// What says what a run is of.
const BEGUN: &str = "begun.json";
/// What a command that works on a run has locked.
const LOCK: &str = "lock";
/// How many manifests are looked at of one run.
const MOST: usize = 1_000_000;

/// A run that this process works on, which no other one can meanwhile.
#[derive(Debug)]
pub struct BackupRun {
    /// Its folder, named by its beginning.
    pub folder: PathBuf,
    /// When it was begun.
    pub begun_at: OffsetDateTime,
    /// Whether another command began it.
    pub resumed: bool,
    _lock: File,
}

/// What stands in a run from its beginning.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    /// Which tenants were asked for.
    matching: Vec<String>,
}

/// What stands in a run that is whole.
#[derive(Debug, Serialize, Deserialize)]
struct Finished {
    #[serde(with = "time::serde::rfc3339")]
    finished_at: OffsetDateTime,
    tenants: usize,
}

impl BackupRun {
    /// Goes on with the newest run of a folder if it is not whole, is of the same tenants, and was begun in the last twelve
    /// hours; begins one otherwise.
    ///
    /// # Errors
    /// When another command works on it, or the folder can't be read or written.
    pub fn open(root: &Path, matching: &[String]) -> Result<Self, FleetError> {
        make_folder(root)?;
        let now = OffsetDateTime::now_utc();
        let newest = runs(root)?.pop();
        let unfinished = newest.filter(|(begun_at, folder)| {
            now - *begun_at < RESUMED && !folder.join(FINISHED).exists() && is_of(folder, matching)
        });
        let resumed = unfinished.is_some();
        let (begun_at, folder) = unfinished.unwrap_or_else(|| unused(root, now));
        make_folder(&folder)?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(|error| named(&path, &error))?;
        match lock.try_lock() {
            Ok(()) => {
                remove_partial(&folder)?;
                let begun = Begun { matching: matching.to_vec() };
                let text = serde_json::to_vec_pretty(&begun).map_err(|e| FleetError::File(e.to_string()))?;
                write_whole(&folder.join(BEGUN), &text)?;
                Ok(Self { folder, begun_at, resumed, _lock: lock })
            }
            Err(TryLockError::WouldBlock) => Err(FleetError::Busy(format!("backup `{}`", folder.display()))),
            Err(TryLockError::Error(error)) => Err(named(&path, &error)),
        }
    }

    /// The newest run of a folder that is whole.
    ///
    /// # Errors
    /// When there is none.
    pub fn newest_finished(root: &Path) -> Result<PathBuf, FleetError> {
        let mut runs = runs(root)?;
        runs.retain(|(_, folder)| folder.join(FINISHED).exists());
        runs.pop()
            .map(|(_, folder)| folder)
            .ok_or_else(|| FleetError::File(format!("`{}` has no backup that is whole", root.display())))
    }

    /// The backups of a run's folder.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn backups(folder: &Path) -> Result<Vec<BackupFiles>, FleetError> {
        let entries = std::fs::read_dir(folder).map_err(|error| named(folder, &error))?;
        let mut files = Vec::new();
        for entry in entries.take(MOST) {
            let path = entry.map_err(|error| named(folder, &error))?.path();
            let is_manifest = path.extension().is_some_and(|e| e == "json");
            if is_manifest && path.file_name().is_some_and(|name| name != FINISHED && name != BEGUN) {
                files.push(BackupFiles::of(&path));
            }
        }
        files.sort_by_key(BackupFiles::manifest);
        Ok(files)
    }

    /// The files of a tenant. Its id is in their name: a slug may be another tenant's later.
    ///
    /// # Errors
    /// When the folder is gone.
    pub fn files(&self, tenant: &TenantRow) -> Result<BackupFiles, FleetError> {
        let record = &tenant.record;
        BackupFiles::new(&self.folder, format!("{}.{}", record.slug, record.id))
    }

    /// The backup of a tenant that the run has already.
    ///
    /// # Errors
    /// When the folder is gone.
    pub fn done(&self, tenant: &TenantRow) -> Result<Option<Manifest>, FleetError> {
        let there = self.files(tenant)?.read().ok();
        Ok(there.filter(|manifest| manifest.tenant.id == tenant.record.id.as_str()))
    }

    /// Says that the run is whole.
    ///
    /// # Errors
    /// When that can't be written.
    pub fn finish(&self, tenants: usize) -> Result<(), FleetError> {
        let finished = Finished { finished_at: OffsetDateTime::now_utc(), tenants };
        let text = serde_json::to_vec_pretty(&finished).map_err(|e| FleetError::File(e.to_string()))?;
        write_whole(&self.folder.join(FINISHED), &text)
    }
}

/// Whether a run is of these tenants. One that was killed before it could say is nobody's, and may be of any.
fn is_of(folder: &Path, matching: &[String]) -> bool {
    let Ok(text) = std::fs::read(folder.join(BEGUN)) else { return true };
    serde_json::from_slice::<Begun>(&text).is_ok_and(|begun| begun.matching == matching)
}

/// A folder for a run that begins now, or as soon after as there is none.
fn unused(root: &Path, now: OffsetDateTime) -> (OffsetDateTime, PathBuf) {
    let mut begun_at = now;
    loop {
        let folder = root.join(written(begun_at));
        if !folder.exists() {
            return (begun_at, folder);
        }
        begun_at += Duration::seconds(1);
    }
}

/// Removes what a killed command had not written whole: its tenant may have another name now, or be gone.
fn remove_partial(folder: &Path) -> Result<(), FleetError> {
    for entry in std::fs::read_dir(folder).map_err(|error| named(folder, &error))? {
        let path = entry.map_err(|error| named(folder, &error))?.path();
        if path.extension().is_some_and(|ending| ending == PARTIAL) {
            std::fs::remove_file(&path).map_err(|error| named(&path, &error))?;
        }
    }
    Ok(())
}

/// The runs of a folder, the oldest first.
fn runs(root: &Path) -> Result<Vec<(OffsetDateTime, PathBuf)>, FleetError> {
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(root).map_err(|error| named(root, &error))? {
        let path = entry.map_err(|error| named(root, &error))?.path();
        let begun = path.file_name().and_then(|name| read(&name.to_string_lossy()));
        runs.extend(begun.map(|begun| (begun, path)));
    }
    runs.sort();
    Ok(runs)
}

fn read(name: &str) -> Option<OffsetDateTime> {
    let form = format_description!("[year][month][day]T[hour][minute][second]Z");
    PrimitiveDateTime::parse(name, form).ok().map(PrimitiveDateTime::assume_utc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_gone_on_with_until_it_is_whole_and_by_one_command_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = BackupRun::open(root.path(), &[]).unwrap();
        assert!(!first.resumed);
        assert!(matches!(BackupRun::open(root.path(), &[]), Err(FleetError::Busy(_))));
        let folder = first.folder.clone();
        drop(first);
        let again = BackupRun::open(root.path(), &[]).unwrap();
        assert!(again.resumed && again.folder == folder);
        assert!(BackupRun::newest_finished(root.path()).is_err());
        assert!(!is_of(&folder, &["tier=gold".to_owned()]));
        again.finish(3).unwrap();
        assert_eq!(BackupRun::newest_finished(root.path()).unwrap(), folder);
        drop(again);
        // A second begins a run of another name.
        std::fs::rename(&folder, root.path().join("20200101T000000Z")).unwrap();
        assert!(!BackupRun::open(root.path(), &[]).unwrap().resumed);
    }

    #[test]
    fn an_old_run_is_not_gone_on_with() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("20200101T000000Z")).unwrap();
        std::fs::create_dir(root.path().join("lost+found")).unwrap();
        assert!(!BackupRun::open(root.path(), &[]).unwrap().resumed);
    }
}
