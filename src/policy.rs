//! Policy: how a tenant's API is exposed and what it may use, by the keys that operators set.
//!
//! The names and meanings are PostgREST's where PostgREST has them. [`KEYS`] is the one table of all keys.

mod api;
mod key_material;
mod keys;
mod limits;
mod overrides;
pub(crate) mod quantity;
mod role_path;
mod secret;
mod version;

pub use api::{Api, Function, OpenApiMode, TxEnd, Verbosity};
pub use key_material::KeyMaterial;
pub use keys::{Effective, JWT_SECRET, KEYS, Key, Scope};
pub use limits::Limits;
pub use overrides::{InDatabase, MAX_IN_DATABASE_VALUE, Overrides, Stored};
pub use quantity::{MAX_BYTES, MAX_COUNT, MAX_TIME, bytes};
pub use role_path::RolePath;
pub use secret::Secret;
pub use version::VersionRequirement;

/// Why a word given by a person or read from the catalog is not one of ours.
///
/// The sentence names the value and says what would have been right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);
