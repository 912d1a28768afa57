//! The running server as its pid file tells, and whether to believe that file.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};

use super::EmbeddedError;

/// What `postmaster.pid` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Postmaster {
    pub(super) pid: Pid,
    pub(super) port: u16,
    pub(super) socket: PathBuf,
    pub(super) tcp: bool,
}

impl Postmaster {
    /// Reads the pid file; `None` when there is none, or when it is not complete yet.
    pub(super) fn read(data: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(data.join("postmaster.pid")).ok()?)
    }

    /// Its lines are: pid, data folder, start time, port, socket folder, TCP address (or empty), shared memory, status.
    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().collect();
        Some(Self {
            pid: lines.first()?.trim().parse().ok().and_then(Pid::from_raw)?,
            port: lines.get(3)?.trim().parse().ok()?,
            socket: PathBuf::from(*lines.get(4)?),
            tcp: !lines.get(5)?.trim().is_empty(),
        })
    }

    /// Whether the pid file tells of a server that takes no logins yet: it has its status in the eighth line.
    pub(super) fn is_starting(data: &Path) -> bool {
        let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        Self::lives(data)
            && text.lines().nth(7).is_some_and(|is| ["starting", "standby"].contains(&is.trim()))
    }

    /// Whether a server answers at the socket. The only proof: a pid may belong to another process by now, or to a
    /// server that nobody has reaped.
    pub(super) fn answers(&self) -> bool {
        UnixStream::connect(self.socket.join(format!(".s.PGSQL.{}", self.port))).is_ok()
    }

    /// Whether the process in the pid file lives. Weaker than [`Postmaster::answers`], but doesn't make the server
    /// start a backend each time.
    pub(super) fn lives(data: &Path) -> bool {
        Self::read(data).is_some_and(|server| is_process(server.pid))
    }
}

fn is_process(pid: Pid) -> bool {
    match test_kill_process(pid) {
        // It is there, but may be a zombie: in a container, process 1 often reaps nobody.
        Ok(()) | Err(rustix::io::Errno::PERM) => {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            // `4711 (name, perhaps with brackets) Z …`
            !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
        }
        Err(_) => false,
    }
}

/// Clears what a dead server left and PostgreSQL would stumble over: it takes any process with the old pid, even a
/// zombie, for a running server.
///
/// In the data folder only the pid is replaced, by one that no system gives out. The rest of the file stays: it names
/// the shared memory by which PostgreSQL finds out whether old backends still use the data.
pub(super) fn bury(data: &Path, socket: &Path) -> Result<(), EmbeddedError> {
    let path = data.join("postmaster.pid");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
            fs::write(&path, format!("{}\n{rest}", i32::MAX)).map_err(EmbeddedError::at(&path))?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(EmbeddedError::at(&path)(error)),
    }
    // The socket's own lock file knows nothing but the pid. The folder is private, so all in it is the dead server's.
    for entry in fs::read_dir(socket).map_err(EmbeddedError::at(socket))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".s.PGSQL.") {
            fs::remove_file(entry.path()).map_err(EmbeddedError::at(&entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_file_with_and_without_tcp() {
        let socket_only = "4711\n/data\n1700000000\n5432\n/tmp/x\n\n 1 2\nready   \n";
        let server = Postmaster::parse(socket_only).expect("complete");
        assert_eq!((server.port, server.tcp), (5432, false));
        let tcp = socket_only.replace("/tmp/x\n\n", "/tmp/x\n127.0.0.1\n");
        assert!(Postmaster::parse(&tcp).expect("complete").tcp);
        assert_eq!(Postmaster::parse("4711\n/data\n"), None);
    }
}
