//! App: the data plane put together: directory, pools, REST, and the task that follows the catalog.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::task::AbortHandle;

use super::{limit, share};
use crate::catalog::Reader;
use crate::directory::{self, Directory, RowChange};
use crate::pg::Endpoint;
use crate::pool::{Budget, Pools};
use crate::rest::Rest;
use crate::settings::{self, Settings};
use crate::telemetry::{Metrics, Traffic};
use crate::tenant::Part;
use crate::vault::KeyRing;

/// How often the master key's file is looked at, so that a rotation needs no restart.
const KEY_FILE: Duration = Duration::from_secs(1);

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
    pub(super) limits: Arc<limit::Limits>,
    pub(super) trusted_proxies: Vec<IpNet>,
    tasks: Vec<AbortHandle>,
    /// Who leases this router its shares of the servers' connections, and under which name.
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
        let catalog = endpoints.get(&settings.catalog.server).cloned();
        let servers = endpoints.into_iter().map(|(name, endpoint)| {
            let budget = budget(settings.budget(&name));
            (name, (endpoint, budget))
        });
        let pools = Pools::new(servers.collect(), Arc::clone(&keys));
        let (metrics, traffic, limits) =
            (Metrics::default(), Traffic::default(), Arc::new(limit::Limits::default()));
        let rest = Rest::new(pools.clone(), Arc::clone(&keys), metrics.clone());
        let mut tasks =
            vec![tokio::spawn(follow_key_file(Arc::clone(&settings), Arc::clone(&keys))).abort_handle()];
        tasks.push(tokio::spawn(age(traffic.clone(), directory.clone())).abort_handle());
        let mut leases = None;
        // The settings were checked: the catalog's server is among them.
        if let Some(endpoint) = catalog {
            let reader = Reader::new(endpoint, keys, settings.catalog.database.clone());
            let lessor = (reader.clone(), router_name());
            tasks.push(
                tokio::spawn(share::keep(pools.clone(), lessor.0.clone(), lessor.1.clone())).abort_handle(),
            );
            leases = Some(lessor);
            let (known, limits, api) = (pools.clone(), Arc::clone(&limits), rest.clone());
            let changed = move |change| take_up(change, &known, &limits, &api);
            let watch =
                directory::watch(directory.clone(), reader, Arc::clone(&settings), pools.refused(), changed);
            tasks.push(tokio::spawn(watch).abort_handle());
        }
        let trusted_proxies = settings.listen.trusted_proxies.clone();
        Self(Arc::new(DataPlane {
            directory,
            pools,
            rest,
            metrics,
            traffic,
            limits,
            trusted_proxies,
            tasks,
            leases,
        }))
    }

    /// Waits until the catalog has been read once.
    pub async fn wait_ready(&self) {
        self.directory.wait_ready().await;
    }

    /// Closes all connections, after requests have ended, and leaves this router's shares of them to the others.
    pub async fn stop(&self) {
        self.abort();
        self.pools.close().await;
        if let Some(leases) = &self.leases {
            share::end(&leases.0, &leases.1).await;
        }
    }

    /// Stops following the catalog; for processes that hold more than one app.
    pub fn abort(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Does what a tenant's new row asks for, and no more: its connections and the count of its requests outlive a
/// migration.
fn take_up(change: RowChange, pools: &Pools, limits: &limit::Limits, rest: &Rest) {
    match change {
        RowChange::Removed(tenant) => {
            pools.drain(&tenant.id);
            limits.forget(&tenant.id);
        }
        RowChange::Updated(tenant, difference) => {
            pools.update(&tenant);
            if difference.has(Part::Rate) {
                limits.forget(&tenant.id);
            }
            if difference.has(Part::Reloads) {
                let rest = rest.clone();
                tokio::spawn(async move { rest.forget(&tenant).await });
            }
        }
    }
}

/// Lets the tenants' counts grow old, and those of tenants that left go.
async fn age(traffic: Traffic, directory: Directory) {
    loop {
        tokio::time::sleep(Traffic::AGE).await;
        traffic.age(|id| directory.get(id).is_some());
    }
}

/// Unlike any other router's, on this machine or another: the seed of a hash map is random.
fn router_name() -> String {
    format!("{}-{:016x}", std::process::id(), RandomState::new().build_hasher().finish())
}

fn budget(given: &settings::Budget) -> Budget {
    let defaults = Budget::default();
    Budget {
        total: given.max_connections,
        reserve: given.reserved_connections,
        connects: given.max_connecting,
        busy: given.max_per_tenant.unwrap_or(defaults.busy),
        shared: true,
    }
}

/// Takes up a changed key file. One that can't be read leaves the keys as they are: it is being replaced, or an
/// operator has to mend it, and until then tenants are served.
async fn follow_key_file(settings: Arc<Settings>, keys: Arc<KeyRing>) {
    if settings.keys.master.is_some() {
        return;
    }
    let modified = || std::fs::metadata(&settings.keys.file).and_then(|m| m.modified()).ok();
    let mut known = modified();
    loop {
        tokio::time::sleep(KEY_FILE).await;
        let now = modified();
        if now == known {
            continue;
        }
        match KeyRing::load(&settings.keys) {
            Ok(ring) => {
                keys.replace(ring);
                known = now;
                tracing::info!(key = keys.newest().id(), "master keys reloaded");
            }
            Err(error) => tracing::warn!(%error, "master keys not reloaded"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Api, Limits};
    use crate::tenant::{Lineage, Origin, Record, Tenant};

    fn tenant(version: i32, rate: Option<u32>) -> Tenant {
        let mut record = Record::example("aaaaaaaaaaaaaaaa", "acme");
        record.origin = Origin::Lineage(Lineage { edition: "shop".into(), version, history: String::new() });
        let limits = Limits { max_requests_per_second: rate, ..Limits::default() };
        Tenant::new(record, limits, Api::default())
    }

    #[tokio::test]
    async fn a_rate_limiter_lives_until_the_rate_changes() {
        let keys = Arc::new(KeyRing::generate().unwrap());
        let (directory, limits) = (Directory::default(), limit::Limits::default());
        let pools = Pools::new(HashMap::new(), Arc::clone(&keys));
        let rest = Rest::new(pools.clone(), keys, Metrics::default());
        // A request, and the limiter that counts it.
        let limiter = || {
            let tenant = directory.get(&tenant(1, None).id)?;
            limits.refuses(&tenant);
            limits.get(&tenant.id)
        };
        let put = |tenant| directory.put(tenant).into_iter().for_each(|c| take_up(c, &pools, &limits, &rest));
        put(tenant(1, Some(5)));
        let first = limiter().unwrap();
        put(tenant(2, Some(5)));
        assert!(Arc::ptr_eq(&first, &limiter().unwrap()), "a migration");
        put(tenant(2, Some(6)));
        let second = limiter().unwrap();
        assert!(!Arc::ptr_eq(&first, &second), "another rate");
        put(tenant(2, None));
        assert!(limiter().is_none() && limits.get(&tenant(2, None).id).is_none(), "no rate");
        put(tenant(2, Some(6)));
        limiter().unwrap();
        directory.remove(&tenant(2, None).id).into_iter().for_each(|c| take_up(c, &pools, &limits, &rest));
        assert!(limits.get(&tenant(2, None).id).is_none(), "no tenant");
    }
}
