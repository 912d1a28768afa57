//! Failed builds: templates whose files failed a moment ago, so that of a thousand creations few build.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::migrate::MigrationFailure;

/// How long a build that failed is not tried again with the same files. What was wrong may have been something else: an
/// extension that the server lacked, a setting.
const NOT_AGAIN: Duration = Duration::from_secs(60);

/// The last build that failed, by server and edition.
#[derive(Default)]
pub(super) struct FailedBuilds(Mutex<HashMap<(String, String), FailedBuild>>);

struct FailedBuild {
    /// The digest of the files.
    files: String,
    at: Instant,
    failure: MigrationFailure,
}

impl FailedBuilds {
    /// How these files failed there, if that was within the last minute.
    pub(super) fn recent(&self, server: &str, edition: &str, files: &str) -> Option<MigrationFailure> {
        let failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = failed.get(&(server.to_owned(), edition.to_owned()))?;
        (failed.files == files && failed.at.elapsed() < NOT_AGAIN).then(|| failed.failure.clone())
    }

    pub(super) fn put(&self, server: &str, edition: &str, files: String, failure: MigrationFailure) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        failed.insert((server.to_owned(), edition.to_owned()), FailedBuild { files, at, failure });
    }
}
