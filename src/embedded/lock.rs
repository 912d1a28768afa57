//! The two lock files of a cluster: who starts or stops it, and who uses it.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::EmbeddedError;

/// Longer than any start, so that only a process that hangs is reported.
const PATIENCE: Duration = Duration::from_secs(300);

/// Waits for the lock by polling: a blocking wait would hold a thread and could not be given up on Ctrl-C.
pub(super) async fn exclusive(path: &Path) -> Result<File, EmbeddedError> {
    let file = open(path)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(EmbeddedError::Busy { seconds: PATIENCE.as_secs(), lock: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(EmbeddedError::at(path)(source)),
        }
    }
}

/// Joins the users. Never waits for long: only [`only_user`] holds it exclusively, under `start.lock`.
pub(super) fn shared(path: &Path) -> Result<File, EmbeddedError> {
    let file = open(path)?;
    file.lock_shared().map_err(EmbeddedError::at(path))?;
    Ok(file)
}

/// The lock, if nobody uses the cluster.
pub(super) fn only_user(path: &Path) -> Result<Option<File>, EmbeddedError> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(EmbeddedError::at(path)(source)),
    }
}

fn open(path: &Path) -> Result<File, EmbeddedError> {
    // Nobody else may open it: a lock can be held through a file that was opened for reading only.
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(EmbeddedError::at(path))
}
