//! Files of a backup: an archive and its manifest, which appear only when they are whole.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::io::AsyncReadExt as _;

use super::manifest::FORMAT;
use super::{Manifest, hex};
use crate::catalog::TenantRow;
use crate::fleet::{Fleet, FleetError, Progress, Watcher};

/// How names of files end that are not whole yet.
pub(super) const PARTIAL: &str = "part";
/// How many bytes of an archive are read at once.
const READ: usize = 1024 * 1024;

/// An archive and its manifest: `STEM.dump` and `STEM.json` of one folder, readable by their owner alone.
#[derive(Debug, Clone)]
pub struct BackupFiles {
    folder: PathBuf,
    stem: String,
}

impl BackupFiles {
    /// Files of this folder, which is made when it isn't there.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(folder: &Path, stem: String) -> Result<Self, FleetError> {
        make_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), stem })
    }

    /// The files of which one is named.
    pub fn of(file: &Path) -> Self {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        // Slugs and ids have no dots, so an ending that is not one of ours belongs to the name.
        let ours = file.extension().is_some_and(|ending| ending == "dump" || ending == "json");
        let name = if ours { file.file_stem() } else { file.file_name() };
        let stem = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { folder: folder.unwrap_or(Path::new(".")).to_owned(), stem }
    }

    /// The archive.
    pub fn archive(&self) -> PathBuf {
        self.folder.join(format!("{}.dump", self.stem))
    }

    /// The manifest.
    pub fn manifest(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.stem))
    }

    /// The manifest, when both files are there and the archive is as long as it says.
    ///
    /// # Errors
    /// When one is missing, unreadable, or not what the other says.
    pub fn read(&self) -> Result<Manifest, FleetError> {
        let (manifest, archive) = (self.manifest(), self.archive());
        let read = read_manifest(&manifest)?;
        let there = std::fs::metadata(&archive).map_err(|error| missing(&archive, &error))?;
        if there.len() != read.archive.bytes {
            return Err(FleetError::File(format!(
                "`{}` has {} bytes, and {} by its manifest: it was cut or changed; take another backup",
                archive.display(),
                there.len(),
                read.archive.bytes
            )));
        }
        Ok(read)
    }
}

/// What the files of a tenant's backup of this moment are called, without their endings. The id is in it: a slug may be
/// another tenant's later.
pub fn backup_stem(tenant: &TenantRow, moment: OffsetDateTime) -> String {
    let record = &tenant.record;
    format!("{}.{}.{}", record.slug, record.id, written(moment))
}

/// A moment as a part of the name of a file or a folder, in UTC.
pub(in crate::fleet) fn written(moment: OffsetDateTime) -> String {
    let form = format_description!("[year][month][day]T[hour][minute][second]Z");
    let moment = moment.to_offset(time::UtcOffset::UTC);
    moment.format(form).unwrap_or_else(|_| moment.unix_timestamp().to_string())
}

/// Reads a manifest.
///
/// # Errors
/// When it is missing, or of another form.
pub(in crate::fleet) fn read_manifest(file: &Path) -> Result<Manifest, FleetError> {
    let text = std::fs::read_to_string(file).map_err(|error| missing(file, &error))?;
    let wrong = |why: String| {
        FleetError::File(format!(
            "`{}` is no manifest of a backup that this version reads: {why}",
            file.display()
        ))
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => {}
        Some(other) => return Err(wrong(format!("its format is {other}, not {FORMAT}"))),
        None => return Err(wrong("it says no format".into())),
    }
    serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
}

impl Fleet {
    /// Looks whether an archive is what its manifest says, byte by byte.
    ///
    /// # Errors
    /// When it is not, can't be read, or the watcher stopped it.
    pub async fn check_archive(
        &self,
        files: &BackupFiles,
        watcher: Watcher<'_>,
    ) -> Result<Manifest, FleetError> {
        let (manifest, path) = (files.read()?, files.archive());
        let mut file = tokio::fs::File::open(&path).await.map_err(|error| named(&path, &error))?;
        let (mut buffer, mut digest, mut bytes) = (vec![0_u8; READ], Context::new(&SHA256), 0_u64);
        loop {
            if watcher.stop.is_cancelled() {
                return Err(FleetError::Interrupted(format!("the check of `{}`", path.display())));
            }
            let read = file.read(&mut buffer).await.map_err(|error| named(&path, &error))?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            bytes += read as u64;
            watcher.tell(Progress::Checking { bytes, of: manifest.archive.bytes });
        }
        if hex(digest.finish().as_ref()) != manifest.archive.sha256 {
            return Err(FleetError::File(format!(
                "`{}` has another checksum than its manifest says: it was changed or damaged; take another backup",
                path.display()
            )));
        }
        Ok(manifest)
    }

    /// Backs a tenant up into these files. The manifest is the last that appears, whatever dies in between.
    ///
    /// # Errors
    /// As [`Fleet::backup`], or when the files can't be written. Nothing is left of them then.
    pub async fn backup_into(
        &self,
        tenant: &TenantRow,
        files: &BackupFiles,
        watcher: Watcher<'_>,
    ) -> Result<Manifest, FleetError> {
        let archive = files.archive();
        let part = partial(&archive);
        let backed_up = async {
            let file = create(&part)?;
            let sink = tokio::fs::File::from_std(file.try_clone().map_err(|error| named(&part, &error))?);
            let name = archive.file_name().map(|name| name.to_string_lossy().into_owned());
            let manifest = self.backup(tenant, &name.unwrap_or_default(), sink, watcher).await?;
            file.sync_all()
                .and_then(|()| std::fs::rename(&part, &archive))
                .map_err(|e| named(&archive, &e))?;
            write_whole(&files.manifest(), &serde_json::to_vec_pretty(&manifest).map_err(unwritable)?)?;
            Ok(manifest)
        };
        let backed_up = backed_up.await;
        if backed_up.is_err() {
            // Without its manifest it is of no use. That there is none is the usual case.
            let _ = std::fs::remove_file(&part);
            let _ = std::fs::remove_file(&archive);
        }
        backed_up
    }
}

/// Writes a file that is whole or not there.
///
/// # Errors
/// When it can't be written.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), FleetError> {
    let part = partial(path);
    let write = || {
        let mut file = create_at(&part)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        // The new names outlive a crash of the machine as well.
        File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&part);
        named(path, &error)
    })
}

/// Makes a folder for its owner alone, and those above it.
///
/// # Errors
/// When it can't be made.
pub(super) fn make_folder(folder: &Path) -> Result<(), FleetError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| named(folder, &error))
}

fn create(path: &Path) -> Result<File, FleetError> {
    create_at(path).map_err(|error| named(path, &error))
}

fn create_at(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(PARTIAL);
    name.into()
}

fn unwritable(error: serde_json::Error) -> FleetError {
    FleetError::File(format!("the manifest can't be written: {error}"))
}

/// An error with the one of a backup's two files that it is about.
fn missing(path: &Path, error: &io::Error) -> FleetError {
    if error.kind() != io::ErrorKind::NotFound {
        return named(path, error);
    }
    FleetError::File(format!(
        "there is no `{}`: a backup is two files of one folder, NAME.dump and its manifest NAME.json, and is of use with both",
        path.display()
    ))
}

/// An error with the file that it is about.
pub(in crate::fleet) fn named(path: &Path, error: &io::Error) -> FleetError {
    FleetError::File(format!("`{}`: {error}", path.display()))
}
