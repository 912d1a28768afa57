//! `Origin`: whether manybox made a tenant's database or found it, and what follows from that.

use std::collections::BTreeMap;

use serde::Serialize;

/// Where a tenant's database comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// manybox made it, from an edition's template: database and login are named by the tenant's id.
    Lineage(Lineage),
    /// It was there before the tenant, with schema and roles of its own, and stays when the tenant goes.
    Adopted(Adopted),
}

/// Which schema a database has: the edition, its version, and a digest of the history that led there.
///
/// Two databases with equal lineages were made by the same files in the same order, so they have the same schema, as long as
/// no tenant changed its own: it is read from the template, once for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, utoipa::ToSchema)]
pub struct Lineage {
    /// The edition's name, as in `migrations/<edition>/`.
    pub edition: String,
    /// The newest applied version; 0 when nothing has been applied.
    pub version: i64,
    /// Hex SHA-256 over (version, name, checksum) of every applied file; empty when nothing has been applied.
    pub history: String,
}

/// A database that manybox serves and never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Adopted {
    /// Its name.
    pub database: String,
    /// The role that the router logs in as.
    pub login_role: String,
}

/// Secrets by name (`jwt_secret`, `password`), each sealed with a master key for one tenant. Opened by
/// `vault::KeyRing`.
pub type Sealed = BTreeMap<String, String>;
