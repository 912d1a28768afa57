//! Progress: how far a backup, a restore or a clone is, for those who wait, who may also stop it.

use std::fmt;

use tokio_util::sync::CancellationToken;

/// What is being done, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// An archive is written. Nobody knows how long it will be.
    Dumping {
        /// Bytes that are written.
        bytes: u64,
    },
    /// An archive is compared with its checksum.
    Checking {
        /// Bytes that are read.
        bytes: u64,
        /// All bytes.
        of: u64,
    },
    /// A database is filled from an archive. Its indexes are made after the last byte.
    Restoring {
        /// Bytes that are read.
        bytes: u64,
        /// All bytes.
        of: u64,
    },
    /// A database is compared with the manifest: rows are counted.
    Comparing,
}

impl Progress {
    /// What is being done, as a sentence's end.
    pub fn stage(self) -> &'static str {
        match self {
            Self::Dumping { .. } => "dumping",
            Self::Checking { .. } => "comparing the archive with its checksum",
            Self::Restoring { bytes, of } if bytes >= of => "making indexes and constraints",
            Self::Restoring { .. } => "restoring",
            Self::Comparing => "comparing what came out with the manifest",
        }
    }

    /// Bytes that are done, and all of them where that is known.
    pub fn bytes(self) -> Option<(u64, Option<u64>)> {
        match self {
            Self::Dumping { bytes } => Some((bytes, None)),
            Self::Restoring { bytes, of } if bytes >= of => None,
            Self::Checking { bytes, of } | Self::Restoring { bytes, of } => Some((bytes, Some(of))),
            Self::Comparing => None,
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        f.write_str(self.stage())?;
        match self.bytes() {
            Some((bytes, Some(of))) => write!(f, ", {:.1} of {:.1} MB", megabytes(bytes), megabytes(of)),
            Some((bytes, None)) => write!(f, ", {:.1} MB", megabytes(bytes)),
            None => Ok(()),
        }
    }
}

/// Somebody who waits.
#[derive(Clone, Copy)]
pub struct Watcher<'a> {
    tell: &'a (dyn Fn(Progress) + Sync),
    /// What stops the work when it is cancelled.
    pub stop: &'a CancellationToken,
}

impl<'a> Watcher<'a> {
    /// One that is told by `tell`, as often as there is something new.
    pub fn new(tell: &'a (dyn Fn(Progress) + Sync), stop: &'a CancellationToken) -> Self {
        Self { tell, stop }
    }

    /// One that only stops.
    pub fn silent(stop: &'a CancellationToken) -> Self {
        Self { tell: &|_| (), stop }
    }

    pub(super) fn tell(self, progress: Progress) {
        (self.tell)(progress);
    }
}
