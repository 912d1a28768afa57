//! Where a cluster's files are: its folder, its data, its socket.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};

use super::EmbeddedError;
use super::user::User;

/// Where data goes that the server's user could not reach in the cluster's folder, such as one below `/root`.
const FALLBACK_FOLDER: &str = "/var/lib/manybox";

/// The files of one cluster.
#[derive(Debug, Clone)]
pub(super) struct ClusterFiles {
    /// The cluster's folder, absolute: locks and the admin's password. Belongs to whoever runs manybox.
    folder: PathBuf,
    /// What the server's user owns: data and log.
    home: PathBuf,
    /// The socket's folder.
    pub(super) socket: PathBuf,
    /// Who runs the server.
    pub(super) user: User,
}

/// Makes the folder if need be, and tells its absolute path.
pub(super) fn folder(path: &Path) -> Result<PathBuf, EmbeddedError> {
    // Passable for the server's user when root makes it; what is secret in it is a file of mode 0600.
    let mode = if uzers::get_effective_uid() == 0 { 0o755 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(EmbeddedError::at(path))?;
    path.canonicalize().map_err(EmbeddedError::at(path))
}

impl ClusterFiles {
    /// Finds or makes the folders of a cluster. The caller holds `start.lock`.
    pub(super) fn of(folder: &Path) -> Result<Self, EmbeddedError> {
        let id = identity(&folder.join("id"))?;
        let near = folder.join("pg");
        let far = Path::new(FALLBACK_FOLDER).join(&id);
        let root = uzers::get_effective_uid() == 0;
        // Data that exists decides, for its user and its folder: a rule that came out differently today, because a
        // parent's mode or the list of users changed, must not present an empty cluster.
        let existing = [&near, &far].into_iter().find(|home| home.join("data").exists());
        let user = match existing.and_then(|home| User::owner(home)) {
            Some(owner) if root => owner,
            _ => User::for_server()?,
        };
        let home = match existing {
            Some(home) if root && !user.reaches(home.parent().unwrap_or(home)) => {
                return Err(EmbeddedError::Folder {
                    path: home.clone(),
                    reason: format!(
                        "the server's user `{}` can't get there any more; let it pass through the folders above \
                         (`chmod o+x`), or run manybox as another user",
                        user.name
                    ),
                });
            }
            Some(home) => home.clone(),
            None if !root || user.reaches(folder) => near,
            None => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(FALLBACK_FOLDER)
                    .map_err(EmbeddedError::at(Path::new(FALLBACK_FOLDER)))?;
                far
            }
        };
        private(&home, &user)?;
        let data = home.join("data");
        if fs::metadata(&data).is_ok_and(|found| found.uid() != user.uid) {
            return Err(EmbeddedError::Folder {
                reason: format!(
                    "it is not a folder of `{0}`, as whom its server runs: after a copy of a backup `chown -R {0}` it",
                    user.name
                ),
                path: data,
            });
        }

        // Below /tmp, although XDG_RUNTIME_DIR is tidier: that differs between a login, a cron job and a service, and
        // all of them must find the same socket. The folder's path is part of the name for copies of a folder.
        let name = digest(&SHA256, &[id.as_bytes(), folder.as_os_str().as_encoded_bytes()].concat());
        let socket = Path::new("/tmp").join(format!("manybox-{}", hex(&name.as_ref()[..6])));
        Ok(Self { folder: folder.to_owned(), home, socket, user })
    }

    /// Makes the socket's folder, or makes sure that nobody else made it.
    pub(super) fn make_socket_folder(&self) -> Result<(), EmbeddedError> {
        private(&self.socket, &self.user)
    }

    /// PostgreSQL's data folder. It exists only as a whole: `initdb` works elsewhere and its result is renamed.
    pub(super) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The server's log.
    pub(super) fn log(&self) -> PathBuf {
        self.home.join("postgres.log")
    }

    /// A folder that the server's user owns and may work in.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    pub(super) fn password_file(&self) -> PathBuf {
        self.folder.join("admin.password")
    }

    pub(super) fn start_lock(&self) -> PathBuf {
        self.folder.join("start.lock")
    }

    pub(super) fn users_lock(&self) -> PathBuf {
        self.folder.join("users.lock")
    }

    /// The major version that made the data; `None` without data.
    pub(super) fn version(&self) -> Result<Option<u32>, EmbeddedError> {
        let path = self.data().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| EmbeddedError::Folder {
                path: self.data(),
                reason: format!(
                    "PG_VERSION says `{}`, which is no version; move the folder away",
                    text.trim()
                ),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound && !self.data().exists() => Ok(None),
            Err(error) => Err(EmbeddedError::at(&path)(error)),
        }
    }
}

/// Writes a file so that a crash leaves the old or the new one, never a half, readable by its owner only.
pub(super) fn write(path: &Path, text: &str, owner: &User) -> Result<(), EmbeddedError> {
    let draft = path.with_extension(format!("{}.draft", random(4)?));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(EmbeddedError::at(&draft))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(EmbeddedError::at(&draft))?;
    owner.own(&draft)?;
    fs::rename(&draft, path).map_err(EmbeddedError::at(path))
}

/// So many random bytes, in hex.
pub(super) fn random(bytes: usize) -> Result<String, EmbeddedError> {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer).map_err(EmbeddedError::Random)?;
    Ok(hex(&buffer))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The cluster's name, made once. Random rather than derived from the path: a folder that was deleted and made again
/// is another cluster, also for data and sockets that lie elsewhere.
fn identity(path: &Path) -> Result<String, EmbeddedError> {
    match fs::read_to_string(path) {
        Ok(id) if id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(id),
        Ok(_) => Err(EmbeddedError::Folder {
            path: path.to_owned(),
            reason: "expected 12 hex digits in it; restore it, or delete the folder around it to start anew"
                .into(),
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let id = random(6)?;
            write(path, &id, &User::current()?)?;
            Ok(id)
        }
        Err(error) => Err(EmbeddedError::at(path)(error)),
    }
}

/// Makes a folder that only `user` may enter, or makes sure that it is such a one: in /tmp anybody could have made it.
fn private(path: &Path, user: &User) -> Result<(), EmbeddedError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return user.own(path),
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(EmbeddedError::at(path)(error)),
        Err(_) => {}
    }
    let found = fs::symlink_metadata(path).map_err(EmbeddedError::at(path))?;
    if found.is_dir() && found.uid() == uzers::get_effective_uid() && found.uid() != user.uid {
        // Ours, but not given away yet: we died between the two steps.
        user.own(path)?;
    } else if !found.is_dir() || found.uid() != user.uid {
        return Err(EmbeddedError::Folder {
            path: path.to_owned(),
            reason: format!("expected a folder of `{}`; remove it if nobody needs it", user.name),
        });
    }
    if found.mode() & 0o077 != 0 {
        return Err(EmbeddedError::Folder {
            path: path.to_owned(),
            reason: format!("others may enter it; `chmod 700 {}`", path.display()),
        });
    }
    Ok(())
}
