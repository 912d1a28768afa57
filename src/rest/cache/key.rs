//! What a schema in use is found by.

use equivalent::Equivalent;

use crate::tenant::{Lineage, Tenant};

/// What a schema is found by: whose it is, which schemas are exposed, and those that views are looked through in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    server: String,
    /// `None` of an adopted database.
    lineage: Option<Lineage>,
    schemas: Vec<String>,
    along: Vec<String>,
}

impl Key {
    pub(super) fn of(tenant: &Tenant) -> Self {
        Self {
            server: tenant.server.clone(),
            lineage: tenant.lineage().cloned(),
            schemas: tenant.api.db_schemas.clone(),
            along: tenant.api.db_extra_search_path.clone(),
        }
    }
}

/// The tenant's key without a copy of all its names.
#[derive(Hash)]
pub(super) struct KeyRef<'a> {
    server: &'a str,
    lineage: Option<&'a Lineage>,
    schemas: &'a [String],
    along: &'a [String],
}

impl<'a> KeyRef<'a> {
    pub(super) fn of(tenant: &'a Tenant) -> Self {
        Self {
            server: &tenant.server,
            lineage: tenant.lineage(),
            schemas: &tenant.api.db_schemas,
            along: &tenant.api.db_extra_search_path,
        }
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.server == key.server
            && self.lineage == key.lineage.as_ref()
            && self.schemas == key.schemas
            && self.along == key.along
    }
}
