//! The sections of `tenants.toml`; each field says what it is for and what a wrong value costs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::word::word;
use crate::policy::{Overrides, Secret};
use crate::tenant::UrlTemplate;

/// `[listen]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSettings {
    /// Where clients of tenants connect.
    #[serde(deserialize_with = "address")]
    pub http: SocketAddr,
    /// Where operators and probes connect; keep it off the public network.
    #[serde(deserialize_with = "address")]
    pub admin: SocketAddr,
    /// Where clients connect by TLS; needs `certificates`. Not given: nowhere, TLS is for a proxy in front.
    #[serde(deserialize_with = "maybe_address", skip_serializing_if = "Option::is_none")]
    pub https: Option<SocketAddr>,
    /// Certificates of tenants' hosts, by the name that a client asks for; the first for those that ask for none that is
    /// known. Files are read again when they change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFiles>,
    /// Names under which the admin port is asked, beside those of this machine (`localhost`) and addresses. Any other is
    /// refused: a page in an operator's browser could have its own name lead here.
    pub admin_hosts: Vec<String>,
    /// What the admin port wants as bearer token (`MANYBOX__LISTEN__ADMIN_TOKEN`), at least 16 characters; `/live` and
    /// `/ready` want none. `serve` does not listen beyond this machine without one.
    #[serde(serialize_with = "masked", deserialize_with = "secret")]
    pub admin_token: Option<Secret>,
    /// A file that has it, instead.
    pub admin_token_file: Option<PathBuf>,
    /// Base URLs each tenant gets, with `{tenant}` for its slug.
    pub base_urls: Vec<UrlTemplate>,
    /// Networks whose `X-Forwarded-Host`, `X-Forwarded-For`, `X-Request-Id` and `traceparent` are believed. Too wide a network lets its members choose any tenant's host.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// How many tenants, the busiest, have metrics of their own; all of them are in `manybox top`.
    pub metrics_tenants: usize,
    /// How long requests are served on after a stop signal, while `/ready` says 503: until the balancer in front has noticed.
    /// Longer than it takes to ask twice.
    #[serde(with = "humantime_serde")]
    pub stop_delay: Duration,
    /// Which requests have a line in the log.
    #[serde(deserialize_with = "word")]
    pub access_log: AccessLog,
    /// How long requests under way may take to finish after `stop_delay`.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Where the router keeps its directory, without secrets, so that it can start while the catalog is away. Each router
    /// of a machine needs a file of its own.
    pub directory_file: PathBuf,
    /// How old that may be to be used; `0s` keeps none. What changed since is not known to the router.
    #[serde(with = "humantime_serde")]
    pub stale_directory: Duration,
    /// What clients may hold.
    pub clients: ClientSettings,
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
            https: None,
            certificates: Vec::new(),
            admin_hosts: Vec::new(),
            admin_token: None,
            admin_token_file: None,
            base_urls: ["http://{tenant}.localhost:8080", "http://127.0.0.1:8080/{tenant}"]
                .iter()
                .filter_map(|t| t.parse().ok())
                .collect(),
            trusted_proxies: Vec::new(),
            metrics_tenants: 20,
            stop_delay: Duration::from_secs(5),
            access_log: AccessLog::default(),
            drain_timeout: Duration::from_secs(10),
            directory_file: ".manybox/directory.json".into(),
            stale_directory: Duration::from_secs(24 * 3600),
            clients: ClientSettings::default(),
        }
    }
}

impl ListenSettings {
    /// The admin port's token, from its file or the settings; `None` when there is none.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read_admin_token(&self) -> std::io::Result<Option<Secret>> {
        match &self.admin_token_file {
            Some(file) => Ok(Some(Secret::new(std::fs::read_to_string(file)?.trim()))),
            None => Ok(self.admin_token.clone()),
        }
    }
}

/// `[[listen.certificates]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM: the host's certificate, then those that signed it.
    pub certificate: PathBuf,
    /// PEM: its private key, not encrypted.
    pub key: PathBuf,
}

/// Which requests have a line in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// None.
    Off,
    /// Those answered with 5xx, and those that manybox refused: no tenant, no right, no connection, a limit.
    #[default]
    Errors,
    /// Every one.
    All,
}

/// `[listen.clients]`: what clients may hold of a router: connections, time without progress, memory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSettings {
    /// Most connections at once, and most requests under way. Where they are reached, the connection that was idle for
    /// longest gives its place to a newcomer. Each takes a file descriptor and, idle, some 5 KiB.
    pub max_connections: usize,
    /// Most connections from one address (IPv6: one /64); those of `trusted_proxies` have no such limit. Too few lock out
    /// clients behind a proxy that is not among these.
    pub max_per_address: usize,
    /// Most connections whose latest request was for one tenant; those of `trusted_proxies` don't count.
    pub max_per_tenant: usize,
    /// Longest time from a connection's start to the end of its first request's head; up to a thirty-second part more
    /// (`backoff::spread`).
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    /// Longest time that a connection is kept without a request. Longer than that of the load balancer in front, or that
    /// meets connections which are just being closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long a client may be slower than `min_rate`, in sending a body or in taking an answer.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// Fewest bytes a second that a client sends of a body, or takes of an answer, over `stall_timeout`.
    pub min_rate: u32,
    /// Most bytes that bodies of requests and answers hold in memory, all together; a request's counts twice, as it comes
    /// and as it is sent on. A tenant has half of it at most, and the last quarter is for tenants that hold little. No
    /// body of a request may be longer than a quarter of it.
    #[serde(deserialize_with = "crate::policy::quantity::deserialize")]
    pub max_buffered: usize,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_per_address: 1_000,
            max_per_tenant: 5_000,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(10),
            min_rate: 1024,
            max_buffered: 256 * 1024 * 1024,
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// How `serve` and `control` write their log lines.
    #[serde(deserialize_with = "word")]
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object, for log collectors.
    Json,
}

/// `[catalog]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatalogSettings {
    /// Name of the server that holds it.
    pub server: String,
    /// Name of its database. With `_router` behind it, it is the name of the router's login on every server, and of the
    /// database there from which that login ends sessions of tenants.
    pub database: String,
    /// How often a router compares version counters, in case a notice got lost.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
}

impl Default for CatalogSettings {
    fn default() -> Self {
        Self {
            server: "main".into(),
            database: "manybox_catalog".into(),
            poll_interval: Duration::from_secs(30),
        }
    }
}

/// `[keys]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeySettings {
    /// The master key's file, readable by its owner only. Whoever reads it can log in as every tenant.
    pub file: PathBuf,
    /// The key itself, for platforms that hand out secrets by environment (`MANYBOX__KEYS__MASTER`); wins over the file.
    pub master: Option<String>,
}

impl Default for KeySettings {
    fn default() -> Self {
        Self { file: ".manybox/master.key".into(), master: None }
    }
}

/// `[embedded]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedSettings {
    /// The folder of its data, keys and locks.
    pub folder: PathBuf,
    /// Its connections.
    pub budget: BudgetSettings,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self { folder: ".manybox".into(), budget: BudgetSettings::default() }
    }
}

/// `[servers.NAME]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// `postgres://ADMIN:PASSWORD@host:port/postgres`; several hosts, `target_session_attrs`, TLS and timeouts as in libpq.
    /// `manybox serve` needs only the place: give it a URL without user and password.
    pub url: String,
    /// What `sslrootcert` is where the URL has none: a PEM file of the certificate authorities to trust, or `system`.
    #[serde(default)]
    pub root_cert: Option<PathBuf>,
    /// Its connections.
    #[serde(default)]
    pub budget: BudgetSettings,
}

/// `[servers.NAME.budget]`, `[embedded.budget]`: what a server gives to tenants' requests.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetSettings {
    /// Most connections of all tenants on all routers together. Not given: the server's own `max_connections`, less
    /// what it reserves and `reserved_connections`. Above what the server has, requests get 503 when it is full.
    pub max_connections: Option<u32>,
    /// Connections left to operators, migrations and other control-plane work, which requests can't use.
    pub reserved_connections: u32,
    /// Most connections a router opens at the same time. More don't open faster, and slow down what runs.
    pub max_connecting: u32,
    /// Most connections of one tenant on one router, whatever its tier says. More than the server can run at once make
    /// a tenant no faster, and take processor time from the others. Not given: 3 for every two cores of this
    /// machine, at least 3; where the server is another machine, give 3 for every two of its cores.
    pub max_per_tenant: Option<u32>,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self { max_connections: None, reserved_connections: 20, max_connecting: 4, max_per_tenant: None }
    }
}

/// `[editions.NAME]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EditionFiles {
    /// The folder of its files; `migrations/NAME` when not given.
    pub migrations: Option<PathBuf>,
    /// Extensions its templates get before the first file runs.
    pub extensions: Vec<String>,
    /// Settings of PostgreSQL that its files run with, such as `search_path`; names of your own with a dot in them, such as
    /// `"app.region"`, are what files ask for by `current_setting`. They are no part of a file's checksum.
    pub settings: BTreeMap<String, String>,
    /// A SQL file that `manybox demo` fills a tenant with.
    pub demo: Option<PathBuf>,
    /// How the REST APIs of its tenants are exposed, unless one says otherwise.
    pub api: Overrides,
    /// Tables whose rows are somebody's own, for `manybox verify`: row-level security must be on and forced, and show
    /// nobody a row without claims. `"all"`, or names with or without their schema.
    pub row_security: RowSecurity,
    /// API roles that may see all rows all the same: trusted programs, not people.
    pub row_security_except: Vec<String>,
    /// Whether API roles may make temporary tables, so that functions which make them run with their caller's rights. The
    /// owner always may: migrations do, and SECURITY DEFINER functions. A temporary table takes space and catalog rows like
    /// any other. `manybox init` brings databases over that are there.
    pub temporary_tables: bool,
}

impl Default for EditionFiles {
    fn default() -> Self {
        Self {
            migrations: None,
            extensions: Vec::new(),
            settings: BTreeMap::new(),
            demo: None,
            api: Overrides::default(),
            row_security: RowSecurity::default(),
            row_security_except: vec!["service".into()],
            temporary_tables: false,
        }
    }
}

/// The tables of an edition whose rows are somebody's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected \"all\" or a list of tables")]
pub enum RowSecurity {
    /// These.
    Tables(Vec<String>),
    /// Every one, but those of `manybox` itself.
    All(AllTables),
}

impl Default for RowSecurity {
    fn default() -> Self {
        Self::Tables(Vec::new())
    }
}

/// The word that stands for every table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum AllTables {
    /// `"all"`
    #[serde(rename = "all")]
    All,
}

/// `[defaults]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// The edition of tenants created without one.
    pub edition: Option<String>,
    /// The tier of tenants created without one.
    pub tier: String,
    /// The server of tenants created without one.
    pub server: String,
    /// How long a tenant that was retired can't be purged, unless somebody says `--now`.
    #[serde(with = "humantime_serde")]
    pub purge_grace: Duration,
    /// How REST APIs are exposed, unless an edition or a tenant says otherwise.
    pub api: Overrides,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            edition: None,
            tier: "standard".into(),
            server: "main".into(),
            purge_grace: Duration::ZERO,
            api: Overrides::default(),
        }
    }
}

/// `[migrate]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::manual_non_exhaustive, reason = "the private field is a setting that was renamed")]
pub struct MigrateSettings {
    /// Databases brought up at the same time. More than the server has cores makes tenants' requests wait.
    pub jobs: usize,
    /// Longest wait for a table's lock; requests queue behind a waiting migration.
    #[serde(with = "humantime_serde")]
    pub lock_timeout: Duration,
    /// How long a file is tried again after `lock_timeout`.
    #[serde(with = "humantime_serde")]
    pub lock_patience: Duration,
    /// Longest time for one statement of a file; none by default. Files can lower it.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Option<Duration>,
    /// What `lock_patience` was before.
    #[serde(skip_serializing, deserialize_with = "renamed_lock_retries")]
    lock_retries: (),
}

fn renamed_lock_retries<'de, D: serde::Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    let now =
        "is now `migrate.lock_patience`, a time such as '60s': how long a file is tried again for a lock";
    Err(serde::de::Error::custom(format!("`migrate.lock_retries` {now}")))
}

impl Default for MigrateSettings {
    fn default() -> Self {
        Self {
            jobs: 4,
            lock_timeout: Duration::from_millis(500),
            lock_patience: Duration::from_secs(60),
            statement_timeout: None,
            lock_retries: (),
        }
    }
}

/// `[tenants.SLUG]`: what is not said comes from `[defaults]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Declared {
    /// Its edition; can't be changed later.
    pub edition: Option<String>,
    /// Its tier.
    pub tier: Option<String>,
    /// Its server; can't be changed later.
    pub server: Option<String>,
    /// Base URLs of its own, beside those from `listen.base_urls`.
    pub base_urls: Vec<String>,
    /// What it has different from its tier and from the defaults.
    pub settings: Overrides,
}

pub(super) fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
}

pub(super) fn masked<S: serde::Serializer>(
    secret: &Option<Secret>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| "***").serialize(serializer)
}

/// Networks; an address is a network of its own.
pub(super) fn networks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let parse = |text: &String| {
        text.parse().or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address))).map_err(|_| {
            let expected = "expected one such as 10.0.0.0/8, or an address";
            serde::de::Error::custom(format!("`{text}` is no network: {expected}"))
        })
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(parse).collect()
}

/// The standard library's own message does not say what an address looks like.
fn maybe_address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    address(deserializer).map(Some)
}

pub(super) fn address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!("`{text}` is not an address: expected one such as 127.0.0.1:8080"))
    })
}
