//! The words of a tenant: its id, its slug, its base URLs, its state and where it lives.

mod base_url;
mod difference;
mod id;
mod labels;
mod origin;
mod slug;
mod state;

pub use base_url::{BaseUrl, Host, Prefix, UrlTemplate};
pub use difference::{Difference, Part};
pub use id::TenantId;
pub use labels::labelled;
pub use origin::{Adopted, Lineage, Origin, Sealed};
pub use slug::Slug;
pub use state::{State, Verb};

use std::ops::Deref;

use crate::policy::{Api, Limits, Overrides};

/// One tenant as the catalog holds it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Record {
    /// Never reused, also not after a purge.
    #[schema(value_type = String)]
    pub id: TenantId,
    /// The name for people and URLs; free again after a purge.
    #[schema(value_type = String)]
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
    /// Where its database comes from.
    #[serde(flatten)]
    pub origin: Origin,
    /// Every base URL that leads here.
    #[schema(value_type = Vec<String>)]
    pub base_urls: Vec<BaseUrl>,
    /// What this tenant has different from the defaults; without secrets.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub overrides: Overrides,
    /// Its secrets, sealed with a master key.
    #[serde(skip)]
    pub sealed: Sealed,
    /// How often an operator asked for its schema to be read again.
    #[serde(skip)]
    pub reloads: i32,
}

impl Record {
    /// Whether requests may reach the tenant's database.
    pub fn is_served(&self) -> bool {
        self.state == State::Active
    }

    /// The name of its database.
    pub fn database(&self) -> String {
        match &self.origin {
            Origin::Lineage(_) => self.id.database(),
            Origin::Adopted(adopted) => adopted.database.clone(),
        }
    }

    /// The role that the router logs in as.
    pub fn login_role(&self) -> String {
        match &self.origin {
            Origin::Lineage(_) => self.id.database(),
            Origin::Adopted(adopted) => adopted.login_role.clone(),
        }
    }

    /// What schema its database has; `None` when it was adopted, for nobody knows.
    pub fn lineage(&self) -> Option<&Lineage> {
        match &self.origin {
            Origin::Lineage(lineage) => Some(lineage),
            Origin::Adopted(_) => None,
        }
    }

    /// Whether its database was there before the tenant, and is not manybox's to change.
    pub fn is_adopted(&self) -> bool {
        matches!(self.origin, Origin::Adopted(_))
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

    /// Whether its database has a version with which it may be served.
    pub fn has_required_version(&self) -> bool {
        match (self.api.require_version, self.lineage()) {
            (Some(required), Some(lineage)) => required.is_met_by(lineage.version),
            (None, _) | (_, None) => true,
        }
    }

    /// The tenant with other settings of its API.
    #[must_use]
    pub fn with_api(&self, api: Api) -> Self {
        Self { api, ..self.clone() }
    }
}

impl Deref for Tenant {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

#[cfg(test)]
impl Record {
    /// A record for tests: active, on `main`, of the first version of edition `shop`.
    pub(crate) fn example(id: &str, slug: &str) -> Self {
        let lineage = Lineage { edition: "shop".into(), version: 1, history: String::new() };
        Self {
            id: id.parse().unwrap(),
            slug: slug.parse().unwrap(),
            state: State::Active,
            tier: "standard".into(),
            server: "main".into(),
            generation: 1,
            key: 1,
            origin: Origin::Lineage(lineage),
            base_urls: Vec::new(),
            overrides: Overrides::default(),
            sealed: Sealed::new(),
            reloads: 0,
        }
    }
}
