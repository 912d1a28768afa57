//! Setting: a private PostgreSQL, a fleet on it, and the router as a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use manybox::embedded::{Embedded, Options};
use manybox::fleet::{Fleet, Servers};
use manybox::pg::{Connection, Endpoint, Login};
use manybox::settings::{Paths, Settings};
use manybox::vault::KeyRing;
use tokio::time::sleep;

use crate::{Done, Failure};

/// What all scenarios stand on.
pub(crate) struct Setting {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) embedded: Embedded,
    tenants: usize,
    /// Tenants of the edition that only a baseline migrates.
    bare: usize,
}

/// A router; it is stopped when dropped.
pub(crate) struct Router {
    child: Child,
    /// `127.0.0.1:port`
    pub(crate) http: String,
    pub(crate) admin: String,
}

impl Setting {
    pub(crate) async fn start() -> Done<Self> {
        let folder = tempfile::Builder::new().prefix("manybox-bench").tempdir_in(target())?;
        let settings = [("max_connections", "300"), ("shared_buffers", "256MB")];
        let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        let options = Options { folder: folder.path().join("pg"), tcp: false, settings };
        let embedded = Embedded::start(&options).await?;
        for edition in ["bench", "bare"] {
            let migrations = folder.path().join("migrations").join(edition);
            std::fs::create_dir_all(&migrations)?;
            std::fs::copy(bench_file("migrations/bench/V1__items.sql"), migrations.join("V1__items.sql"))?;
        }
        let setting = Self { folder, embedded, tenants: 0, bare: 0 };
        setting.write("")?;
        setting.manybox(&["init"])?;
        Ok(setting)
    }

    /// Writes the settings: those of all scenarios and these.
    pub(crate) fn write(&self, more: &str) -> Done {
        let mut toml = format!(
            "[listen]\nhttp = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\n\
             base_urls = ['http://{{tenant}}.localhost', 'http://127.0.0.1/{{tenant}}']\n\
             [keys]\nfile = 'master.key'\n[servers.main]\nurl = '{}'\n\
             [editions.bench]\n[editions.bare]\n[defaults]\nedition = 'bench'\n",
            self.embedded.admin_url()
        );
        for number in 0..self.tenants {
            toml.push_str(&format!("[tenants.t{number}]\n"));
        }
        for number in 0..self.bare {
            toml.push_str(&format!("[tenants.bare{number}]\nedition = 'bare'\n"));
        }
        toml.push_str(more);
        std::fs::write(self.toml(), toml)?;
        Ok(())
    }

    /// Makes sure that `t0` and so on are there.
    pub(crate) async fn tenants(&mut self, number: usize) -> Done {
        if number > self.tenants {
            self.tenants = number;
            self.write("")?;
            self.manybox(&["apply"])?;
        }
        Ok(())
    }

    /// The same for `bare0` and so on, which have an edition of their own.
    pub(crate) async fn bare_tenants(&mut self, number: usize) -> Done {
        if number > self.bare {
            self.bare = number;
            self.write("")?;
            self.manybox(&["apply"])?;
        }
        Ok(())
    }

    pub(crate) fn has(&self) -> usize {
        self.tenants
    }

    pub(crate) fn toml(&self) -> PathBuf {
        self.folder.path().join("tenants.toml")
    }

    /// Runs the program to its end.
    pub(crate) fn manybox(&self, arguments: &[&str]) -> Done {
        let output = program(self.folder.path()).args(arguments).stderr(Stdio::piped()).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("manybox {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into())
    }

    /// The same without holding up what else this process does.
    pub(crate) async fn manybox_beside(&self, arguments: &[&str]) -> Done {
        let mut command = tokio::process::Command::from(program(self.folder.path()));
        let output = command.args(arguments).stderr(Stdio::piped()).output().await?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("manybox {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into())
    }

    /// A connection to a database as the server's superuser.
    pub(crate) async fn superuser(&self, database: &str) -> Done<Connection> {
        let (endpoint, _) = Endpoint::parse("bench", &self.embedded.superuser_url(), None)?;
        let login = Login { user: "postgres".into(), password: None };
        Ok(manybox::pg::connect(&endpoint, &login, database).await?)
    }

    /// The fleet as the library gives it.
    pub(crate) async fn fleet(&self) -> Done<Fleet> {
        let settings = Settings::load(&Paths { file: self.toml() })?;
        let settings = Settings {
            keys: manybox::settings::KeySettings {
                file: self.folder.path().join("master.key"),
                ..settings.keys
            },
            ..settings
        };
        let keys = Arc::new(KeyRing::load(&settings.keys)?);
        let servers = Servers::new(&settings, None)?;
        Ok(Fleet::open(settings, servers, keys).await?)
    }

    /// A router with these settings, once it is ready.
    pub(crate) async fn serve(&self, more: &str) -> Done<Router> {
        self.write(more)?;
        // Fixed ports, because the program tells those it was given only in its log.
        let (http, admin) = (free_port()?, free_port()?);
        let child = program(self.folder.path())
            .arg("serve")
            .env("MANYBOX__LISTEN__HTTP", format!("127.0.0.1:{http}"))
            .env("MANYBOX__LISTEN__ADMIN", format!("127.0.0.1:{admin}"))
            .stderr(std::fs::File::create(self.folder.path().join("serve.log"))?)
            .spawn()?;
        let router = Router { child, http: format!("127.0.0.1:{http}"), admin: format!("127.0.0.1:{admin}") };
        for _ in 0..300 {
            if crate::load::get(&router.admin, "/ready").await.is_ok_and(|(status, _)| status == 200) {
                return Ok(router);
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(Failure::from("the router does not become ready; see serve.log"))
    }

    pub(crate) async fn stop(self) -> Done {
        Ok(self.embedded.stop().await?)
    }
}

impl Router {
    pub(crate) fn resident(&self) -> Done<f64> {
        resident(self.child.id())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // In order, so that its share of the budget is free for the next.
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// Where a tenant's database is and who may log in.
pub(crate) async fn logins(setting: &Setting, number: usize) -> Done<Vec<(Endpoint, Login, String)>> {
    let fleet = setting.fleet().await?;
    let mut all = Vec::new();
    for tenant in 0..number {
        let record = fleet.tenant(&format!("t{tenant}")).await?.record;
        let login = fleet.keys.tenant_logins(&record).into_iter().next().ok_or("no key")?;
        all.push((fleet.servers.get(&record.server)?.endpoint.clone(), login, record.id.database()));
    }
    Ok(all)
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(pid: u32) -> Done<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(kilobytes.parse::<f64>()? * 1024.0)
}

pub(crate) fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_manybox"));
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

pub(crate) fn free_port() -> Done<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(crate) fn bench_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches").join(name)
}

fn target() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}
