//! The schemas in use: one per lineage, shared by its tenants; one of its own for a tenant that turned out different.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::future::Cache as Moka;

use super::error::Error;
use crate::pool::{COMMIT, Pools, ROLLBACK};
use crate::schema::{self, Schema};
use crate::tenant::{Kin, Tenant, TenantId};

/// Schemas kept, of each kind. A schema of 100 tables takes about 200 kB.
const KEPT: u64 = 1000;
/// A schema that no request used for this long is forgotten.
const IDLE: Duration = Duration::from_secs(3600);
/// A tenant's schema is read again at most this often, whatever its callers send.
const PAUSE: Duration = Duration::from_secs(1);

/// A schema, and when it was read.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) schema: Arc<Schema>,
    read: Instant,
}

type Shared = (Kin, Vec<String>);
type Own = (TenantId, Kin, Vec<String>);

/// A handle, cheap to clone.
#[derive(Clone)]
pub(super) struct Cache {
    shared: Moka<Shared, Arc<Entry>>,
    own: Moka<Own, Arc<Entry>>,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self {
            shared: Moka::builder().max_capacity(KEPT).time_to_idle(IDLE).build(),
            own: Moka::builder().max_capacity(KEPT).time_to_idle(IDLE).build(),
        }
    }

    /// The tenant's schema; read from its database when no tenant of its lineage was served yet. Many requests at
    /// once cause one reading.
    pub(super) async fn get(&self, tenant: &Arc<Tenant>, pools: &Pools) -> Result<Arc<Entry>, Error> {
        if let Some(own) = self.own.get(&own(tenant)).await {
            return Ok(own);
        }
        let key = (tenant.kin(), tenant.api.db_schemas.clone());
        self.shared.try_get_with(key, read(tenant, pools)).await.map_err(|e: Arc<Error>| (*e).clone())
    }

    /// Forgets the tenant's schema.
    pub(super) async fn forget(&self, tenant: &Tenant) {
        self.own.invalidate(&own(tenant)).await;
        self.shared.invalidate(&(tenant.kin(), tenant.api.db_schemas.clone())).await;
    }

    /// Reads the tenant's schema again, after `seen` did not fit its database. `None` when that would not help:
    /// the schema is the same, or was read a moment ago.
    pub(super) async fn reload(
        &self,
        tenant: &Arc<Tenant>,
        pools: &Pools,
        seen: &Entry,
    ) -> Result<Option<Arc<Entry>>, Error> {
        let key = own(tenant);
        let current = self.own.get(&key).await;
        let newer = current.filter(|entry| entry.read > seen.read);
        let entry = match newer {
            Some(entry) => entry,
            None if seen.read.elapsed() < PAUSE => return Ok(None),
            None => {
                self.own.invalidate(&key).await;
                self.own.try_get_with(key, read(tenant, pools)).await.map_err(|e: Arc<Error>| (*e).clone())?
            }
        };
        let changed = entry.schema.fingerprint != seen.schema.fingerprint;
        if changed {
            tracing::info!(
                tenant.id = %tenant.id,
                schema.fingerprint = %entry.schema.fingerprint,
                "tenant {} has another schema than its lineage had; it is served by its own",
                tenant.slug
            );
        }
        Ok(changed.then_some(entry))
    }
}

fn own(tenant: &Tenant) -> Own {
    (tenant.id.clone(), tenant.kin(), tenant.api.db_schemas.clone())
}

async fn read(tenant: &Arc<Tenant>, pools: &Pools) -> Result<Arc<Entry>, Error> {
    let checkout = pools.checkout(tenant).await?;
    let client = checkout.client();
    let broken = |e: tokio_postgres::Error| Error::from_postgres(&e, false);
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(broken)?;
    let read = Instant::now();
    let loaded = schema::load(client, &tenant.api.db_schemas, &tenant.api.db_extra_search_path).await;
    let end = if loaded.is_ok() { COMMIT } else { ROLLBACK };
    if client.batch_execute(end).await.is_ok() {
        checkout.clean();
    }
    let schema = loaded.map_err(|error| {
        tracing::warn!(tenant.id = %tenant.id, error = %error, "cannot read the schema of tenant {}", tenant.slug);
        let message = "Could not query the database for the schema cache";
        Error::new(http::StatusCode::SERVICE_UNAVAILABLE, "PGRST002", message, None, Some("try again".into()))
            .with_header(http::header::RETRY_AFTER, http::HeaderValue::from_static("5"))
    })?;
    Ok(Arc::new(Entry { schema: Arc::new(schema), read }))
}
