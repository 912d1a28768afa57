//! The words of a tenant: its id, its slug, its state, where it lives and what it may use.

mod base_url;
mod id;
mod limits;
mod slug;
mod state;

pub use base_url::{BaseUrl, Host, Prefix, UrlTemplate};
pub use id::TenantId;
pub use limits::{Api, Limits, Overrides};
pub use slug::Slug;
pub use state::{State, Verb};

use std::ops::Deref;

/// Why a word given by a person or read from the catalog is not one of ours.
///
/// The sentence names the value and says what would have been right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// Which schema a database has: the edition, its version, and a digest of the history that led there.
///
/// Two databases with equal lineages were made by the same files in the same order, so they have the same
/// schema: the router introspects one of them and shares what it read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Lineage {
    /// The edition's name, as in `migrations/<edition>/`.
    pub edition: String,
    /// The newest applied version; 0 when nothing has been applied.
    pub version: i32,
    /// Hex SHA-256 over (version, name, checksum) of every applied file; empty when nothing has been applied.
    pub history: String,
}

/// One tenant as the catalog holds it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Record {
    /// Never reused, also not after a purge.
    pub id: TenantId,
    /// The name for people and URLs; free again after a purge.
    pub slug: Slug,
    /// Where the tenant stands in its life.
    pub state: State,
    /// The tier's name; its limits are in the settings.
    pub tier: String,
    /// The server's name; its address is in the settings.
    pub server: String,
    /// Raised when credentials must change without a new master key. Part of every derived secret.
    pub generation: i32,
    /// Which master key the tenant's password was last derived from.
    pub key: i32,
    /// What schema the database has.
    pub lineage: Lineage,
    /// Every base URL that leads here.
    pub base_urls: Vec<BaseUrl>,
    /// What this tenant has different from the defaults.
    pub overrides: Overrides,
}

impl Record {
    /// Whether requests may reach the tenant's database.
    pub fn is_served(&self) -> bool {
        self.state == State::Active
    }
}

/// A tenant as the data plane serves it: the record, and what the settings make of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    record: Record,
    /// Limits of the tier, with the tenant's own on top.
    pub limits: Limits,
    /// How its REST API is exposed.
    pub api: Api,
}

impl Tenant {
    /// Joins a record with the limits and the API settings that apply to it.
    pub fn new(record: Record, limits: Limits, api: Api) -> Self {
        Self { record, limits, api }
    }
}

impl Deref for Tenant {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}
