//! A primary and its standby, by streaming replication: what fails over in tests.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use manybox::embedded::Embedded;
use tokio_postgres::NoTls;

use super::private_server;

/// One of the two servers. It listens at a socket only.
#[derive(Clone)]
pub(crate) struct Node {
    programs: PathBuf,
    pub(crate) data: PathBuf,
    socket: PathBuf,
    port: u16,
    /// Who the server runs as.
    user: (u32, u32),
}

/// Two nodes, of which `first` begins as the primary.
pub(crate) struct Cluster {
    pub(crate) first: Node,
    pub(crate) second: Node,
    embedded: Embedded,
    _folder: tempfile::TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let embedded = private_server(folder.path().join("own"), false).await;
        let first = Node::of(&embedded).await;
        let second =
            Node { data: first.data.with_file_name("standby"), port: first.port + 1, ..first.clone() };
        first.base_backup(&second.data, &["-R"]);
        second.start();
        Self { first, second, embedded, _folder: folder }
    }

    /// The admin's URL of both, in this order, with these parameters.
    pub(crate) fn url(&self, nodes: [&Node; 2], parameters: &str) -> String {
        let admin = self.embedded.admin_url();
        let credentials = admin.split('@').next().expect("user and password");
        let folder = percent(&self.first.socket);
        let [one, two] = nodes.map(|node| format!("{folder}:{}", node.port));
        format!("{credentials}@{one},{two}/postgres?{parameters}")
    }

    /// Makes the second the primary, as a cluster's manager does: the first is down, and follows it from now on.
    pub(crate) fn switch_over(&self) {
        self.first.stop("fast");
        self.second.promote();
        self.first.follow(&self.second);
        self.first.start();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in [&self.second, &self.first] {
            node.resume();
            node.try_run(
                "pg_ctl",
                &["stop", "-m", "immediate", "-s", "-w", "-D", &node.data.display().to_string()]
                    .map(str::to_owned),
            );
            let _ = std::fs::remove_dir_all(&node.data);
        }
    }
}

impl Node {
    /// A server that manybox runs.
    pub(crate) async fn of(embedded: &Embedded) -> Self {
        let (data, user) = data_of(embedded).await;
        let pid = embedded.postmaster_pid().expect("it runs");
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).expect("the server's program");
        let programs = program.parent().expect("its folder").to_owned();
        Self { programs, data, socket: embedded.host().to_owned(), port: embedded.port(), user }
    }

    /// Makes a base backup of it, which belongs to whom it runs as.
    pub(crate) fn base_backup(&self, into: &Path, more: &[&str]) {
        let (into, socket, port) =
            (into.display().to_string(), self.socket.display().to_string(), self.port.to_string());
        let mut copy =
            vec!["-D", &into, "-X", "stream", "-c", "fast", "-h", &socket, "-p", &port, "-U", "postgres"];
        copy.extend(more);
        self.run("pg_basebackup", &copy.into_iter().map(str::to_owned).collect::<Vec<_>>());
    }

    /// Puts a base backup in the place of its data, with these settings more and perhaps as one that recovers to a moment. It
    /// must not run.
    pub(crate) fn go_back(&self, base: &Path, settings: Option<&str>) {
        std::fs::remove_dir_all(&self.data).expect("removed");
        let copy = ["-a".to_owned(), base.display().to_string(), self.data.display().to_string()];
        assert!(Command::new("cp").args(&copy).status().expect("it runs").success(), "{copy:?}");
        let Some(settings) = settings else { return };
        let auto = self.data.join("postgresql.auto.conf");
        let former = std::fs::read_to_string(&auto).expect("its settings");
        std::fs::write(&auto, former + settings).expect("written");
        let signal = self.data.join("recovery.signal");
        std::fs::write(&signal, "").expect("written");
        std::os::unix::fs::chown(&signal, Some(self.user.0), Some(self.user.1)).expect("given away");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// As the bootstrap superuser.
    pub(crate) async fn superuser(&self) -> tokio_postgres::Client {
        let url = format!("postgres://postgres@{}:{}/postgres", percent(&self.socket), self.port);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("it gets in");
        tokio::spawn(connection);
        client
    }

    pub(crate) fn start(&self) {
        let options = format!("-p {} -k {} -c listen_addresses=", self.port, self.socket.display());
        let log = self.data.with_extension("log");
        let (data, log) = (self.data.display().to_string(), log.display().to_string());
        self.run(
            "pg_ctl",
            &["start", "-s", "-w", "-D", &data, "-l", &log, "-o", &options].map(str::to_owned),
        );
    }

    pub(crate) fn stop(&self, mode: &str) {
        self.run(
            "pg_ctl",
            &["stop", "-s", "-w", "-m", mode, "-D", &self.data.display().to_string()].map(str::to_owned),
        );
    }

    pub(crate) fn promote(&self) {
        self.run(
            "pg_ctl",
            &["promote", "-s", "-w", "-D", &self.data.display().to_string()].map(str::to_owned),
        );
    }

    /// Begins as a standby of the other at its next start.
    fn follow(&self, other: &Self) {
        let from = format!("host={} port={} user=postgres", other.socket.display(), other.port);
        let own = self.data.join("postgresql.auto.conf");
        std::fs::write(&own, format!("primary_conninfo = '{from}'\nrecovery_target_timeline = 'latest'\n"))
            .expect("written");
        let signal = self.data.join("standby.signal");
        std::fs::write(&signal, "").expect("written");
        let (uid, gid) = self.user;
        std::os::unix::fs::chown(&signal, Some(uid), Some(gid)).expect("given away");
    }

    /// Stops all its processes, as if the machine hung: its sockets take connections, and nothing answers.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let Ok(file) = std::fs::read_to_string(self.data.join("postmaster.pid")) else { return };
        let pid = file.lines().next().expect("a pid").trim().to_owned();
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &pid]).output().expect("ps").stdout;
        let children = String::from_utf8_lossy(&children).into_owned();
        let _ = Command::new("kill")
            .arg(signal)
            .arg(&pid)
            .args(children.split_whitespace())
            .stderr(Stdio::null())
            .status();
    }

    fn run(&self, program: &str, arguments: &[String]) {
        assert!(self.try_run(program, arguments), "{program} {arguments:?}");
    }

    fn try_run(&self, program: &str, arguments: &[String]) -> bool {
        let mut command = Command::new(self.programs.join(program));
        if is_root() {
            command.uid(self.user.0).gid(self.user.1);
        }
        // A server that it starts would keep our pipes.
        command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        command.status().expect("it runs").success()
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn percent(folder: &Path) -> String {
    folder.display().to_string().replace('/', "%2F")
}

async fn data_of(server: &Embedded) -> (PathBuf, (u32, u32)) {
    let (client, connection) =
        tokio_postgres::connect(&server.superuser_url(), NoTls).await.expect("it gets in");
    tokio::spawn(connection);
    let data: String = client.query_one("SHOW data_directory", &[]).await.expect("a row").get(0);
    let owner = std::fs::metadata(&data).expect("the data");
    (PathBuf::from(data), (owner.uid(), owner.gid()))
}
