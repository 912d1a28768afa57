//! A private PostgreSQL for the demo and the tests: commands share it, and the last one out stops it.
//!
//! A folder (`.manybox`) stands for one cluster. Whoever needs the cluster calls [`Embedded::start`], which joins the
//! server that runs or starts one, and [`Embedded::stop`] when done. Two lock files keep this right whatever dies:
//! `start.lock` is held exclusively while a server is started or stopped, `users.lock` is shared by everybody who uses
//! it, and the kernel lets go of both when a process ends. A manybox that was killed leaves a running server behind;
//! the next command joins it.

mod admin;
mod binaries;
mod cluster;
mod conf;
mod error;
mod files;
mod lock;
mod postmaster;
mod user;

pub use error::EmbeddedError;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};

use self::binaries::Binaries;
use self::cluster::Cluster;
use self::files::ClusterFiles;
use self::postmaster::Postmaster;

/// How long a dead server stays unnoticed at most. One look reads two small files.
const WATCH_INTERVAL: Duration = Duration::from_millis(300);

/// Whether a cluster was made in this folder.
pub fn exists(folder: &Path) -> bool {
    folder.join("id").exists()
}

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the cluster, its locks and its admin's password; made when it doesn't exist.
    pub folder: PathBuf,
    /// Whether a server that this call starts also listens on a free port of 127.0.0.1. A running one stays as it is.
    pub tcp: bool,
    /// Settings of PostgreSQL (name, value) above manybox's own, for a server that this call starts.
    pub settings: Vec<(String, String)>,
}

/// A use of the cluster: while one is alive, no other command stops the server.
///
/// Dropped without [`Embedded::stop`], it lets go of the cluster and leaves the server running.
#[derive(Debug)]
pub struct Embedded {
    cluster: Arc<Cluster>,
    server: Postmaster,
    password: String,
    users: File,
    leaving: Arc<AtomicBool>,
    watch: std::sync::Mutex<Option<AbortHandle>>,
}

impl Embedded {
    /// Joins the cluster's running server, or starts one; makes the cluster first when there is none.
    ///
    /// # Errors
    /// No PostgreSQL on this machine, data of another major version, a folder that can't be used, or a server that
    /// won't start: see [`EmbeddedError`].
    pub async fn start(options: &Options) -> Result<Self, EmbeddedError> {
        conf::check(&options.settings)?;
        let folder = files::folder(&options.folder)?;
        let starting = lock::exclusive(&folder.join("start.lock")).await?;
        let files = ClusterFiles::of(&folder)?;
        let binaries = Binaries::find(files.version()?, &files.data()).await?;
        let cluster =
            Arc::new(Cluster { files, binaries, tcp: options.tcp, settings: options.settings.clone() });

        // Taken before the server starts, so that a failure further down finds itself among the users to count.
        let users = lock::shared(&folder.join("users.lock"))?;
        let ready = async {
            let (server, superuser) = cluster.launch(None).await?;
            let password = admin::ensure(&superuser, &cluster.files.password_file()).await?;
            Ok((server, password))
        };
        match ready.await {
            Ok((server, password)) => Ok(Self {
                cluster,
                server,
                password,
                users,
                leaving: Arc::default(),
                watch: std::sync::Mutex::default(),
            }),
            Err(error) => {
                // Stopped amid its recovery it would have to begin again, or go on past the moment that it was told.
                let recovers =
                    matches!(error, EmbeddedError::Recovering { .. } | EmbeddedError::Paused { .. });
                if !recovers && let Err(second) = leave(&cluster, users).await {
                    tracing::warn!(%second, "the embedded PostgreSQL was left running");
                }
                drop(starting);
                Err(error)
            }
        }
    }

    /// The URL of the admin, with its password: CREATEDB and CREATEROLE, not a superuser.
    pub fn admin_url(&self) -> String {
        let (host, port) = (url_host(self.host()), self.port());
        format!("postgres://{}:{}@{host}:{port}/postgres", admin::NAME, self.password)
    }

    /// The URL without user and password: what a process that is not the admin's may know.
    pub fn place_url(&self) -> String {
        format!("postgres://{}:{}/postgres", url_host(self.host()), self.port())
    }

    /// The URL of the bootstrap superuser, who comes in as this process's OS user and has no password. For tests only.
    pub fn superuser_url(&self) -> String {
        format!("postgres://{}@{}:{}/postgres", conf::SUPERUSER, url_host(self.host()), self.port())
    }

    /// The folder of the server's socket.
    pub fn host(&self) -> &Path {
        &self.server.socket
    }

    /// The port in the socket's name. It stays the same when the server is restarted by [`Embedded::supervise`].
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// The port on 127.0.0.1, when the server listens there.
    pub fn tcp_port(&self) -> Option<u16> {
        self.server.tcp.then_some(self.server.port)
    }

    /// The process id of the server as its pid file tells, whether that process lives or not. For tests.
    pub fn postmaster_pid(&self) -> Option<u32> {
        Postmaster::read(&self.cluster.files.data())
            .map(|server| server.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Keeps the server alive from now on: a server that died is started again on the same socket and port.
    /// For commands that run for long. Ends with [`Embedded::stop`] or with the handle that it returns.
    pub fn supervise(&self) -> JoinHandle<()> {
        let (cluster, leaving, port) = (Arc::clone(&self.cluster), Arc::clone(&self.leaving), self.port());
        let task = tokio::spawn(async move {
            while !leaving.load(Ordering::Acquire) {
                tokio::time::sleep(WATCH_INTERVAL).await;
                if Postmaster::lives(&cluster.files.data()) {
                    continue;
                }
                tracing::warn!(data = %cluster.files.data().display(), "the embedded PostgreSQL died; starting it again");
                // A task of its own: aborting the watch must not leave a start half done and unlocked.
                let restart = tokio::spawn(restart(Arc::clone(&cluster), Arc::clone(&leaving), port));
                match restart.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "the embedded PostgreSQL did not start; trying again")
                    }
                    Err(_) => return,
                }
            }
        });
        if let Ok(mut watch) = self.watch.lock()
            && let Some(former) = watch.replace(task.abort_handle())
        {
            former.abort();
        }
        task
    }

    /// Lets go of the cluster; stops the server when nobody else uses it. Sessions that are still open are ended.
    ///
    /// # Errors
    /// When the server doesn't stop within a minute, or the locks can't be used.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        self.leaving.store(true, Ordering::Release);
        if let Ok(mut watch) = self.watch.lock()
            && let Some(watch) = watch.take()
        {
            watch.abort();
        }
        let _starting = lock::exclusive(&self.cluster.files.start_lock()).await?;
        let users = self.users.try_clone().map_err(EmbeddedError::at(&self.cluster.files.users_lock()))?;
        leave(&self.cluster, users).await
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.leaving.store(true, Ordering::Release);
        if let Ok(mut watch) = self.watch.lock()
            && let Some(watch) = watch.take()
        {
            watch.abort();
        }
    }
}

async fn restart(cluster: Arc<Cluster>, leaving: Arc<AtomicBool>, port: u16) -> Result<(), EmbeddedError> {
    let _starting = lock::exclusive(&cluster.files.start_lock()).await?;
    // Whoever held the lock may have been our own `stop`, which ended the server on purpose.
    if leaving.load(Ordering::Acquire) {
        return Ok(());
    }
    cluster.launch(Some(port)).await.map(|_| ())
}

/// Gives up a use of the cluster and stops the server if that was the last one. The caller holds `start.lock`, so
/// nobody can come in between the question and the act.
async fn leave(cluster: &Cluster, users: File) -> Result<(), EmbeddedError> {
    let path = cluster.files.users_lock();
    // Unlocked explicitly: a closed file stays locked while a child between fork and exec has a copy of it.
    users.unlock().map_err(EmbeddedError::at(&path))?;
    drop(users);
    match lock::only_user(&path)? {
        Some(_alone) => cluster.stop().await,
        None => Ok(()),
    }
}

/// A socket's folder where a URL has its host: only the characters that a host can't have are escaped.
fn url_host(folder: &Path) -> String {
    percent_encoding::utf8_percent_encode(&folder.to_string_lossy(), percent_encoding::NON_ALPHANUMERIC)
        .to_string()
}
