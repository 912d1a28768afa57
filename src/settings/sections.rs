//! The sections of `tenants.toml`; each field says what it is for and what a wrong value costs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::policy::Overrides;
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
    /// Base URLs each tenant gets, with `{tenant}` for its slug.
    pub base_urls: Vec<UrlTemplate>,
    /// Networks whose `X-Forwarded-Host` is believed. Too wide a network lets its members choose any tenant's host.
    pub trusted_proxies: Vec<IpNet>,
    /// How many tenants, the busiest, have metrics of their own; all of them are in `manybox top`.
    pub metrics_tenants: usize,
    /// How long requests under way may take to finish after a stop signal.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
            base_urls: ["http://{tenant}.localhost:8080", "http://127.0.0.1:8080/{tenant}"]
                .iter()
                .filter_map(|t| t.parse().ok())
                .collect(),
            trusted_proxies: Vec::new(),
            metrics_tenants: 20,
            drain_timeout: Duration::from_secs(10),
        }
    }
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
    /// `postgres://ADMIN:PASSWORD@host:port/postgres`; several hosts and `target_session_attrs` as in libpq.
    /// `manybox serve` needs only the place: give it a URL without user and password.
    pub url: String,
    /// PEM file of the certificate authorities to trust, instead of the system's.
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
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EditionFiles {
    /// The folder of its files; `migrations/NAME` when not given.
    pub migrations: Option<PathBuf>,
    /// Extensions its templates get before the first file runs.
    pub extensions: Vec<String>,
    /// A SQL file that `manybox demo` fills a tenant with.
    pub demo: Option<PathBuf>,
    /// How the REST APIs of its tenants are exposed, unless one says otherwise.
    pub api: Overrides,
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
    /// How REST APIs are exposed, unless an edition or a tenant says otherwise.
    pub api: Overrides,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { edition: None, tier: "standard".into(), server: "main".into(), api: Overrides::default() }
    }
}

/// `[migrate]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MigrateSettings {
    /// Databases brought up at the same time. More than the server has cores makes tenants' requests wait.
    pub jobs: usize,
    /// Longest wait for a table's lock; requests queue behind a waiting migration.
    #[serde(with = "humantime_serde")]
    pub lock_timeout: Duration,
    /// How often a file is tried again after `lock_timeout`.
    pub lock_retries: u32,
}

impl Default for MigrateSettings {
    fn default() -> Self {
        Self { jobs: 4, lock_timeout: Duration::from_secs(2), lock_retries: 5 }
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

/// The standard library's own message does not say what an address looks like.
fn address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!("`{text}` is not an address: expected one such as 127.0.0.1:8080"))
    })
}
