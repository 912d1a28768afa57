//! App: the data plane put together: directory, pools, REST, and the tasks in the background.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::channels::{self, Channels};
use super::clients::Clients;
use super::rate_limit::RateLimiters;
use super::schemas::StoredSchemas;
use super::supervisor::Supervisor;
use super::tls::Certificates;
use super::{disk, keys, share, traffic};
use crate::catalog::Reader;
use crate::directory::{self, Directory, RowChange, Snapshots};
use crate::otlp::Tracer;
use crate::pg::Endpoint;
use crate::pool::{Budget, Pools};
use crate::rest::{Rest, SharedSchemas};
use crate::settings::{self, AccessLog, Reloaded, Settings};
use crate::telemetry::{Metrics, Traffic};
use crate::tenant::Part;
use crate::vault::KeyRing;

/// The data plane of one process: a handle, cheap to clone. It holds no admin's credentials.
#[derive(Clone)]
pub struct App(Arc<DataPlane>);

/// What an [`App`] is made of.
pub struct DataPlane {
    /// Base URL to tenant.
    pub directory: Directory,
    /// Connections by tenant.
    pub pools: Pools,
    /// The REST API.
    pub rest: Rest,
    /// Counts of all requests.
    pub metrics: Metrics,
    /// Counts of each tenant's.
    pub traffic: Traffic,
    /// Connections of clients to the data port.
    pub clients: Clients,
    /// The master keys.
    pub keys: Arc<KeyRing>,
    pub(super) rate_limiters: Arc<RateLimiters>,
    tracer: OnceLock<Tracer>,
    supervisor: Supervisor,
    settings: watch::Sender<Arc<Settings>>,
    /// Where this router leases its shares of the servers' connections, and under which name.
    leases: Option<(Reader, String)>,
}

impl Deref for App {
    type Target = DataPlane;

    fn deref(&self) -> &DataPlane {
        &self.0
    }
}

impl App {
    /// Puts the parts together and begins to follow the catalog. Requests get 503 until it has been read once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(settings: Arc<Settings>, endpoints: HashMap<String, Endpoint>, keys: Arc<KeyRing>) -> Self {
        let directory = Directory::default();
        let live = watch::Sender::new(Arc::clone(&settings));
        let catalog = endpoints.get(&settings.catalog.server).cloned();
        let endpoints = Arc::new(endpoints);
        let servers = endpoints.iter().map(|(name, endpoint)| {
            let budget = budget(settings.budget(name));
            (name.clone(), (endpoint.clone(), budget))
        });
        let pools = Pools::of_router(servers.collect(), Arc::clone(&keys), &settings.catalog.database);
        let (metrics, traffic) = (Metrics::default(), Traffic::default());
        let rate_limiters = Arc::new(RateLimiters::default());
        // The settings were checked: the catalog's server is among them.
        let reader = catalog
            .map(|endpoint| Reader::new(endpoint, Arc::clone(&keys), settings.catalog.database.clone()));
        let schemas = reader.clone().map(|reader| Arc::new(StoredSchemas(reader)) as Arc<dyn SharedSchemas>);
        let rest =
            Rest::new(pools.clone(), Arc::clone(&keys), schemas, metrics.clone(), &settings.listen.clients);
        let supervisor = Supervisor::new(metrics.clone());
        let parts =
            Channels { directory: directory.clone(), rest: rest.clone(), keys: Arc::clone(&keys), endpoints };
        supervisor.keep("channels", parts, channels::keep);
        supervisor.keep("traffic", (traffic.clone(), directory.clone()), traffic::age);
        let mut leases = None;
        let lessor = reader.clone().map(|reader| (reader, router_name()));
        let held = (Arc::clone(&settings), Arc::clone(&keys), lessor.clone());
        let watched = (pools.clone(), directory.clone(), reader.clone());
        supervisor.keep("disk", watched, |(pools, directory, reader)| disk::watch(pools, directory, reader));
        supervisor.keep("keys", held, |(settings, keys, lessor)| keys::follow(settings, keys, lessor));
        if let Some(lessor) = lessor {
            let reader = lessor.0.clone();
            leases = Some(lessor.clone());
            supervisor.keep("leases", (pools.clone(), lessor.clone()), |(pools, (reader, router))| {
                share::keep(pools, reader, router)
            });
            supervisor.keep("traffic_report", (traffic.clone(), lessor), |(counted, (reader, router))| {
                traffic::report(counted, reader, router)
            });
            let parts = (directory.clone(), pools.clone(), Arc::clone(&rate_limiters), rest.clone());
            let settings = live.subscribe();
            supervisor.keep("directory", parts, move |(directory, pools, rate_limiters, rest)| {
                let (reader, settings, refused) = (reader.clone(), settings.clone(), pools.refused());
                let snapshots = snapshots(&settings.borrow(), &pools);
                let changed = move |change| take_up(change, &pools, &rate_limiters, &rest);
                directory::watch(directory, reader, settings, refused, snapshots, changed)
            });
        } else {
            pools.begin_without_lease();
        }
        let clients = Clients::new(&settings.listen, metrics.clone());
        Self(Arc::new(DataPlane {
            directory,
            pools,
            rest,
            metrics,
            traffic,
            clients,
            keys,
            rate_limiters,
            tracer: OnceLock::new(),
            supervisor,
            settings: live,
            leases,
        }))
    }

    /// Has these certificates follow their files, as long as the app runs.
    pub fn follow(&self, certificates: &Certificates) {
        self.supervisor.keep("certificates", certificates.clone(), Certificates::follow);
    }

    /// Has requests traced from now on. A second tracer is not taken.
    pub fn trace(&self, tracer: Tracer) {
        // Given again there is one already.
        let _ = self.tracer.set(tracer);
    }

    pub(super) fn tracer(&self) -> Option<&Tracer> {
        self.tracer.get()
    }

    pub(super) fn tells_databases_of_traces(&self) -> bool {
        self.settings.borrow().telemetry.trace_in_application_name
    }

    /// The settings that hold.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// Takes up what can be of these settings, and says what differs.
    pub fn reload(&self, new: &Settings) -> Reloaded {
        let (settings, reloaded) = self.settings().reloaded(new);
        self.clients.reload(&settings.listen);
        for server in self.pools.servers() {
            self.pools.set_budget(&server.server, budget(settings.budget(&server.server)));
        }
        self.settings.send_replace(Arc::new(settings));
        reloaded
    }

    pub(super) fn access_log(&self) -> AccessLog {
        self.settings.borrow().listen.access_log
    }

    /// Whether what this peer says of its client is believed.
    pub(super) fn is_trusted(&self, peer: IpAddr) -> bool {
        // An IPv4 peer on a dual-stack socket comes as ::ffff:a.b.c.d.
        let settings = self.settings.borrow();
        settings.listen.trusted_proxies.iter().any(|network| network.contains(&peer.to_canonical()))
    }

    /// Waits until the catalog has been read once.
    pub async fn wait_ready(&self) {
        self.directory.wait_ready().await;
    }

    /// Closes all connections, after requests have ended, and leaves this router's shares of them to the others.
    pub async fn stop(&self) {
        self.abort();
        self.pools.close().await;
        if let Some((reader, router)) = &self.leases {
            // If the catalog can't be reached, a rollout knows that nothing was reported.
            let _: Result<(), String> = traffic::send(&self.traffic, reader, router, false).await;
            share::end(reader, router).await;
            keys::end(reader, router).await;
        }
    }

    /// Ends the background tasks, so that the catalog is not followed any more; for processes that hold more than one
    /// app.
    pub fn abort(&self) {
        self.supervisor.abort();
    }
}

/// Does what a tenant's new row asks for, and no more: its connections and the count of its requests outlive a
/// migration.
fn take_up(change: RowChange, pools: &Pools, rate_limiters: &RateLimiters, rest: &Rest) {
    match change {
        RowChange::Removed(tenant) => {
            pools.drain(&tenant.id);
            rate_limiters.forget(&tenant.id);
            rest.remove(&tenant.id);
        }
        RowChange::Updated(tenant, difference) => {
            pools.update(&tenant);
            if difference.has(Part::Rate) {
                rate_limiters.forget(&tenant.id);
            }
            if difference.has(Part::Reloads) {
                let rest = rest.clone();
                tokio::spawn(async move { rest.forget(&tenant).await });
            }
        }
    }
}

/// The directory on disk, with this router's shares: without the catalog it can't lease any, and what it held before is its own.
fn snapshots(settings: &Settings, pools: &Pools) -> Option<Snapshots> {
    let (held, restored) = (pools.clone(), pools.clone());
    let shares = move || held.servers().into_iter().map(|server| (server.server, server.budget)).collect();
    let restore = move |shares: BTreeMap<String, u32>| {
        shares.into_iter().for_each(|(server, share)| restored.restore_share(&server, share));
    };
    Snapshots::new(settings, shares, restore)
}

/// A name that no other router has, here or on another machine: the seed of a hash map is random.
fn router_name() -> String {
    format!("{}-{:016x}", std::process::id(), RandomState::new().build_hasher().finish())
}

fn budget(given: &settings::BudgetSettings) -> Budget {
    let defaults = Budget::default();
    Budget {
        total: given.max_connections,
        reserve: given.reserved_connections,
        max_connecting: given.max_connecting,
        max_per_tenant: given.max_per_tenant.unwrap_or(defaults.max_per_tenant),
        shared: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Api, Limits};
    use crate::settings::ClientSettings;
    use crate::tenant::{Lineage, Origin, Record, Tenant};

    fn tenant(version: i64, rate: Option<u32>) -> Tenant {
        let mut record = Record::example("aaaaaaaaaaaaaaaa", "acme");
        record.origin = Origin::Lineage(Lineage { edition: "shop".into(), version, history: String::new() });
        let limits = Limits { max_requests_per_second: rate, ..Limits::default() };
        Tenant::new(record, limits, Api::default())
    }

    #[tokio::test]
    async fn a_rate_limiter_lives_until_the_rate_changes() {
        let keys = Arc::new(KeyRing::generate().unwrap());
        let (directory, limiters) = (Directory::default(), RateLimiters::default());
        let pools = Pools::new(HashMap::new(), Arc::clone(&keys));
        let clients = ClientSettings::default();
        let rest = Rest::new(pools.clone(), keys, None, Metrics::default(), &clients);
        // A request, and the limiter that counts it.
        let limiter = || {
            let tenant = directory.get(&tenant(1, None).id)?;
            limiters.refuses(&tenant);
            limiters.get(&tenant.id)
        };
        let put =
            |tenant| directory.put(tenant).into_iter().for_each(|c| take_up(c, &pools, &limiters, &rest));
        put(tenant(1, Some(5)));
        let first = limiter().unwrap();
        put(tenant(2, Some(5)));
        assert!(Arc::ptr_eq(&first, &limiter().unwrap()), "a migration");
        put(tenant(2, Some(6)));
        let second = limiter().unwrap();
        assert!(!Arc::ptr_eq(&first, &second), "another rate");
        put(tenant(2, None));
        assert!(limiter().is_none() && limiters.get(&tenant(2, None).id).is_none(), "no rate");
        put(tenant(2, Some(6)));
        limiter().unwrap();
        directory.remove(&tenant(2, None).id).into_iter().for_each(|c| take_up(c, &pools, &limiters, &rest));
        assert!(limiters.get(&tenant(2, None).id).is_none(), "no tenant");
    }
}
