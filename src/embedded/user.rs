//! The OS user that runs the server: ourselves, or somebody without rights when we are root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tokio::process::Command;

use super::EmbeddedError;

/// An OS user. PostgreSQL refuses to run as root, so it is not always the one who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    gid: u32,
}

impl User {
    /// Who runs this process.
    pub(super) fn current() -> Result<Self, EmbeddedError> {
        let uid = uzers::get_effective_uid();
        Self::by_id(uid).ok_or_else(|| {
            EmbeddedError::NoUser(format!(
                "user id {uid} has no name in the system's user list, and PostgreSQL needs one; add it to /etc/passwd"
            ))
        })
    }

    /// Who is to run a server whose files don't exist yet.
    pub(super) fn for_server() -> Result<Self, EmbeddedError> {
        let current = Self::current()?;
        if current.uid != 0 {
            return Ok(current);
        }
        ["postgres", "nobody"].into_iter().find_map(|name| uzers::get_user_by_name(name).map(Self::from)).ok_or_else(
            || {
                EmbeddedError::NoUser(
                    "manybox runs as root, PostgreSQL must not, and there is neither a user `postgres` nor `nobody`; \
                     add one, or run manybox as another user"
                        .into(),
                )
            },
        )
    }

    /// Who owns files, unless that is root or somebody unknown.
    pub(super) fn owner(path: &Path) -> Option<Self> {
        let uid = fs::metadata(path).ok()?.uid();
        if uid == 0 { None } else { Self::by_id(uid) }
    }

    fn by_id(uid: u32) -> Option<Self> {
        uzers::get_user_by_uid(uid).map(Self::from)
    }

    /// Whether this user could open files in `folder`, as far as the modes of the folder and of all above it tell.
    pub(super) fn reaches(&self, folder: &Path) -> bool {
        folder.ancestors().all(|part| {
            fs::metadata(part).is_ok_and(|of| {
                let needed = if of.uid() == self.uid {
                    0o100
                } else if of.gid() == self.gid {
                    0o010
                } else {
                    0o001
                };
                of.mode() & needed != 0
            })
        })
    }

    /// Gives this user a file or folder that we made.
    pub(super) fn own(&self, path: &Path) -> Result<(), EmbeddedError> {
        if uzers::get_effective_uid() == self.uid {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).map_err(EmbeddedError::at(path))
    }

    /// A program to be run as this user: in a clean environment, since a stray PGDATA or PGHOST would lead it astray,
    /// and in its own process group, since Ctrl-C in a terminal reaches the whole group.
    pub(super) fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").current_dir(folder).process_group(0);
        command.stdin(std::process::Stdio::null());
        for name in ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if uzers::get_effective_uid() != self.uid {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }
}

impl From<uzers::User> for User {
    fn from(user: uzers::User) -> Self {
        Self {
            name: user.name().to_string_lossy().into_owned(),
            uid: user.uid(),
            gid: user.primary_group_id(),
        }
    }
}
