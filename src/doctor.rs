//! Doctor: looks a whole fleet over for what is not as it should be, and says what to do. It changes nothing.
//!
//! A part looks at one thing, on its own: what it can't look at is a finding too, and stops no other part. A new part is a
//! file here and a line in [`examine`].

mod catalog;
mod databases;
mod misfits;
mod routers;
mod servers;

use std::time::Duration;

use serde::Serialize;

use crate::catalog::{Catalog, CatalogError};
use crate::fleet::Servers;
use crate::pg::Waits;
use crate::settings::Settings;
use crate::vault::{KeyMisfit, KeyRing};

pub use misfits::misfits;

/// Longest wait for a server.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind it is. Stays the same over versions of manybox: programs may compare it.
    pub code: &'static str,
    /// What was seen.
    pub what: String,
    /// The setting, server, tenant or router that it is about.
    #[serde(rename = "where")]
    pub place: String,
    /// What to do next: a command, or what to write into the settings.
    pub next: String,
}

impl Finding {
    /// A finding of this code.
    pub fn new(
        code: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { code, what: what.into(), place: place.into(), next: next.into() }
    }
}

/// What the parts look at.
pub struct Patient<'a> {
    /// The settings of this process.
    pub settings: &'a Settings,
    /// The servers in them.
    pub servers: &'a Servers,
    /// The catalog; none where it can't be had, which is a finding already.
    pub catalog: Option<Catalog>,
    /// The master keys; none where they can't be read or are not the fleet's, which is a finding already.
    pub keys: Option<KeyRing>,
    /// Whether the newest of them is one that the fleet has not moved to: a rotation was begun here.
    pub begun: bool,
}

/// Looks at everything. `progress` is told what is looked at.
pub async fn examine(
    settings: &Settings,
    servers: &Servers,
    progress: impl Fn(&'static str),
) -> Vec<Finding> {
    let mut findings = Vec::new();
    progress("the master key");
    let mut keys = match KeyRing::load(&settings.keys) {
        Ok(keys) => Some(keys),
        Err(error) => {
            let next = "bring the master key to this machine (`keys.file`, or MANYBOX__KEYS__MASTER)";
            findings.push(Finding::new("D01", "keys", error.to_string(), next));
            None
        }
    };
    progress("the catalog");
    let catalog = match open(settings, servers).await {
        Ok(catalog) => Some(catalog),
        Err(reason) => {
            let place = format!("server {}, database {}", settings.catalog.server, settings.catalog.database);
            let next = "start its server; where there never was a catalog, make it with `manybox init`; a lost one comes back from \
                        its dump, or by `manybox doctor --rebuild-catalog`";
            findings.push(Finding::new("D10", place, reason, next));
            None
        }
    };
    let misfit = match (&catalog, &keys) {
        (Some(catalog), Some(keys)) => misfit(catalog, keys).await,
        _ => None,
    };
    let begun = matches!(misfit, Some(KeyMisfit::Begun { .. }));
    if let Some(misfit) = misfit {
        let next = if begun {
            "manybox rekey"
        } else {
            // What a wrong one says of routers and of marks is wrong as well.
            keys = None;
            "`manybox keys` says which key is expected, and what to do when it is lost"
        };
        findings.push(Finding::new("D01", "keys", misfit.to_string(), next));
    }
    let patient = Patient { settings, servers, catalog, keys, begun };
    findings.extend(catalog::look(&patient).await);
    progress("the settings");
    findings.extend(misfits::look(&patient).await);
    progress("routers");
    findings.extend(routers::look(&patient).await);
    progress("servers");
    findings.extend(servers::look(&patient).await);
    progress("databases");
    findings.extend(databases::look(&patient).await);
    findings.sort_by(|a, b| (a.code, &a.place).cmp(&(b.code, &b.place)));
    findings
}

/// Why the keys of this machine are not the fleet's. A catalog that can't tell is a finding of another part.
async fn misfit(catalog: &Catalog, keys: &KeyRing) -> Option<KeyMisfit> {
    keys.fit(&catalog.master_keys().await.ok()?).err()
}

async fn open(settings: &Settings, servers: &Servers) -> Result<Catalog, String> {
    let server = servers.get(&settings.catalog.server).map_err(|error| error.to_string())?;
    let admin = server.admin().map_err(|error| error.to_string())?;
    let waits = Waits { free: PATIENCE, login: PATIENCE, alive: PATIENCE };
    Catalog::open(&server.endpoint, admin, &settings.catalog.database, waits)
        .await
        .map_err(|error| error.to_string())
}

/// The findings, or that they could not be looked for.
fn or_unread(place: &str, findings: Result<Vec<Finding>, CatalogError>) -> Vec<Finding> {
    findings.unwrap_or_else(|error| {
        let next = "if the catalog was made by an older manybox, run `manybox init`";
        vec![Finding::new("D19", place, format!("could not be looked at: {error}"), next)]
    })
}
