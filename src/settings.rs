//! Settings: defaults < `tenants.toml` < `MANYBOX__SECTION__KEY`, typed and checked as a whole.

mod bounds;
mod control;
mod environment;
mod file;
mod load;
mod oidc;
mod reload;
mod rollouts;
mod sections;
mod telemetry;
mod word;

pub use control::ControlSettings;
pub use load::{Paths, SettingsError};
pub use oidc::OidcSettings;
pub use reload::Reloaded;
pub use rollouts::{DEFAULT_POLICY, Failures, Gate, OnError, OnFailures, OrderBy, RolloutPolicy, Wave};
pub use sections::{
    AccessLog, AllTables, BudgetSettings, CatalogSettings, CertificateFiles, ClientSettings, Declared,
    Defaults, EditionFiles, EmbeddedSettings, KeySettings, ListenSettings, LogFormat, LogSettings,
    MigrateSettings, RowSecurity, ServerSettings,
};
pub use telemetry::TelemetrySettings;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::policy::{Api, Limits};
use crate::tenant::{Record, Tenant};

/// Everything an operator can set, one field per section of `tenants.toml`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the router listens and which base URLs tenants get by default.
    pub listen: ListenSettings,
    /// How log lines are written.
    pub log: LogSettings,
    /// Where traces and metrics are sent.
    pub telemetry: TelemetrySettings,
    /// Where the catalog is.
    pub catalog: CatalogSettings,
    /// Where the master key is.
    pub keys: KeySettings,
    /// The private PostgreSQL that is used when `servers` is empty.
    pub embedded: EmbeddedSettings,
    /// PostgreSQL servers by name. Empty: manybox starts a private one, named `main`.
    pub servers: BTreeMap<String, ServerSettings>,
    /// Lines of schema versions by name.
    pub editions: BTreeMap<String, EditionFiles>,
    /// Commercial limits by name. `standard` is always there.
    pub tiers: BTreeMap<String, Limits>,
    /// What a tenant gets when nothing else is said.
    pub defaults: Defaults,
    /// The control service.
    pub control: ControlSettings,
    /// How migrations run.
    pub migrate: MigrateSettings,
    /// How rollouts go, by name; `default` is always there.
    pub rollouts: BTreeMap<String, RolloutPolicy>,
    /// Tenants under version control, by slug.
    pub tenants: BTreeMap<String, Declared>,
}

impl Settings {
    /// Joins a catalog record with the limits and the API settings that apply to it: the defaults, then its edition's,
    /// then its own. An adopted database has PostgREST's defaults instead of the first two, which describe databases
    /// that manybox made. A tier that the settings don't have becomes the default tier, so that a router with older
    /// settings keeps serving.
    pub fn tenant(&self, record: Record) -> Tenant {
        let limits = self.tiers.get(&record.tier).or_else(|| self.tiers.get(&self.defaults.tier));
        let limits = limits.cloned().unwrap_or_default();
        let api = match record.lineage() {
            Some(lineage) => self.edition_api(&lineage.edition),
            None => Api::adopted(),
        };
        let (limits, api) = record.overrides.applied_to(limits, api);
        Tenant::new(record, limits, api)
    }

    /// What a server gives to tenants' requests.
    pub fn budget(&self, server: &str) -> &BudgetSettings {
        self.servers.get(server).map_or(&self.embedded.budget, |server| &server.budget)
    }

    /// What a tenant's limits say and no router does: one sentence each.
    pub fn idle_limits(&self, record: &Record) -> Vec<String> {
        let wanted = self.tenant(record.clone()).limits.max_connections;
        // A tier's may be larger on purpose: its tenants are on servers of all sizes.
        if record.overrides.get("max_connections").is_none() {
            return Vec::new();
        }
        let place = if self.is_embedded() { "embedded".into() } else { format!("servers.{}", record.server) };
        let warning = match self.budget(&record.server).max_per_tenant {
            Some(most) if most < wanted => format!(
                "max_connections = {wanted} has no effect above {place}.budget.max_per_tenant = {most}: raise that too"
            ),
            // As many a router gives on the smallest machine.
            None if wanted > 3 => format!(
                "max_connections = {wanted} has no effect above {place}.budget.max_per_tenant, which is not set: each \
                 router gives a tenant 3 for every two of its own cores; set it to {wanted} or more"
            ),
            _ => return Vec::new(),
        };
        vec![warning]
    }

    /// How the APIs of an edition's tenants are exposed, unless a tenant says otherwise.
    pub fn edition_api(&self, edition: &str) -> Api {
        let (_, api) = self.defaults.api.applied_to(Limits::default(), Api::default());
        match self.editions.get(edition) {
            Some(files) => files.api.applied_to(Limits::default(), api).1,
            None => api,
        }
    }

    /// The API roles that every server of the fleet has, and that every tenant's login may become.
    pub fn roles(&self) -> Vec<String> {
        self.defaults.api.applied_to(Limits::default(), Api::default()).1.roles
    }

    /// Whether there is a server of this name.
    pub fn has_server(&self, name: &str) -> bool {
        self.servers.contains_key(name) || (self.is_embedded() && name == "main")
    }

    /// Whether manybox runs its own PostgreSQL.
    pub fn is_embedded(&self) -> bool {
        self.servers.is_empty()
    }
}
