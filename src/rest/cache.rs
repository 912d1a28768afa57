//! The schemas in use: one per lineage, from where no tenant can write; one of its own for a tenant that turned out
//! different, or whose lineage's is not stored.

mod configured;
mod flights;
mod key;
mod own;
mod shared;

pub(super) use configured::InDatabaseSettings;
pub(super) use own::Entry;
pub use shared::{Loading, SharedSchemas};

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use equivalent::Equivalent as _;
use moka::future::Cache as Moka;
use moka::policy::EvictionPolicy;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use self::flights::{Flight, Flights};
use self::key::{Key, KeyRef};
use self::own::{Own, READ_SHARE, Reading, Why};
use self::shared::{Expiry, SHARED_DEADLINE, Shared};
use super::error::{Code, Error};
use super::offload::Offload;
use crate::pg::wire::Connection;
use crate::pool::{End, Pools, end_batch};
use crate::schema::{self, Answers, Facts, Room, Schema, SchemaError};
use crate::telemetry::Metrics;
use crate::tenant::{Tenant, TenantId};

/// Lineages' schemas that are kept. One of 100 tables takes about 200 kB.
const MAX_SHARED: u64 = 1000;
/// Bytes of tenants' own schemas that are kept, as `pg_catalog` answered them; the one used longest ago goes first.
const MAX_OWN_BYTES: u64 = 192 * 1024 * 1024;
/// Adopted databases whose settings are kept.
const MAX_CONFIGURED: u64 = 10_000;
/// A schema that no request used for this long is forgotten.
const SCHEMA_IDLE: Duration = Duration::from_secs(3600);
/// Longest reading of a tenant's own schema, from the wait for a connection to the last row. Not the tier's limit: those
/// are for requests, and 30,000 tables take half a minute. What holds it up is in its own database.
const OWN_DEADLINE: Duration = Duration::from_secs(120);
/// Longest reading of an adopted database's settings.
const SETTINGS_DEADLINE: Duration = Duration::from_secs(10);
/// A tenant's own schema that could not be read is not tried again before.
const FAILURE_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is asked whether a tenant's own schema has changed: while the tenant is asked for anything, and after a
/// name that is not in it.
const DOUBT_INTERVAL: Duration = Duration::from_secs(10);
const UNFIT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a request with such a name waits to hear that. A reading that takes longer goes on without it.
const UNFIT_WAIT: Duration = Duration::from_secs(2);
/// The same where the tenant's own schema was never read.
const FIRST_WAIT: Duration = Duration::from_secs(10);

/// A handle, cheap to clone.
#[derive(Clone)]
pub(super) struct Cache {
    stored: Option<Arc<dyn SharedSchemas>>,
    shared: Moka<Key, Shared>,
    own: Moka<TenantId, Own>,
    configured: Moka<TenantId, Arc<InDatabaseSettings>>,
    /// Those that could not be read, and until when that is not tried again.
    failures: Moka<TenantId, (Error, Instant)>,
    flights: Flights,
    room: Room,
    /// Not the one of requests: theirs need not wait for another tenant's large schema.
    offload: Offload,
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
            configured: Moka::builder()
                .max_capacity(MAX_CONFIGURED)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(SCHEMA_IDLE)
                .build(),
            flights: Flights::default(),
            room: Room::default(),
            offload: Offload::default(),
            failures: Moka::builder()
                .max_capacity(MAX_SHARED)
                .time_to_live(OWN_DEADLINE * READ_SHARE)
                .build(),
            metrics,
            any_own: Arc::default(),
        }
    }

    /// What the tenant's database says about settings, if it was adopted. In one that manybox made, any function could
    /// write that for every tenant of the server.
    pub(super) async fn configured(
        &self,
        tenant: &Arc<Tenant>,
        pools: &Pools,
    ) -> Result<Option<Arc<InDatabaseSettings>>, Error> {
        if !tenant.is_adopted() {
            return Ok(None);
        }
        let mut former = None;
        if let Some(known) = self.configured.get(&tenant.id).await {
            if known.holds_for(tenant) {
                return Ok(Some(known));
            }
            self.configured.invalidate(&tenant.id).await;
            former = Some(known);
        }
        let ask = self.ask_settings(tenant, pools, former);
        let ask = self.configured.try_get_with_by_ref(&tenant.id, ask);
        Box::pin(ask).await.map(Some).map_err(|error: Arc<Error>| (*error).clone())
    }

    async fn ask_settings(
        &self,
        tenant: &Arc<Tenant>,
        pools: &Pools,
        former: Option<Arc<InDatabaseSettings>>,
    ) -> Result<Arc<InDatabaseSettings>, Error> {
        let begun = Instant::now();
        self.check_failure(tenant).await?;
        let asked = timeout(SETTINGS_DEADLINE, async {
            let mut checkout = pools.checkout(tenant).await?;
            let asked = InDatabaseSettings::ask(tenant, checkout.wire(), former.as_deref()).await;
            if asked.is_ok() || checkout.wire().run(&end_batch(End::None)).await.is_ok() {
                checkout.clean();
            }
            Ok::<_, Error>(asked)
        });
        match asked.await {
            Ok(Ok(Ok(settings))) => Ok(Arc::new(settings)),
            Ok(Err(error)) => Err(error),
            Ok(Ok(Err(error))) => Err(self.failed(tenant, begun, &error).await),
            Err(late) => Err(self.failed(tenant, begun, &late).await),
        }
    }

    /// The tenant's schema: its own where that is known to differ, or else its lineage's. Where that is not stored, the
    /// tenant's own is read, and used for it alone. One that is known is given at once, also while it is read again.
    pub(super) async fn get(&self, tenant: &Arc<Tenant>, pools: &Pools) -> Result<Arc<Entry>, Error> {
        let own = self.own(tenant).await;
        match &own {
            Some(Own::Read { wanted: true, .. }) => drop(self.look(tenant, pools, Why::Wanted)),
            Some(Own::Read { entry, .. }) => {
                if entry.read.as_ref().is_some_and(|reading| reading.claim(DOUBT_INTERVAL)) {
                    drop(self.look(tenant, pools, Why::Doubt));
                }
            }
            Some(Own::Wanted) | None => {}
        }
        if let Some(Own::Read { entry, stands_in: false, .. }) = own {
            return Ok(entry);
        }
        if matches!(own, Some(Own::Wanted))
            && let Ok(entry) = self.look(tenant, pools, Why::Wanted).await
        {
            return Ok(entry);
        }
        if let Some(shared) = self.shared(tenant).await {
            return Ok(shared);
        }
        match own {
            Some(Own::Read { entry, .. }) => Ok(entry),
            _ => self.look(tenant, pools, Why::NoShared).await,
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
            Ok(Ok(schema)) => Shared::Stored(Arc::new(Entry { schema: Arc::new(schema), read: None })),
            Ok(Err(error)) => unknown(&error),
            Err(error) => unknown(&error),
        }
    }

    /// Wants the tenant's own schema and settings read again. What is in use serves until that is done. The others of its
    /// lineage keep theirs.
    pub(super) async fn forget(&self, tenant: &Tenant) {
        self.any_own.store(true, Ordering::Release);
        self.failures.invalidate(&tenant.id).await;
        self.configured.invalidate(&tenant.id).await;
        let want = async |known: Option<moka::Entry<TenantId, Own>>| match known.map(moka::Entry::into_value)
        {
            Some(Own::Read { key, entry, stands_in, bytes, .. }) => {
                Own::Read { key, entry, stands_in, wanted: true, bytes }
            }
            Some(Own::Wanted) | None => Own::Wanted,
        };
        self.own.entry_by_ref(&tenant.id).and_upsert_with(want).await;
    }

    /// Looks whether the database has changed, after `seen` did not fit it, and reads the tenant's own schema if it has.
    /// `None` when that would not help: the schema is the same, was looked at a moment ago, or takes long to read.
    pub(super) async fn reload(
        &self,
        tenant: &Arc<Tenant>,
        pools: &Pools,
        seen: &Arc<Entry>,
    ) -> Result<Option<Arc<Entry>>, Error> {
        let entry = match self.own(tenant).await {
            Some(Own::Read { entry, .. }) => {
                let is_seen = entry.schema.fingerprint == seen.schema.fingerprint;
                let asks = entry.read.as_ref().is_some_and(|reading| reading.claim(UNFIT_INTERVAL));
                if !asks {
                    return Ok((!is_seen).then_some(entry));
                }
                match timeout(UNFIT_WAIT, self.look(tenant, pools, Why::Unfit)).await {
                    Ok(Ok(entry)) => entry,
                    Ok(Err(_)) | Err(_) => return Ok((!is_seen).then_some(entry)),
                }
            }
            _ => {
                let first = timeout(FIRST_WAIT, self.look(tenant, pools, Why::Unfit)).await;
                first.unwrap_or_else(|_| Err(unreadable()))?
            }
        };
        let changed = entry.schema.fingerprint != seen.schema.fingerprint;
        if changed {
            tracing::info!(
                tenant.id = %tenant.id,
                schema.fingerprint = %entry.schema.fingerprint,
                "tenant {} has another schema than was in use; it is served by its own",
                tenant.slug
            );
        }
        Ok(changed.then_some(entry))
    }

    /// Looks whether the database has changed, because somebody says so. Gives how long to wait before the next look, where
    /// this one would not see it, or would come too early.
    pub(super) async fn look_again(&self, tenant: &Arc<Tenant>, pools: &Pools) -> Option<Duration> {
        if let Some(earlier) = self.flights.under_way(&tenant.id) {
            // It may have begun before the change.
            let _ = earlier.await;
            return Some(UNFIT_INTERVAL);
        }
        if let Some(Own::Read { entry, .. }) = self.own(tenant).await
            && let Some(wait) = entry.read.as_ref().and_then(Reading::wait)
        {
            return Some(wait);
        }
        // What fails is in the log, and is tried again by the requests that need it.
        let _ = self.look(tenant, pools, Why::Unfit).await;
        None
    }

    /// Looks at the tenant's own database, in a task that a request which gives up does not end. All requests of the tenant
    /// wait for the same; no other tenant's do, and nobody need wait.
    fn look(&self, tenant: &Arc<Tenant>, pools: &Pools, why: Why) -> Flight {
        self.any_own.store(true, Ordering::Release);
        let (cache, tenant, pools) = (self.clone(), Arc::clone(tenant), pools.clone());
        self.flights.join(&tenant.id.clone(), async move {
            // By then it may be as wanted: somebody else has looked.
            cache.own_as_it_is(&tenant, &pools, why).await
        })
    }

    async fn own_as_it_is(&self, tenant: &Arc<Tenant>, pools: &Pools, why: Why) -> Result<Arc<Entry>, Error> {
        let mut stands_in = why == Why::NoShared && !tenant.is_adopted();
        let mut known = None;
        if let Some(Own::Read { entry, stands_in: stood_in, wanted, .. }) = self.own(tenant).await {
            stands_in |= stood_in;
            let recent = entry.read.as_ref().is_some_and(|reading| reading.wait().is_some());
            if recent && !wanted {
                return Ok(entry);
            }
            known = Some((entry, wanted));
        }
        self.check_failure(tenant).await?;
        let doubted = known.as_ref().filter(|(_, wanted)| !wanted).map(|(entry, _)| entry);
        let (entry, bytes) = match self.ask(tenant, pools, doubted).await? {
            Some(read) => read,
            None => match known {
                Some((entry, _)) => return Ok(entry),
                None => return Err(Error::internal("a schema that was never read has not changed")),
            },
        };
        // Most are as they were, and need no second place.
        let seen = known.map(|(entry, _)| entry).filter(|e| e.schema.fingerprint == entry.schema.fingerprint);
        let entry = match seen {
            Some(seen) => Entry { schema: Arc::clone(&seen.schema), ..entry },
            None => entry,
        };
        let (key, entry) = (Arc::new(Key::of(tenant)), Arc::new(entry));
        let own = Own::Read { key, entry: Arc::clone(&entry), stands_in, wanted: false, bytes };
        self.own.insert(tenant.id.clone(), own).await;
        Ok(entry)
    }

    /// Reads the tenant's own schema, and how many bytes that took; `None` when it is as it was when `doubted` was read.
    async fn ask(
        &self,
        tenant: &Arc<Tenant>,
        pools: &Pools,
        doubted: Option<&Arc<Entry>>,
    ) -> Result<Option<(Entry, u32)>, Error> {
        let begun = Instant::now();
        let former = self.configured.get(&tenant.id).await;
        let asked = timeout(OWN_DEADLINE, async {
            let mut checkout = pools.checkout(tenant).await?;
            let doubted = doubted.and_then(|entry| entry.read.as_ref());
            let asked = ask(tenant, checkout.wire(), doubted, former.as_deref(), &self.room).await;
            // What was read was undone under the same Sync.
            if asked.is_ok() || checkout.wire().run(&end_batch(End::Rollback)).await.is_ok() {
                checkout.clean();
            }
            Ok::<_, Error>(asked)
        });
        let found = match asked.await {
            Ok(Ok(Ok(found))) => found,
            // There was no connection: a reason of its own, which may be gone at once.
            Ok(Err(error)) => return Err(error),
            Ok(Ok(Err(error))) => return Err(self.failed(tenant, begun, &error).await),
            Err(_) => {
                let error = format!("it took more than {} s", OWN_DEADLINE.as_secs());
                return Err(self.failed(tenant, begun, &error).await);
            }
        };
        if let Some(configured) = found.configured {
            self.configured.insert(tenant.id.clone(), Arc::new(configured)).await;
        }
        let Some(answers) = found.answers else { return Ok(None) };
        self.metrics.schema_read();
        let bytes = u32::try_from(answers.len()).unwrap_or(u32::MAX);
        let schema = match self.offload.run(&tenant.id, || Schema::new(answers.into_facts()?)).await {
            Ok(Ok(schema)) => schema,
            Ok(Err(error)) => return Err(self.failed(tenant, begun, &error).await),
            Err(error) => return Err(self.failed(tenant, begun, &error).await),
        };
        let read = Some(Reading::new(begun, found.stamp));
        Ok(Some((Entry { schema: Arc::new(schema), read }, bytes)))
    }

    /// Remembers for a while that the tenant's database could not be read: for longer when that took longer.
    async fn failed(&self, tenant: &Tenant, begun: Instant, error: &(dyn Display + Sync)) -> Error {
        tracing::warn!(tenant.id = %tenant.id, %error, "cannot read the schema of tenant {}", tenant.slug);
        let error = unreadable();
        let until = Instant::now() + FAILURE_INTERVAL.max(begun.elapsed() * READ_SHARE);
        self.failures.insert(tenant.id.clone(), (error.clone(), until)).await;
        error
    }

    async fn check_failure(&self, tenant: &Tenant) -> Result<(), Error> {
        match self.failures.get(&tenant.id).await {
            Some((error, until)) if Instant::now() < until => Err(error),
            _ => Ok(()),
        }
    }
}

fn unreadable() -> Error {
    Error::new(Code::NoSchemaCache, "Could not query the database for the schema cache")
        .with_hint("try again")
        .with_header(http::header::RETRY_AFTER, http::HeaderValue::from_static("5"))
}

/// What a tenant's own database answered.
struct Found {
    /// Of an adopted database.
    configured: Option<InDatabaseSettings>,
    stamp: String,
    /// `None` when nothing has changed since the reading in doubt.
    answers: Option<Answers>,
}

async fn ask(
    tenant: &Arc<Tenant>,
    wire: &mut Connection,
    doubted: Option<&Reading>,
    former: Option<&InDatabaseSettings>,
    room: &Room,
) -> Result<Found, SchemaError> {
    let begun = Instant::now();
    let configured = match tenant.is_adopted() {
        true => Some(InDatabaseSettings::ask(tenant, wire, former).await?),
        false => None,
    };
    let over = configured.as_ref().map(|configured| configured.applied_to(tenant));
    // Where the settings close the API nobody asks for more than the settings.
    let tenant = over.and_then(Result::ok).unwrap_or_else(|| Arc::clone(tenant));
    let (schemas, along) = (&tenant.api.db_schemas, &tenant.api.db_extra_search_path);
    // A schema of other schemas is another one.
    let of_these = |stamp: String| format!("{stamp} {schemas:?} {along:?}");
    if let Some(reading) = doubted {
        let stamp = of_these(schema::stamp(wire).await?);
        reading.answered(begun.elapsed());
        if stamp == reading.stamp {
            return Ok(Found { configured, stamp, answers: None });
        }
    }
    let answers = schema::ask(wire, schemas, along, room).await?;
    Ok(Found { configured, stamp: of_these(answers.stamp()?), answers: Some(answers) })
}
