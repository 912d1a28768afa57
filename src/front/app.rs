//! App: the data plane put together: directory, pools, REST, and the task that follows the catalog.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::task::AbortHandle;

use crate::catalog::Reader;
use crate::directory::{self, Directory};
use crate::pg::{Endpoint, KeyRing};
use crate::pool::Pools;
use crate::rest::Rest;
use crate::settings::Settings;

/// How often the master key's file is looked at, so that a rotation needs no restart.
const KEY_FILE: Duration = Duration::from_secs(1);

/// The data plane of one process. Clones share it. It holds no admin's credentials.
#[derive(Clone)]
pub struct App {
    /// Base URL to tenant.
    pub directory: Directory,
    /// Connections by tenant.
    pub pools: Pools,
    /// The REST API.
    pub rest: Rest,
    pub(super) trusted_proxies: Arc<[IpNet]>,
    tasks: Arc<[AbortHandle]>,
}

impl App {
    /// Puts the parts together and begins to follow the catalog. Requests get 503 until it has been read once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(settings: Arc<Settings>, endpoints: HashMap<String, Endpoint>, keys: Arc<KeyRing>) -> Self {
        let directory = Directory::default();
        let catalog = endpoints.get(&settings.catalog.server).cloned();
        let pools = Pools::new(endpoints, Arc::clone(&keys));
        let rest = Rest::new(pools.clone(), Arc::clone(&keys));
        let mut tasks =
            vec![tokio::spawn(follow_key_file(Arc::clone(&settings), Arc::clone(&keys))).abort_handle()];
        // The settings were checked: the catalog's server is among them.
        if let Some(endpoint) = catalog {
            let reader = Reader::new(endpoint, keys, settings.catalog.database.clone());
            let (drained, known, api) = (pools.clone(), directory.clone(), rest.clone());
            let changed = move |before: &crate::tenant::Tenant| {
                drained.drain(&before.id);
                if known.get(&before.id).is_some_and(|now| now.reloads != before.reloads) {
                    let (api, before) = (api.clone(), before.clone());
                    tokio::spawn(async move { api.forget(&before).await });
                }
            };
            let watch =
                directory::watch(directory.clone(), reader, Arc::clone(&settings), pools.refused(), changed);
            tasks.push(tokio::spawn(watch).abort_handle());
        }
        let trusted_proxies = settings.listen.trusted_proxies.clone().into();
        Self { directory, pools, rest, trusted_proxies, tasks: tasks.into() }
    }

    /// Waits until the catalog has been read once.
    pub async fn wait_ready(&self) {
        self.directory.wait_ready().await;
    }

    /// Stops following the catalog; for processes that hold more than one app.
    pub fn abort(&self) {
        for task in &*self.tasks {
            task.abort();
        }
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
