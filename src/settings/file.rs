//! The settings' file: whether one that is there can be read.

use std::path::Path;

/// Why a file that is there can't be read.
pub(super) fn unreadable(file: &Path) -> Option<String> {
    let can_not = |error: std::io::Error| Some(format!("can't be read: {error}"));
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => std::fs::File::open(file).err().and_then(can_not),
        Ok(metadata) if metadata.is_dir() => Some("is a folder".into()),
        // It is read more than once: by SIGHUP as well.
        Ok(_) => Some("is no regular file".into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            file.symlink_metadata().is_ok().then(|| "is a symbolic link to a file that is not there".into())
        }
        Err(error) => can_not(error),
    }
}
