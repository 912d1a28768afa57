//! Shared: the schemas of lineages, and where they are stored.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::key::Key;
use super::own::Entry;
use crate::tenant::Lineage;

/// How long to wait for a lineage's schema, and after that for the next attempt.
pub(super) const SHARED_DEADLINE: Duration = Duration::from_secs(5);
/// When it is looked for again, if it was not stored.
const MISSING_INTERVAL: Duration = Duration::from_secs(60);

/// Where the schemas of lineages are stored. What is here is used for all tenants of a lineage, so no tenant may be able
/// to write it, nor to hold it up.
pub trait SharedSchemas: Send + Sync {
    /// The [`Facts`](crate::schema::Facts) of a lineage's databases on this server in this [form](crate::schema::FORMAT); `None` when they are not
    /// stored.
    fn load<'a>(&'a self, server: &'a str, lineage: &'a Lineage, format: i32) -> Loading<'a>;
}

/// What [`SharedSchemas::load`] gives.
pub type Loading<'a> = Pin<
    Box<dyn Future<Output = Result<Option<String>, Box<dyn std::error::Error + Send + Sync>>> + Send + 'a>,
>;

/// What was found where the schemas of lineages are stored.
#[derive(Clone)]
pub(super) enum Shared {
    Stored(Arc<Entry>),
    Missing,
    /// It could not be looked for, or not be read.
    Unknown,
}

/// What was not found is looked for again.
pub(super) struct Expiry;

impl moka::Expiry<Key, Shared> for Expiry {
    fn expire_after_create(&self, _: &Key, found: &Shared, _: Instant) -> Option<Duration> {
        match found {
            Shared::Stored(_) => None,
            Shared::Missing => Some(MISSING_INTERVAL),
            Shared::Unknown => Some(SHARED_DEADLINE),
        }
    }
}
