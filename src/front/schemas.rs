//! Schemas of lineages from the catalog, for the REST API.

use crate::catalog::Reader;
use crate::rest::{Loading, SharedSchemas};
use crate::tenant::Lineage;

/// The catalog as a router reads it.
pub(super) struct StoredSchemas(pub(super) Reader);

impl SharedSchemas for StoredSchemas {
    fn load<'a>(&'a self, server: &'a str, lineage: &'a Lineage, format: i32) -> Loading<'a> {
        Box::pin(async move { Ok(self.0.schema(server, lineage, format).await?) })
    }
}
