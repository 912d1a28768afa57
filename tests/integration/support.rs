//! Support: one private PostgreSQL for the whole run, and a `TestFleet` of its own for each test.

pub(crate) mod cluster;
mod leftovers;
pub(crate) mod proxy;
pub(crate) mod router;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use manybox::catalog::TenantRow;
use manybox::embedded::{Embedded, Options};
use manybox::fleet::{Fleet, Servers, TenantSpec};
use manybox::front::App;
use manybox::pg::Connection;
use manybox::pg::wire::Query;
use manybox::pool::{Budget, Checkout, Pools};
use manybox::settings::{Paths, Settings};
use manybox::vault::KeyRing;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio_postgres::types::FromSql;

use self::leftovers::Leftover;

static SERVER: OnceCell<Embedded> = OnceCell::const_new();
static FLEETS: AtomicU32 = AtomicU32::new(0);

/// The server of this run. It ends with the process, however that ends: a child that waits for our end of a pipe to
/// close stops it and removes its folder.
async fn server() -> &'static Embedded {
    SERVER
        .get_or_init(|| async {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pg-{}", std::process::id()));
            let embedded = private_server(folder.clone(), true).await;
            // It outlives this process on purpose: there is nobody to wait for it.
            #[allow(clippy::zombie_processes)]
            let mut janitor = Command::new("sh")
                .arg("-c")
                .arg("cat; kill -QUIT \"$1\"; sleep 1; rm -rf \"$2\" \"$3\"")
                .arg("janitor")
                .arg(embedded.postmaster_pid().expect("it runs").to_string())
                .arg(&folder)
                .arg(embedded.host())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("sh");
            std::mem::forget(janitor.stdin.take());
            embedded
        })
        .await
}

/// Runs statements as the server's superuser, for what operators of other servers may do: never what a tenant does.
pub(crate) async fn as_superuser(sql: &str) {
    let url = server().await.superuser_url();
    let (client, connection) =
        tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("it gets in");
    let driver = tokio::spawn(connection);
    client.batch_execute(sql).await.expect("statements");
    drop(client);
    let _ = driver.await;
}

/// A private PostgreSQL in this folder, without fsync: tests that pull the plug pull it on the process.
pub(crate) async fn private_server(folder: PathBuf, tcp: bool) -> Embedded {
    let settings = [("fsync", "off"), ("max_connections", "300")];
    let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    Embedded::start(&Options { folder, tcp, settings }).await.expect("PostgreSQL starts")
}

/// The superuser of this run's server, for what nobody else may do.
pub(crate) async fn superuser() -> tokio_postgres::Client {
    let url = server().await.superuser_url();
    let (client, connection) =
        tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("it gets in");
    tokio::spawn(connection);
    client
}

/// The same in a database of its own.
pub(crate) async fn superuser_in(database: &str) -> tokio_postgres::Client {
    let mut config: tokio_postgres::Config =
        server().await.superuser_url().parse().expect("a URL of the server's own");
    let (client, connection) =
        config.dbname(database).connect(tokio_postgres::NoTls).await.expect("it gets in");
    tokio::spawn(connection);
    client
}

/// The admin's URL at this port.
fn tcp_url(server: &Embedded, port: u16) -> String {
    let url = server.admin_url();
    let credentials = url.split('@').next().expect("user and password");
    format!("{credentials}@127.0.0.1:{port}/postgres")
}

/// What a test stands on: a catalog, an edition (`shop`), tenants, and perhaps a router.
pub(crate) struct TestFleet {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) app: Option<App>,
    address: Option<SocketAddr>,
    client: reqwest::Client,
    leftover: Option<Leftover>,
}

/// How a `TestFleet` shall be.
#[derive(Default)]
pub(crate) struct Builder {
    toml: String,
    tcp: bool,
    tenants: Vec<&'static str>,
}

impl Builder {
    /// More of `tenants.toml`.
    pub(crate) fn toml(mut self, text: &str) -> Self {
        self.toml.push_str(text);
        self.toml.push('\n');
        self
    }

    /// Connect by TCP instead of the socket.
    pub(crate) fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// With these tenants of edition `shop`.
    pub(crate) fn tenants(mut self, slugs: &[&'static str]) -> Self {
        self.tenants = slugs.to_vec();
        self
    }

    /// Makes the catalog and the tenants.
    pub(crate) async fn build(self) -> TestFleet {
        let server = server().await;
        let url = if self.tcp {
            tcp_url(server, server.tcp_port().expect("the test server listens on TCP"))
        } else {
            server.admin_url()
        };
        // Boxed, as below: a test thread has 2 MiB, of which a debug build takes several times what a future holds.
        let mut fleet = Box::pin(self.build_on(&url)).await;
        let catalog = fleet.fleet.settings.catalog.database.clone();
        fleet.leftover = Some(Leftover { superuser: server.superuser_url(), catalog });
        fleet
    }

    /// The same on another server.
    pub(crate) async fn build_on(self, admin_url: &str) -> TestFleet {
        let folder = tempfile::tempdir().expect("a folder");
        let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/migrations/shop");
        let migrations = folder.path().join("migrations/shop");
        std::fs::create_dir_all(&migrations).expect("a folder");
        for file in std::fs::read_dir(shop).expect("the shop") {
            let file = file.expect("a file").path();
            std::fs::copy(&file, migrations.join(file.file_name().expect("a name"))).expect("a copy");
        }
        let number = FLEETS.fetch_add(1, Ordering::Relaxed);
        let toml = format!(
            "[listen]\nhttp = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\ndrain_timeout = '1s'\n\
             base_urls = ['http://{{tenant}}.localhost', 'http://127.0.0.1/{{tenant}}']\n\
             [catalog]\ndatabase = 'catalog_{number}'\n[keys]\nfile = 'master.key'\n\
             [servers.main]\nurl = '{admin_url}'\n[editions.shop]\n{}",
            self.toml
        );
        let file = folder.path().join("tenants.toml");
        std::fs::write(&file, toml).expect("a file");
        let settings = Settings::load(&Paths { file }).expect("good settings");
        let keys = Arc::new(KeyRing::load_or_create(&settings.keys).expect("a key"));
        let servers = Servers::new(&settings, None).expect("servers");
        Box::pin(manybox::fleet::init(&settings, &servers, &keys)).await.expect("init");
        let fleet = Arc::new(Box::pin(Fleet::open(settings, servers, keys)).await.expect("a fleet"));
        // No pool of idle connections: a router that is restarted must not be met through a dead one.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
        let fleet = TestFleet { fleet, folder, app: None, address: None, client, leftover: None };
        for slug in self.tenants {
            fleet.create(slug).await;
        }
        fleet
    }

    /// Makes it all and starts a router in this process.
    pub(crate) async fn serve(self) -> TestFleet {
        let mut fleet = self.build().await;
        fleet.start_router().await;
        fleet
    }
}

impl TestFleet {
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) async fn create(&self, slug: &str) -> TenantRow {
        let (slug, spec) = (slug.parse().expect("a slug"), TenantSpec::default());
        Box::pin(self.fleet.create(&slug, &spec)).await.expect("a tenant")
    }

    pub(crate) async fn row(&self, slug: &str) -> TenantRow {
        self.fleet.tenant(slug).await.expect("the tenant")
    }

    /// The tenant as the data plane serves it.
    pub(crate) async fn tenant(&self, slug: &str) -> Arc<manybox::tenant::Tenant> {
        Arc::new(self.fleet.settings.tenant(self.row(slug).await.record))
    }

    /// Pools over this fleet's server.
    pub(crate) fn pools(&self, budget: Budget) -> Pools {
        let endpoints = self.fleet.servers.endpoints().into_iter();
        Pools::new(endpoints.map(|(name, e)| (name, (e, budget))).collect(), Arc::clone(&self.fleet.keys))
    }

    /// The admin, in the tenant's database.
    pub(crate) async fn admin(&self, slug: &str) -> Connection {
        let record = self.row(slug).await.record;
        let server = self.fleet.servers.get(&record.server).expect("its server");
        server.connect_admin_to(&record.id.database()).await.expect("the admin gets in")
    }

    /// The admin, in the catalog's database.
    pub(crate) async fn admin_of_catalog(&self) -> Connection {
        let catalog = &self.fleet.settings.catalog;
        let server = self.fleet.servers.get(&catalog.server).expect("its server");
        server.connect_admin_to(&catalog.database).await.expect("the admin gets in")
    }

    /// The owner in the tenant's database, for DDL behind manybox's back: what its own code may do, by an admin's session.
    pub(crate) async fn owner(&self, slug: &str) -> Connection {
        let client = self.admin(slug).await;
        client.batch_execute("SET ROLE mb_owner").await.expect("it may become the owner");
        client
    }

    /// A handle on the fleet as another process would have one.
    pub(crate) async fn another(&self) -> Fleet {
        let (settings, keys) = (self.fleet.settings.clone(), Arc::clone(&self.fleet.keys));
        Fleet::open(settings, self.fleet.servers.clone(), keys).await.expect("a fleet")
    }

    /// A new handle on the fleet, after its settings changed or its connection was lost.
    pub(crate) async fn reopen(&mut self) {
        let file = self.folder.path().join("tenants.toml");
        let settings = Settings::load(&Paths { file }).expect("good settings");
        let keys = Arc::new(KeyRing::load(&settings.keys).expect("a key"));
        let servers = Servers::new(&settings, None).expect("servers");
        self.fleet = Arc::new(Fleet::open(settings, servers, keys).await.expect("a fleet"));
    }

    pub(crate) async fn edit_settings(&mut self, edit: impl FnOnce(String) -> String) {
        let file = self.folder.path().join("tenants.toml");
        let text = std::fs::read_to_string(&file).expect("the settings");
        std::fs::write(&file, edit(text)).expect("written");
        self.reopen().await;
    }

    /// A router's data plane, without a listener.
    pub(crate) async fn app(&self) -> App {
        let settings = Arc::new(self.fleet.settings.clone());
        let app = App::start(settings, self.fleet.servers.endpoints(), Arc::clone(&self.fleet.keys));
        app.wait_ready().await;
        app
    }

    pub(crate) async fn start_router(&mut self) {
        let app = self.app().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        self.address = Some(listener.local_addr().expect("an address"));
        let service = manybox::front::router(app.clone());
        tokio::spawn(manybox::front::serve(listener, service, app.clients.clone(), std::future::pending()));
        self.app = Some(app);
    }

    /// Waits until the tenant's login is in a transaction. The admin may not see that in `pg_stat_activity`, where
    /// other roles' transactions are hidden, but by their locks.
    pub(crate) async fn until_under_way(&self, slug: &str) {
        let login = self.row(slug).await.record.id.database();
        let admin = self.admin(slug).await;
        let sql = "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid)
                   WHERE usename = $1 AND locktype = 'virtualxid'";
        eventually("a request is under way", || async {
            admin.query_one(sql, &[&login]).await.expect("pg_locks").get::<_, i64>(0) > 0
        })
        .await;
    }

    /// A token of this role, with further claims.
    pub(crate) async fn token(&self, slug: &str, claims: Value) -> String {
        let key = self.fleet.keys.jwt_keys(&self.row(slug).await.record)[0];
        sign(&key, claims)
    }

    /// Where the router listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("a router")
    }

    /// `http://127.0.0.1:PORT/SLUG`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// Waits until the router has its share of the budget. Before it was given one it has a few connections, which its tenants
    /// take from each other.
    pub(crate) async fn has_its_share(&self) {
        let pools = &self.app.as_ref().expect("a fleet that is served").pools;
        let has = async || pools.servers().iter().all(|server| server.budget > 12);
        eventually("the router has its share", has).await;
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).send().await.expect("an answer")).await
    }

    pub(crate) async fn get_as(&self, token: &str, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).bearer_auth(token).send().await.expect("an answer")).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        prefer: &str,
        body: &str,
    ) -> Answer {
        let mut request =
            self.request(method, path).header("Content-Type", "application/json").body(body.to_owned());
        if !prefer.is_empty() {
            request = request.header("Prefer", prefer);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        Answer::of(request.send().await.expect("an answer")).await
    }

    /// The program, in this fleet's folder.
    pub(crate) fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_manybox"));
        command.current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs the program to its end: exit code, standard output, standard error.
    pub(crate) async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.program(arguments);
        let output =
            tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }
}

impl Drop for TestFleet {
    fn drop(&mut self) {
        if let Some(app) = self.app.take() {
            app.abort();
        }
        if let Some(leftover) = self.leftover.take() {
            leftover.leave();
        }
    }
}

/// A program that is killed when its test fails.
pub(crate) struct Running(pub(crate) std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        Self { status: response.status(), headers, text: response.text().await.expect("a body") }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {} {:?}", self.status, self.text))
    }

    /// The `code` of an error.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

pub(crate) fn sign(key: &[u8], claims: Value) -> String {
    manybox::rest::sign_token(&claims, key)
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// Tries until it holds, for at most ten seconds: for what another task or process does in its own time.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("never held: {what}");
}

/// The one value that a statement gives on a pooled connection.
pub(crate) async fn one<T: for<'a> FromSql<'a>>(checkout: &mut Checkout, sql: &str) -> T {
    let query = Query { sql, types: &[], key: None, parameters: &[] };
    let (rows, _) = checkout.wire().rows(&query, 100_000).await.unwrap();
    rows[0].try_get(0).unwrap()
}
