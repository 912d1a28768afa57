//! Manifest: what an archive is of, and what a restored database must have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::catalog::{JournalHead, TenantRow};
use crate::fleet::dump::HistoryRows;
use crate::migrate::{Facts, Fingerprint};
use crate::policy::{Overrides, Stored};
use crate::tenant::Lineage;

/// The form of manifests.
pub(super) const FORMAT: u32 = 1;

/// What stands beside an archive. It holds no secret: passwords and token keys derive from the id and the master key, and a
/// tenant's own `jwt_secret` stays in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of this.
    pub format: u32,
    /// When the archive was finished.
    #[serde(with = "time::serde::rfc3339")]
    pub made_at: OffsetDateTime,
    /// Whose database it was.
    pub tenant: TenantManifest,
    /// The version of its server.
    pub postgres: String,
    /// The archive.
    pub archive: ArchiveManifest,
    /// Rows of each table, by its quoted name.
    pub rows: BTreeMap<String, i64>,
    /// Where each sequence stood before the dump, by its quoted name. Those that gave no value yet are left out.
    pub sequences: BTreeMap<String, i64>,
    /// How many large objects there are.
    pub large_objects: i64,
    /// The end of the catalog's journal then: `manybox journal verify --head` tells whether it still is a part of it.
    #[serde(default)]
    pub journal: Option<JournalHead>,
    /// What was applied, row by row.
    pub history: HistoryRows,
    /// The hash of the facts.
    pub fingerprint: Fingerprint,
    /// What the schema was.
    pub facts: Facts,
}

/// The archive that a manifest is of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArchiveManifest {
    /// Its name, in the manifest's folder.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// A tenant as the catalog had it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TenantManifest {
    /// Its id.
    pub id: String,
    /// Its name.
    pub slug: String,
    /// Its edition.
    pub edition: String,
    /// Its version, by its own history.
    pub version: i64,
    /// The digest of its history.
    pub history: String,
    /// Its tier.
    pub tier: String,
    /// Its server.
    pub server: String,
    /// All its base URLs.
    pub base_urls: Vec<String>,
    /// What an operator calls it by.
    pub labels: BTreeMap<String, String>,
    /// What it has different, as `tenant set` takes it.
    pub settings: serde_json::Value,
}

impl TenantManifest {
    pub(super) fn of(tenant: &TenantRow, lineage: &Lineage) -> Self {
        let record = &tenant.record;
        // Values by key: never fails.
        let settings = serde_json::to_value(record.overrides.clone().with_jwt_secret(None));
        Self {
            id: record.id.to_string(),
            slug: record.slug.to_string(),
            edition: lineage.edition.clone(),
            version: lineage.version,
            history: lineage.history.clone(),
            tier: record.tier.clone(),
            server: record.server.clone(),
            base_urls: record.base_urls.iter().map(ToString::to_string).collect(),
            labels: tenant.labels.clone(),
            settings: settings.unwrap_or_default(),
        }
    }

    /// What it has different.
    ///
    /// # Errors
    /// When this version doesn't know a key or a value.
    pub fn overrides(&self) -> Result<Overrides, serde_json::Error> {
        Ok(serde_json::from_value::<Stored>(self.settings.clone())?.0)
    }

    /// What schema its database had.
    pub fn lineage(&self) -> Lineage {
        Lineage { edition: self.edition.clone(), version: self.version, history: self.history.clone() }
    }
}
