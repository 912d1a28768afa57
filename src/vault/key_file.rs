//! The master key's file: readable by its owner only, replaced in one step.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use ring::digest::{SHA256, digest};

use super::keyring::{KeyRing, VaultError};
use crate::settings::KeySettings;

/// The environment's variable for the key itself.
const VARIABLE: &str = "MANYBOX__KEYS__MASTER";

impl KeyRing {
    /// The keys of the settings: the environment's, else the file's.
    ///
    /// # Errors
    /// When there are none, they are weak, or the file can be read by others than its owner.
    pub fn load(keys: &KeySettings) -> Result<Self, VaultError> {
        if let Some(text) = &keys.master {
            let parsed = Self::parse(text).map_err(|e| VaultError::new(format!("{VARIABLE}: {e}")));
            return Ok(parsed?.at_place(VARIABLE.into()));
        }
        let file = &keys.file;
        let at = |what: &dyn std::fmt::Display| {
            VaultError::new(format!("master key `{}`: {what}", file.display()))
        };
        let mode = match fs::metadata(file) {
            Ok(metadata) if metadata.is_dir() => return Err(at(&"it is a folder; a file is expected there")),
            Ok(metadata) => metadata.permissions().mode(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(at(
                    &"there is no such file; copy it from a machine of this fleet or from its backup (a new fleet's is \
                     made by `manybox init`; when it is lost for good: `manybox rekey --lost`)",
                ));
            }
            Err(e) => return Err(at(&e)),
        };
        if mode & 0o077 != 0 {
            return Err(at(&format!("others may read it (mode {:o}); run chmod 600 on it", mode & 0o777)));
        }
        let parsed = match fs::read_to_string(file) {
            Ok(text) => Self::parse(&text).map_err(|e| e.to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err("it is no text".into()),
            Err(e) => return Err(at(&e)),
        };
        let unusable = |why: String| {
            VaultError::new(format!(
                "master key `{}`: {why}; copy the file anew from a machine of this fleet or from its backup (when the key is \
                 lost for good: `manybox rekey --lost`, which keeps this file beside)",
                file.display()
            ))
        };
        Ok(parsed.map_err(unusable)?.at_place(format!("`{}`", file.display())))
    }

    /// Whether the settings name a key that is there, be it the right one or not.
    pub fn is_given(keys: &KeySettings) -> bool {
        keys.master.is_some() || keys.file.exists()
    }

    /// A digest of the key file's content where no key can be read from it: it was cut, overwritten, or is another file.
    /// `None` where there is a key, no file, or one that can't be read at all.
    pub fn unusable(keys: &KeySettings) -> Option<String> {
        let content = keys.master.is_none().then(|| fs::read(&keys.file).ok())??;
        let is_key = std::str::from_utf8(&content).is_ok_and(|text| Self::parse(text).is_ok());
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        (!is_key).then(|| hex(&digest(&SHA256, &content).as_ref()[..8]))
    }

    /// Like [`KeyRing::load`], but makes the file with a new key when there is none.
    ///
    /// # Errors
    /// As [`KeyRing::load`], and when the file can't be written.
    pub fn load_or_create(keys: &KeySettings) -> Result<Self, VaultError> {
        if keys.master.is_none() && !keys.file.exists() {
            Self::generate()?.save(&keys.file)?;
        }
        Self::load(keys)
    }

    /// Writes the file beside its place and moves it there, so that a reader never sees half of it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn save(&self, file: &Path) -> Result<(), VaultError> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = file.with_extension(format!("new-{}", std::process::id()));
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(folder)?;
            let mut new =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            new.write_all(b"# manybox master keys. Whoever reads this file can log in as every tenant.\n")?;
            new.write_all(self.to_text().expose().as_bytes())?;
            new.sync_all()?;
            fs::rename(&beside, file)?;
            // A fleet that has moved to a key needs it after a power failure, too.
            fs::File::open(folder)?.sync_all()
        };
        let written = write();
        if written.is_err() {
            // Fails where there is none.
            let _ = fs::remove_file(&beside);
        }
        written.map_err(|e| VaultError::new(format!("master key `{}`: {e}", file.display())))
    }
}
