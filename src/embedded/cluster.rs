//! Making, starting and stopping the server. Every caller holds `start.lock`.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::EmbeddedError;
use super::binaries::Binaries;
use super::conf::{self, SUPERUSER};
use super::files::{ClusterFiles, random};
use super::postmaster::{self, Postmaster};

/// The port in the socket's name when there is no TCP: the folder is private, so nobody else has it.
const SOCKET_PORT: u16 = 5432;

/// How long a server may take until it takes logins; a crash recovery of a big cluster needs some of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server log above this size is put aside at the next start.
const LOG_LIMIT: u64 = 16 * 1024 * 1024;

/// A cluster and the programs to run it with.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) files: ClusterFiles,
    pub(super) binaries: Binaries,
    pub(super) tcp: bool,
    pub(super) settings: Vec<(String, String)>,
}

impl Cluster {
    /// Comes back with a server that takes logins and writes, and a session of the superuser, whatever was there before: no
    /// data, no server, a dead one, one that is still starting, recovering or just stopping. `port` keeps a former port.
    pub(super) async fn launch(&self, port: Option<u16>) -> Result<(Postmaster, Client), EmbeddedError> {
        let data = self.files.data();
        if !data.exists() {
            self.init().await?;
        }
        let access_changed = conf::write_access(&self.files)?;
        let begun = Instant::now();
        let mut reload = access_changed;
        loop {
            let Some(server) = self.answering().await else {
                match self.start(port).await {
                    Ok(()) => reload = false,
                    // Backends of a killed server hold its memory until they notice; another process took the port.
                    Err(_) if Postmaster::is_starting(&data) => return Err(self.recovering(false)),
                    Err(error) if begun.elapsed() > Duration::from_secs(15) => return Err(error),
                    Err(error) if !passes(&error) => return Err(error),
                    Err(error) => {
                        tracing::debug!(%error, "PostgreSQL did not start; trying again");
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                }
                continue;
            };
            if reload {
                self.pg_ctl(&["reload"]).await?;
                reload = false;
            }
            let recovery = async {
                let client = self.log_in(&server).await?;
                Ok((recovery(&client).await?, client))
            };
            match recovery.await {
                Ok((Recovery::Over, client)) => return Ok((server, client)),
                Ok((Recovery::UnderWay, _)) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok((unfinished, _)) => return Err(self.recovering(unfinished == Recovery::Paused)),
                // Starting, stopping, gone, full, or the reload has not come through: time changes all of these.
                Err(error) if begun.elapsed() < PATIENCE && is_transient(&error, access_changed) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(source) => {
                    return Err(EmbeddedError::Setup {
                        socket: server.socket,
                        log: self.files.log(),
                        source,
                    });
                }
            }
        }
    }

    /// Stops the server, if one runs, ending its sessions.
    pub(super) async fn stop(&self) -> Result<(), EmbeddedError> {
        if self.answering().await.is_none() {
            return Ok(());
        }
        self.pg_ctl(&["stop", "-m", "fast", "-w", "-t", "60"]).await?;
        // Only tidiness: the next start makes it again.
        let _ = fs::remove_dir(&self.files.socket);
        Ok(())
    }

    /// The server that answers at its socket. One that lives but doesn't answer gets a moment: it may have just been
    /// started by a command that was killed before it could wait.
    async fn answering(&self) -> Option<Postmaster> {
        let data = self.files.data();
        for _ in 0..20 {
            let server = Postmaster::read(&data);
            if let Some(server) = server.filter(Postmaster::answers) {
                return Some(server);
            }
            if !Postmaster::lives(&data) {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// Makes the data folder. It appears under its name only when complete, so a crash leaves none rather than half.
    async fn init(&self) -> Result<(), EmbeddedError> {
        let home = self.files.home();
        // What a killed initdb left. One that still runs loses its files and fails, which is as well.
        for entry in fs::read_dir(home).map_err(EmbeddedError::at(home))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("data.draft-") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let draft = home.join(format!("data.draft-{}", random(4)?));
        let mut last = None;
        // Not every system knows C.UTF-8; C sorts the same and knows fewer letters.
        for locale in ["C.UTF-8", "C"] {
            let program = self.binaries.program("initdb");
            let mut command = self.files.user.command(&program, home);
            command.arg("-D").arg(&draft).args(["-U", SUPERUSER, "-E", "UTF8", "--auth=reject"]);
            // What initdb chooses under most locales; C.UTF-8 has no language, and full-text search then no stems.
            command.arg(format!("--locale={locale}")).arg("--text-search-config=english").kill_on_drop(true);
            let output = command.output().await.map_err(EmbeddedError::at(&program))?;
            if output.status.success() {
                let data = self.files.data();
                return fs::rename(&draft, &data).map_err(EmbeddedError::at(&data));
            }
            last = Some(output);
        }
        let output = last.map(|output| said(&output)).unwrap_or_default();
        Err(EmbeddedError::Program { program: "initdb", data: draft, output, log: String::new() })
    }

    async fn start(&self, port: Option<u16>) -> Result<(), EmbeddedError> {
        let (data, log) = (self.files.data(), self.files.log());
        // Again: a cleaner of /tmp may have taken it while the server was down.
        self.files.make_socket_folder()?;
        postmaster::bury(&data, &self.files.socket)?;
        let port = match port {
            Some(port) => port,
            None if self.tcp => free_port().map_err(EmbeddedError::at(Path::new("127.0.0.1")))?,
            None => SOCKET_PORT,
        };
        conf::write_settings(&self.files, port, self.tcp, &self.settings)?;
        let mut logged = fs::metadata(&log).map_or(0, |log| log.len());
        if logged > LOG_LIMIT {
            fs::rename(&log, log.with_extension("log.1")).map_err(EmbeddedError::at(&log))?;
            logged = 0;
        }
        let seconds = PATIENCE.as_secs().to_string();
        let log_arg = log.to_string_lossy();
        self.pg_ctl(&["start", "-w", "-t", &seconds, "-l", &log_arg]).await.map_err(|error| match error {
            EmbeddedError::Program { program, data, output, .. } => {
                EmbeddedError::Program { program, data, output, log: conf::log_tail(&log, logged) }
            }
            other => other,
        })
    }

    /// pg_ctl rather than postgres itself: it puts the server into a session of its own, away from our terminal.
    async fn pg_ctl(&self, arguments: &[&str]) -> Result<(), EmbeddedError> {
        let program = self.binaries.program("pg_ctl");
        let data = self.files.data();
        let mut command = self.files.user.command(&program, self.files.home());
        command.args(arguments).arg("-s").arg("-D").arg(&data);
        let output = command.output().await.map_err(EmbeddedError::at(&program))?;
        if output.status.success() {
            return Ok(());
        }
        Err(EmbeddedError::Program { program: "pg_ctl", data, output: said(&output), log: String::new() })
    }

    fn recovering(&self, paused: bool) -> EmbeddedError {
        let (socket, log) = (self.files.socket.clone(), self.files.log());
        if paused { EmbeddedError::Paused { socket } } else { EmbeddedError::Recovering { log } }
    }

    async fn log_in(&self, server: &Postmaster) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&server.socket)
            .port(server.port)
            .user(SUPERUSER)
            .dbname("postgres")
            .application_name("manybox set-up")
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// How far a server is that was started from a base backup or after a crash.
#[derive(PartialEq)]
enum Recovery {
    UnderWay,
    /// At the moment to which it was told to recover, until somebody resumes it.
    Paused,
    Over,
}

/// A server that can be read already may be recovering still. One that is stopped then goes on past the moment to which it was
/// told to recover when it is started again, without a word.
async fn recovery(client: &Client) -> Result<Recovery, tokio_postgres::Error> {
    let sql = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery()
                      THEN pg_catalog.pg_get_wal_replay_pause_state() = 'paused' END";
    let paused: Option<bool> = client.query_one(sql, &[]).await?.try_get(0)?;
    Ok(match paused {
        None => Recovery::Over,
        Some(true) => Recovery::Paused,
        Some(false) => Recovery::UnderWay,
    })
}

/// Whether a failed start may succeed in a moment without anybody's help.
fn passes(error: &EmbeddedError) -> bool {
    let EmbeddedError::Program { log, .. } = error else { return false };
    ["shared memory block", "Address already in use", "could not bind"].iter().any(|sign| log.contains(sign))
}

fn is_transient(error: &tokio_postgres::Error, reloaded: bool) -> bool {
    match error.code() {
        Some(code) => {
            [SqlState::CANNOT_CONNECT_NOW, SqlState::ADMIN_SHUTDOWN, SqlState::TOO_MANY_CONNECTIONS]
                .contains(code)
                || (reloaded && code.code().starts_with("28"))
        }
        None => true,
    }
}

/// A port that was free a moment ago. Somebody may take it before PostgreSQL does; the start is then tried again.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn said(output: &Output) -> String {
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    String::from_utf8_lossy(text).trim().to_owned()
}
