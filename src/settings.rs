//! Settings: defaults < `tenants.toml` < `MANYBOX__SECTION__KEY`, typed and checked as a whole.

mod load;
mod sections;

pub use load::{Error, Paths};
pub use sections::{
    Budget, CatalogPlace, Declared, Defaults, EditionFiles, EmbeddedServer, Keys, Listen, Migrate, Server,
};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::tenant::{Limits, Record, Tenant};

/// Everything an operator can set, one field per section of `tenants.toml`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the router listens and which base URLs tenants get by default.
    pub listen: Listen,
    /// Where the catalog is.
    pub catalog: CatalogPlace,
    /// Where the master key is.
    pub keys: Keys,
    /// The private PostgreSQL that is used when `servers` is empty.
    pub embedded: EmbeddedServer,
    /// PostgreSQL servers by name. Empty: manybox starts a private one, named `main`.
    pub servers: BTreeMap<String, Server>,
    /// Lines of schema versions by name.
    pub editions: BTreeMap<String, EditionFiles>,
    /// Commercial limits by name. `standard` is always there.
    pub tiers: BTreeMap<String, Limits>,
    /// What a tenant gets when nothing else is said.
    pub defaults: Defaults,
    /// How migrations run.
    pub migrate: Migrate,
    /// Tenants under version control, by slug.
    pub tenants: BTreeMap<String, Declared>,
}

impl Settings {
    /// Joins a catalog record with the limits and the API settings that apply to it. A tier that the settings
    /// don't have falls back to the default tier: a router with older settings keeps serving.
    pub fn tenant(&self, record: Record) -> Tenant {
        let limits = self.tiers.get(&record.tier).or_else(|| self.tiers.get(&self.defaults.tier));
        let (limits, api) =
            record.overrides.over(limits.cloned().unwrap_or_default(), self.defaults.api.clone());
        Tenant::new(record, limits, api)
    }

    /// What a server gives to tenants' requests.
    pub fn budget(&self, server: &str) -> &Budget {
        self.servers.get(server).map_or(&self.embedded.budget, |server| &server.budget)
    }

    /// Whether manybox runs its own PostgreSQL.
    pub fn is_embedded(&self) -> bool {
        self.servers.is_empty()
    }
}
