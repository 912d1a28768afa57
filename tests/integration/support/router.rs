//! A router in a process of its own: `manybox serve`, where it listens, and its end.

use std::net::TcpListener;
use std::process::Stdio;

use super::{Running, TestFleet, eventually};

/// Addresses that nobody listens on; both at once, so that they differ.
pub(crate) fn addresses() -> [String; 2] {
    let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    free.map(|listener| listener.local_addr().unwrap().to_string())
}

/// `manybox serve`.
pub(crate) struct Router {
    pub(crate) process: Running,
    pub(crate) http: String,
    pub(crate) admin: String,
    log: std::path::PathBuf,
}

impl Router {
    /// Starts it on free ports, and waits until it is ready.
    pub(crate) async fn start(fleet: &TestFleet, environment: &[(&str, &str)]) -> Self {
        let router = Self::begin(fleet, addresses(), environment);
        router.until_ready().await;
        router
    }

    /// Starts it at these addresses, and does not wait.
    pub(crate) fn begin(fleet: &TestFleet, addresses: [String; 2], environment: &[(&str, &str)]) -> Self {
        Self::begin_with(fleet, addresses, environment, &["serve"])
    }

    /// Starts it, logging JSON, and waits until it is ready.
    pub(crate) async fn start_logging_json(fleet: &TestFleet, environment: &[(&str, &str)]) -> Self {
        let router = Self::begin_with(fleet, addresses(), environment, &["serve", "--json"]);
        router.until_ready().await;
        router
    }

    fn begin_with(
        fleet: &TestFleet,
        [http, admin]: [String; 2],
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Self {
        let log = fleet.folder.path().join(format!("{}.log", admin.replace(':', "-")));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut serve = fleet.program(arguments);
        serve.env("MANYBOX__LISTEN__HTTP", &http).env("MANYBOX__LISTEN__ADMIN", &admin);
        serve.envs(environment.iter().copied()).stdout(Stdio::null()).stderr(file);
        Self { process: Running(serve.spawn().unwrap()), http, admin, log }
    }

    pub(crate) async fn until_ready(&self) {
        let ready = self.of_admin("/ready");
        eventually("it is ready", || async { reqwest::get(&ready).await.is_ok_and(|a| a.status() == 200) })
            .await;
    }

    /// A URL of its data port.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// A URL of its admin port.
    pub(crate) fn of_admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// What the admin port tells.
    pub(crate) async fn told(&self, path: &str) -> serde_json::Value {
        reqwest::get(self.of_admin(path)).await.unwrap().json().await.unwrap()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The lines of its log about requests, which is JSON.
    pub(crate) fn requests(&self) -> Vec<serde_json::Value> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.map(|mut line| line["fields"].take()).filter(|fields| fields["message"] == "request").collect()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.0.id().to_string();
        std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(mut self) -> [String; 2] {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
        [self.http, self.admin]
    }

    /// Waits for its end; whether it ended well.
    pub(crate) async fn ended(mut self) -> bool {
        tokio::task::spawn_blocking(move || self.process.0.wait()).await.unwrap().unwrap().success()
    }
}
