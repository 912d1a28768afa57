//! What can go wrong with the embedded PostgreSQL, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why the embedded PostgreSQL can't be used.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No server binaries anywhere.
    #[error(
        "no PostgreSQL server (version {minimum} or newer) found; searched: {searched}. Install one \
         (Debian, Ubuntu: `apt install postgresql`; macOS: `brew install postgresql@17`), \
         or set MANYBOX_PG_BIN to the folder that holds `initdb` and `pg_ctl`, or declare a server in tenants.toml"
    )]
    NoBinaries {
        /// The oldest version that will do.
        minimum: u32,
        /// Where was searched, in order, with what was wrong there.
        searched: String,
    },
    /// The data belongs to a major version that isn't installed.
    #[error(
        "the data in {data} was made by PostgreSQL {data_version}, but only PostgreSQL {found} was found; install \
         version {data_version} again (or point MANYBOX_PG_BIN to it), or move the data away to start with an empty cluster"
    )]
    OtherMajor {
        /// The data folder.
        data: PathBuf,
        /// Its major version.
        data_version: u32,
        /// The versions that were found.
        found: String,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed for {data}: {output}{log}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The data folder it worked on.
        data: PathBuf,
        /// What it said.
        output: String,
        /// The last lines of the server's log, or nothing.
        log: String,
    },
    /// The server runs but does not take the bootstrap superuser or a statement of the set-up.
    #[error("the embedded PostgreSQL on {socket} refused its set-up: {source}; its log is {log}")]
    Setup {
        /// The folder of its socket.
        socket: PathBuf,
        /// Its log.
        log: PathBuf,
        /// What it said.
        source: tokio_postgres::Error,
    },
    /// The server recovers for longer than a command waits.
    #[error(
        "the embedded PostgreSQL is recovering still, and goes on by itself: run the command again in a while; {log} tells how far \
         it is"
    )]
    Recovering {
        /// Its log.
        log: PathBuf,
    },
    /// The server has come to the moment to which it was told to recover, and waits.
    #[error(
        "the embedded PostgreSQL has recovered up to its target and was told to pause there: until `SELECT pg_wal_replay_resume()` \
         (psql -h {socket} -U postgres postgres) it can only be read"
    )]
    Paused {
        /// The folder of its socket.
        socket: PathBuf,
    },
    /// A role can't be made.
    #[error("the admin role of the embedded PostgreSQL could not be made: {0}")]
    Admin(tokio_postgres::Error),
    /// A file or folder that belongs to somebody else, or that can't hold private data.
    #[error("{path} can't be used: {reason}")]
    Folder {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// No OS user that could run a server.
    #[error("no user to run PostgreSQL as: {0}")]
    NoUser(String),
    /// A setting that would not survive in postgresql.conf.
    #[error(
        "`{0}` can't be a setting of the embedded PostgreSQL: expected a name of a-z, 0-9, _ and ., and a value of one line"
    )]
    Setting(String),
    /// Somebody else has been starting or stopping the server for too long.
    #[error(
        "another manybox has been starting or stopping PostgreSQL for {seconds} s and holds {lock}; see whether it hangs"
    )]
    Busy {
        /// How long was waited.
        seconds: u64,
        /// The lock's file.
        lock: PathBuf,
    },
    /// No randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The admin's verifier could not be made.
    #[error(transparent)]
    Verifier(#[from] crate::vault::VaultError),
    /// A file or a program can't be used.
    #[error("{path}: {source}")]
    Io {
        /// The file, folder or program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl EmbeddedError {
    /// For `map_err`: says which path an I/O error is about, which [`io::Error`] never does.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Folder {
                path,
                reason: "permission denied; run manybox as the user it belongs to, or choose another folder"
                    .into(),
            },
            _ => Self::Io { path, source },
        }
    }
}
