//! The schemas in use: one per lineage, shared by its tenants; one of its own for a tenant that turned out different.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use equivalent::Equivalent;
use moka::future::Cache as Moka;

use super::error::{Code, Error};
use crate::pg::wire::Connection;
use crate::pool::{End, Pools, end_batch};
use crate::schema::{self, Schema, SchemaError};
use crate::telemetry::Metrics;
use crate::tenant::{SchemaLineage, Tenant, TenantId};

/// Schemas kept, of each kind. A schema of 100 tables takes about 200 kB.
const MAX_SCHEMAS: u64 = 1000;
/// A schema that no request used for this long is forgotten.
const SCHEMA_IDLE: Duration = Duration::from_secs(3600);
/// A tenant's schema is read again at most this often, whatever its callers send.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// A schema, and when it was read.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) schema: Arc<Schema>,
    /// Of an adopted database; `None` of one that manybox made, whose settings any tenant's function could write.
    pub(super) configured: Option<InDatabaseSettings>,
    read: Instant,
}

/// What an adopted database says about settings.
#[derive(Debug)]
pub(super) struct InDatabaseSettings {
    /// In-database configuration, by name.
    in_database: BTreeMap<String, String>,
    /// A tenant as the directory has it, and with in-database configuration on top.
    joined: Mutex<Option<(Arc<Tenant>, Arc<Tenant>)>>,
    /// By role, what `ALTER ROLE … SET` gave it.
    pub(super) roles: HashMap<String, BTreeMap<String, String>>,
}

impl InDatabaseSettings {
    /// The tenant with in-database configuration on top. Made again when an operator changed the tenant.
    pub(super) fn applied_to(&self, tenant: &Arc<Tenant>) -> Arc<Tenant> {
        if self.in_database.is_empty() {
            return Arc::clone(tenant);
        }
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, over)) = joined.as_ref().filter(|(base, _)| Arc::ptr_eq(base, tenant)) {
            return Arc::clone(over);
        }
        let over = Arc::new(tenant.with_in_database(&self.in_database));
        *joined = Some((Arc::clone(tenant), Arc::clone(&over)));
        over
    }
}

/// Of what a schema was read: whose, which schemas, and those that views are looked through in.
type Shared = (SchemaLineage<'static>, Vec<String>, Vec<String>);

/// A tenant's own schema holds for the key under which it was read.
type Own = (Shared, Arc<Entry>);

/// A handle, cheap to clone.
#[derive(Clone)]
pub(super) struct Cache {
    shared: Moka<Shared, Arc<Entry>>,
    own: Moka<TenantId, Own>,
    metrics: Metrics,
    /// Whether there ever was one of those: to look for them costs every request.
    any_own: Arc<AtomicBool>,
}

impl Cache {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            shared: Moka::builder().max_capacity(MAX_SCHEMAS).time_to_idle(SCHEMA_IDLE).build(),
            own: Moka::builder().max_capacity(MAX_SCHEMAS).time_to_idle(SCHEMA_IDLE).build(),
            any_own: Arc::default(),
        }
    }

    /// The tenant's schema; read from its database when no tenant of its lineage was served yet. Many requests at
    /// once cause one reading.
    pub(super) async fn get(&self, tenant: &Arc<Tenant>, pools: &Pools) -> Result<Arc<Entry>, Error> {
        if let Some(own) = self.own(tenant).await {
            return Ok(own);
        }
        if let Some(shared) = self.shared.get(&Key(tenant)).await {
            return Ok(shared);
        }
        // Seldom, and large: a future inside another is moved with it.
        let reading = Box::pin(self.shared.try_get_with(key(tenant), self.read(tenant, pools)));
        reading.await.map_err(|e: Arc<Error>| (*e).clone())
    }

    async fn own(&self, tenant: &Tenant) -> Option<Arc<Entry>> {
        if !self.any_own.load(Ordering::Acquire) {
            return None;
        }
        let (read_as, entry) = self.own.get(&tenant.id).await?;
        Key(tenant).equivalent(&read_as).then_some(entry)
    }

    /// Forgets the tenant's schema.
    pub(super) async fn forget(&self, tenant: &Tenant) {
        self.own.invalidate(&tenant.id).await;
        self.shared.invalidate(&key(tenant)).await;
    }

    /// Reads the tenant's schema again, after `seen` did not fit its database. `None` when that would not help:
    /// the schema is the same, or was read a moment ago.
    pub(super) async fn reload(
        &self,
        tenant: &Arc<Tenant>,
        pools: &Pools,
        seen: &Entry,
    ) -> Result<Option<Arc<Entry>>, Error> {
        let newer = self.own(tenant).await.filter(|entry| entry.read > seen.read);
        let entry = match newer {
            Some(entry) => entry,
            None if seen.read.elapsed() < RELOAD_INTERVAL => return Ok(None),
            None => {
                self.any_own.store(true, Ordering::Release);
                self.own.invalidate(&tenant.id).await;
                let reading = async { Ok::<_, Error>((key(tenant), self.read(tenant, pools).await?)) };
                let own = self.own.try_get_with(tenant.id.clone(), reading).await;
                own.map_err(|e: Arc<Error>| (*e).clone())?.1
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

    async fn read(&self, tenant: &Arc<Tenant>, pools: &Pools) -> Result<Arc<Entry>, Error> {
        let mut checkout = pools.checkout(tenant).await?;
        let read = Instant::now();
        let loaded = load(tenant, checkout.wire()).await;
        self.metrics.schema_read();
        // What was read was undone under the same Sync.
        if loaded.is_ok() || checkout.wire().run(&end_batch(End::Rollback)).await.is_ok() {
            checkout.clean();
        }
        let (schema, configured) = loaded.map_err(|error| {
            tracing::warn!(tenant.id = %tenant.id, error = %error, "cannot read the schema of tenant {}", tenant.slug);
            let message = "Could not query the database for the schema cache";
            Error::new(Code::NoSchemaCache, message)
                .with_hint("try again")
                .with_header(http::header::RETRY_AFTER, http::HeaderValue::from_static("5"))
        })?;
        Ok(Arc::new(Entry { schema: Arc::new(schema), configured, read }))
    }
}

/// The tenant's key without a copy of all its names.
struct Key<'a>(&'a Tenant);

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let api = &self.0.api;
        (self.0.schema_lineage(), &api.db_schemas, &api.db_extra_search_path).hash(state);
    }
}

impl Equivalent<Shared> for Key<'_> {
    fn equivalent(&self, (lineage, schemas, along): &Shared) -> bool {
        let api = &self.0.api;
        self.0.schema_lineage() == *lineage
            && api.db_schemas == *schemas
            && api.db_extra_search_path == *along
    }
}

fn key(tenant: &Tenant) -> Shared {
    (
        tenant.schema_lineage().into_owned(),
        tenant.api.db_schemas.clone(),
        tenant.api.db_extra_search_path.clone(),
    )
}

async fn load(
    tenant: &Arc<Tenant>,
    wire: &mut Connection,
) -> Result<(Schema, Option<InDatabaseSettings>), SchemaError> {
    let configured = if tenant.is_adopted() {
        let in_database = schema::in_database_settings(wire).await?;
        let roles = schema::role_settings(wire).await?;
        Some(InDatabaseSettings { in_database, joined: Mutex::default(), roles })
    } else {
        None
    };
    let tenant =
        configured.as_ref().map_or_else(|| Arc::clone(tenant), |configured| configured.applied_to(tenant));
    let schema = schema::load(wire, &tenant.api.db_schemas, &tenant.api.db_extra_search_path).await?;
    Ok((schema, configured))
}
