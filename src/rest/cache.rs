//! The schemas in use: one per lineage, from where no tenant can write; one of its own for a tenant that turned out
//! different, or whose lineage's is not stored.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use equivalent::Equivalent;
use moka::future::Cache as Moka;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::error::{Code, Error};
use crate::pg::wire::Connection;
use crate::pool::{End, Pools, end_batch};
use crate::schema::{self, Answers, Facts, Schema, SchemaError};
use crate::telemetry::Metrics;
use crate::tenant::{Lineage, Tenant, TenantId};

/// Lineages' schemas that are kept. One of 100 tables takes about 200 kB.
const MAX_SHARED: u64 = 1000;
/// Bytes of tenants' own schemas that are kept, as `pg_catalog` answered them; the one used longest ago goes first.
const MAX_OWN_BYTES: u64 = 128 * 1024 * 1024;
/// A schema that no request used for this long is forgotten.
const SCHEMA_IDLE: Duration = Duration::from_secs(3600);
/// How long to wait for a lineage's schema, and after that for the next attempt.
const SHARED_DEADLINE: Duration = Duration::from_secs(5);
/// When it is looked for again, if it was not stored.
const MISSING_INTERVAL: Duration = Duration::from_secs(60);
/// Longest reading of a tenant's own schema, from the wait for a connection to the last row. What holds it up is in its
/// own database.
const OWN_DEADLINE: Duration = Duration::from_secs(10);
/// A tenant's own schema that could not be read is not tried again before.
const FAILURE_INTERVAL: Duration = Duration::from_secs(5);
/// Bounds of the time from one reading of a tenant's own schema to the next: [`READ_SHARE`] times what the reading took.
const READ_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
const READ_SHARE: u32 = 5;

/// Where the schemas of lineages are stored. What is here is used for all tenants of a lineage, so no tenant may be able
/// to write it, nor to hold it up.
pub trait SharedSchemas: Send + Sync {
    /// The [`Facts`] of a lineage's databases on this server in this [form](schema::FORMAT); `None` when they are not
    /// stored.
    fn load<'a>(&'a self, server: &'a str, lineage: &'a Lineage, format: i32) -> Loading<'a>;
}

/// What [`SharedSchemas::load`] gives.
pub type Loading<'a> = Pin<
    Box<dyn Future<Output = Result<Option<String>, Box<dyn std::error::Error + Send + Sync>>> + Send + 'a>,
>;

/// A schema in use.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) schema: Arc<Schema>,
    /// Of an adopted database; `None` of one that manybox made, whose settings any tenant's function could write.
    pub(super) configured: Option<InDatabaseSettings>,
    /// When it was read from the tenant's own database; `None` of a lineage's.
    read: Option<Reading>,
}

/// A reading of a tenant's own schema.
#[derive(Debug, Clone, Copy)]
struct Reading {
    begun: Instant,
    took: Duration,
}

impl Reading {
    /// Whether the next one would come too early. Readings take their tenant's connections, but manybox's processor.
    fn is_recent(&self) -> bool {
        let (least, most) = READ_INTERVAL;
        (self.begun + self.took).elapsed() < self.took.saturating_mul(READ_SHARE).clamp(least, most)
    }
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

/// What a schema is found by: whose it is, which schemas are exposed, and those that views are looked through in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    server: String,
    /// `None` of an adopted database.
    lineage: Option<Lineage>,
    schemas: Vec<String>,
    along: Vec<String>,
}

impl Key {
    fn of(tenant: &Tenant) -> Self {
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
struct KeyRef<'a> {
    server: &'a str,
    lineage: Option<&'a Lineage>,
    schemas: &'a [String],
    along: &'a [String],
}

impl<'a> KeyRef<'a> {
    fn of(tenant: &'a Tenant) -> Self {
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

/// What was found where the schemas of lineages are stored.
#[derive(Clone)]
enum Shared {
    Stored(Arc<Entry>),
    Missing,
    /// It could not be looked for, or not be read.
    Unknown,
}

/// What was not found is looked for again.
struct Expiry;

impl moka::Expiry<Key, Shared> for Expiry {
    fn expire_after_create(&self, _: &Key, found: &Shared, _: Instant) -> Option<Duration> {
        match found {
            Shared::Stored(_) => None,
            Shared::Missing => Some(MISSING_INTERVAL),
            Shared::Unknown => Some(SHARED_DEADLINE),
        }
    }
}

/// What is known of a tenant's own schema.
#[derive(Clone)]
enum Own {
    /// An operator wants it read.
    Wanted,
    /// It was read, under this key.
    Read {
        key: Arc<Key>,
        entry: Arc<Entry>,
        /// Only because the lineage's is not stored.
        stands_in: bool,
        bytes: u32,
    },
}

/// Why a tenant's own schema is read.
#[derive(Clone, Copy)]
enum Why<'a> {
    /// An operator wants it.
    Wanted,
    /// Its lineage has none.
    NoShared,
    /// This one did not fit.
    Unfit(&'a Arc<Entry>),
}

/// A handle, cheap to clone.
#[derive(Clone)]
pub(super) struct Cache {
    stored: Option<Arc<dyn SharedSchemas>>,
    shared: Moka<Key, Shared>,
    own: Moka<TenantId, Own>,
    failures: Moka<TenantId, Error>,
    metrics: Metrics,
    /// Whether there ever was one of those: to look for them costs every request.
    any_own: Arc<AtomicBool>,
}

impl Cache {
    /// `stored`: where the schemas of lineages are; without it every tenant's own is read.
    pub(super) fn new(stored: Option<Arc<dyn SharedSchemas>>, metrics: Metrics) -> Self {
        Self {
            stored,
            shared: Moka::builder()
                .max_capacity(MAX_SHARED)
                .time_to_idle(SCHEMA_IDLE)
                .expire_after(Expiry)
                .build(),
            own: Moka::builder()
                .weigher(|_, own| match own {
                    Own::Wanted => 1,
                    Own::Read { bytes, .. } => *bytes,
                })
                .max_capacity(MAX_OWN_BYTES)
                // By use alone: were the seldom used not let in, each request of theirs would read the schema.
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(SCHEMA_IDLE)
                .build(),
            failures: Moka::builder().max_capacity(MAX_SHARED).time_to_live(FAILURE_INTERVAL).build(),
            metrics,
            any_own: Arc::default(),
        }
    }

    /// The tenant's schema: its own where that is known to differ, or else its lineage's. Where that is not stored, the
    /// tenant's own is read, and used for it alone.
    pub(super) async fn get(&self, tenant: &Arc<Tenant>, pools: &Pools) -> Result<Arc<Entry>, Error> {
        let own = self.own(tenant).await;
        if let Some(Own::Read { entry, stands_in: false, .. }) = own {
            return Ok(entry);
        }
        if matches!(own, Some(Own::Wanted))
            && let Ok(entry) = Box::pin(self.read_own(tenant, pools, Why::Wanted)).await
        {
            return Ok(entry);
        }
        if let Some(shared) = self.shared(tenant).await {
            return Ok(shared);
        }
        match own {
            Some(Own::Read { entry, .. }) => Ok(entry),
            _ => Box::pin(self.read_own(tenant, pools, Why::NoShared)).await,
        }
    }

    async fn own(&self, tenant: &Tenant) -> Option<Own> {
        if !self.any_own.load(Ordering::Acquire) {
            return None;
        }
        self.own.get(&tenant.id).await.filter(|own| match own {
            Own::Wanted => true,
            Own::Read { key, .. } => KeyRef::of(tenant).equivalent(key),
        })
    }

    /// The schema of the tenant's lineage, if it is stored.
    async fn shared(&self, tenant: &Arc<Tenant>) -> Option<Arc<Entry>> {
        if tenant.is_adopted() {
            return None;
        }
        let found = match self.shared.get(&KeyRef::of(tenant)).await {
            Some(found) => found,
            // Seldom, and large: a future inside another is moved with it.
            None => Box::pin(self.shared.get_with(Key::of(tenant), self.load(tenant))).await,
        };
        match found {
            Shared::Stored(entry) => Some(entry),
            Shared::Missing | Shared::Unknown => None,
        }
    }

    async fn load(&self, tenant: &Tenant) -> Shared {
        let (Some(stored), Some(lineage)) = (&self.stored, tenant.lineage()) else { return Shared::Missing };
        let (edition, version) = (lineage.edition.as_str(), lineage.version);
        let unknown = |error: &dyn Display| {
            tracing::warn!(edition, version, %error, "cannot load the schema of edition {edition}; every tenant's own is read");
            Shared::Unknown
        };
        let facts = match timeout(SHARED_DEADLINE, stored.load(&tenant.server, lineage, schema::FORMAT)).await
        {
            Ok(Ok(Some(facts))) => facts,
            Ok(Ok(None)) => {
                tracing::warn!(
                    edition,
                    version,
                    "the catalog has no schema of edition {edition}, version {version}: every tenant's own is read; \
                     `manybox init` stores those that templates have"
                );
                return Shared::Missing;
            }
            Ok(Err(error)) => return unknown(&error),
            Err(late) => return unknown(&late),
        };
        let (schemas, along) = (tenant.api.db_schemas.clone(), tenant.api.db_extra_search_path.clone());
        let made = move || Schema::new(Facts::from_json(&facts)?.select(&schemas, &along));
        match spawn_blocking(made).await {
            Ok(Ok(schema)) => {
                Shared::Stored(Arc::new(Entry { schema: Arc::new(schema), configured: None, read: None }))
            }
            Ok(Err(error)) => unknown(&error),
            Err(error) => unknown(&error),
        }
    }

    /// Wants the tenant's own schema read before its next request. The others of its lineage keep theirs.
    pub(super) async fn forget(&self, tenant: &Tenant) {
        self.any_own.store(true, Ordering::Release);
        self.failures.invalidate(&tenant.id).await;
        self.own.insert(tenant.id.clone(), Own::Wanted).await;
    }

    /// Reads the tenant's own schema, after `seen` did not fit its database. `None` when that would not help: the schema
    /// is the same, or was read a moment ago.
    pub(super) async fn reload(
        &self,
        tenant: &Arc<Tenant>,
        pools: &Pools,
        seen: &Arc<Entry>,
    ) -> Result<Option<Arc<Entry>>, Error> {
        let entry = self.read_own(tenant, pools, Why::Unfit(seen)).await?;
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

    /// The tenant's own schema, read now unless that was done a moment ago. Requests of this tenant wait for one reading; no
    /// other tenant's do.
    async fn read_own(&self, tenant: &Arc<Tenant>, pools: &Pools, why: Why<'_>) -> Result<Arc<Entry>, Error> {
        self.any_own.store(true, Ordering::Release);
        let read = async |known: Option<moka::Entry<TenantId, Own>>| {
            let mut stands_in = matches!(why, Why::NoShared) && !tenant.is_adopted();
            if let Some(Own::Read { key, entry, stands_in: stood_in, .. }) =
                known.map(moka::Entry::into_value)
                && KeyRef::of(tenant).equivalent(&*key)
            {
                if entry.read.is_some_and(|reading| reading.is_recent()) {
                    return Ok(Op::Nop);
                }
                stands_in |= stood_in;
            }
            if let Some(error) = self.failures.get(&tenant.id).await {
                return Err(error);
            }
            let seen = if let Why::Unfit(seen) = why { Some(&seen.schema) } else { None };
            let (entry, bytes) = self.read(tenant, pools, seen).await?;
            let key = Arc::new(Key::of(tenant));
            Ok(Op::Put(Own::Read { key, entry: Arc::new(entry), stands_in, bytes }))
        };
        let own = self.own.entry_by_ref(&tenant.id).and_try_compute_with(read).await?;
        match own.into_entry().map(moka::Entry::into_value) {
            Some(Own::Read { entry, .. }) => Ok(entry),
            _ => Err(Error::internal("a schema that was read is not there")),
        }
    }

    /// Reads the tenant's own schema; also gives the bytes that it takes besides `seen`.
    async fn read(
        &self,
        tenant: &Arc<Tenant>,
        pools: &Pools,
        seen: Option<&Arc<Schema>>,
    ) -> Result<(Entry, u32), Error> {
        let begun = Instant::now();
        let asked = timeout(OWN_DEADLINE, async {
            let mut checkout = pools.checkout(tenant).await?;
            let asked = ask(tenant, checkout.wire()).await;
            // What was read was undone under the same Sync.
            if asked.is_ok() || checkout.wire().run(&end_batch(End::Rollback)).await.is_ok() {
                checkout.clean();
            }
            Ok::<_, Error>(asked)
        });
        self.metrics.schema_read();
        let built = match asked.await {
            Ok(Ok(Ok((answers, configured)))) => {
                let bytes = u32::try_from(answers.len()).unwrap_or(u32::MAX);
                let schema = spawn_blocking(|| Schema::new(answers.into_facts()?)).await;
                match schema {
                    Ok(Ok(schema)) => Ok((schema, configured, bytes)),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
            // There was no connection: a reason of its own, which may be gone at once.
            Ok(Err(error)) => return Err(error),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Err(_) => Err(format!("it took more than {} s", OWN_DEADLINE.as_secs())),
        };
        let (schema, configured, bytes) = match built {
            Ok(built) => built,
            Err(error) => {
                tracing::warn!(tenant.id = %tenant.id, error, "cannot read the schema of tenant {}", tenant.slug);
                let error = unreadable();
                self.failures.insert(tenant.id.clone(), error.clone()).await;
                return Err(error);
            }
        };
        // Most are as they were, and need no second place.
        let (schema, bytes) = match seen.filter(|seen| seen.fingerprint == schema.fingerprint) {
            Some(seen) => (Arc::clone(seen), 1),
            None => (Arc::new(schema), bytes),
        };
        let read = Some(Reading { begun, took: begun.elapsed() });
        Ok((Entry { schema, configured, read }, bytes))
    }
}

fn unreadable() -> Error {
    Error::new(Code::NoSchemaCache, "Could not query the database for the schema cache")
        .with_hint("try again")
        .with_header(http::header::RETRY_AFTER, http::HeaderValue::from_static("5"))
}

async fn ask(
    tenant: &Arc<Tenant>,
    wire: &mut Connection,
) -> Result<(Answers, Option<InDatabaseSettings>), SchemaError> {
    let configured = if tenant.is_adopted() {
        let in_database = schema::in_database_settings(wire).await?;
        let roles = schema::role_settings(wire).await?;
        Some(InDatabaseSettings { in_database, joined: Mutex::default(), roles })
    } else {
        None
    };
    let tenant =
        configured.as_ref().map_or_else(|| Arc::clone(tenant), |configured| configured.applied_to(tenant));
    let answers = schema::ask(wire, &tenant.api.db_schemas, &tenant.api.db_extra_search_path).await?;
    Ok((answers, configured))
}
