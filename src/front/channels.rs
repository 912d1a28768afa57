//! Channels: listens for `NOTIFY pgrst` in the databases of tenants that ask for it, as PostgREST does.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::directory::Directory;
use crate::pg::{self, Endpoint, Ident, Logins};
use crate::rest::Rest;
use crate::tenant::{State, Tenant, TenantId};
use crate::vault::KeyRing;

/// Most tenants that a router listens to. Each takes a connection of those that `reserved_connections` (20) keeps from
/// requests.
const MAX_CHANNELS: usize = 8;
/// How often it is looked which tenants ask to be listened to.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Waits between attempts to listen. A tenant may end its own sessions as often as it likes.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// Longest wait for a session, and for LISTEN.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Notices of this long are one. A tenant may send any number.
const GATHER: Duration = Duration::from_millis(200);
/// What asks for a look at schema and settings; both are read together. Others are for somebody else.
const MEANT: [&str; 3] = ["", "reload schema", "reload config"];

/// What listening needs.
#[derive(Clone)]
pub(super) struct Channels {
    pub(super) directory: Directory,
    pub(super) rest: Rest,
    pub(super) keys: Arc<KeyRing>,
    pub(super) endpoints: Arc<HashMap<String, Endpoint>>,
}

/// The tasks that listen, ended when it is dropped.
#[derive(Default)]
struct Listening(HashMap<TenantId, AbortHandle>);

impl Listening {
    fn end(&mut self, id: &TenantId) {
        if let Some(task) = self.0.remove(id) {
            task.abort();
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.values().for_each(AbortHandle::abort);
    }
}

/// Runs until it is aborted.
pub(super) async fn keep(channels: Channels) {
    let (mut listening, mut left_out) = (Listening::default(), HashSet::new());
    loop {
        let asking = channels.asking();
        let gone: Vec<_> = listening.0.keys().filter(|id| !asking.contains_key(*id)).cloned().collect();
        gone.iter().for_each(|id| listening.end(id));
        left_out.retain(|id| asking.contains_key(id));
        for (id, tenant) in asking {
            if listening.0.contains_key(&id) {
                continue;
            }
            if listening.0.len() >= MAX_CHANNELS {
                if left_out.insert(id) {
                    tracing::warn!(
                        tenant.id = %tenant.id,
                        tenant.slug = %tenant.slug,
                        "db_channel_enabled: this router listens to {MAX_CHANNELS} tenants already; tenant {} is looked at \
                         every 10 s while it is asked, as without the setting",
                        tenant.slug
                    );
                }
                continue;
            }
            let task = tokio::spawn(channels.clone().listen(id.clone()));
            left_out.remove(&id);
            listening.0.insert(id, task.abort_handle());
        }
        sleep(LOOK_INTERVAL).await;
    }
}

impl Channels {
    fn asking(&self) -> HashMap<TenantId, Arc<Tenant>> {
        let tenants = self.directory.tenants().into_iter();
        let asking = tenants.filter(|tenant| tenant.api.db_channel_enabled && tenant.state == State::Active);
        asking.map(|tenant| (tenant.id.clone(), tenant)).collect()
    }

    /// Listens to one tenant, again after each lost session.
    async fn listen(self, id: TenantId) {
        let mut backoff = BACKOFF;
        while let Some(tenant) = self.directory.get(&id) {
            let reason = match self.hear(&tenant, &mut backoff).await {
                Ok(()) => "the session was closed".to_owned(),
                Err(reason) => reason,
            };
            tracing::debug!(tenant.id = %id, error = %reason, "not listening");
            sleep(backoff.next_wait()).await;
        }
    }

    async fn hear(&self, tenant: &Arc<Tenant>, backoff: &mut Backoff) -> Result<(), String> {
        let endpoint = self.endpoints.get(&tenant.server).ok_or("its server is not in the settings")?;
        let mut logins = self.keys.tenant_logins(tenant).into_iter();
        let newest = logins.next().ok_or("it has no login")?;
        let logins = Logins { newest, older: logins.collect() };
        let (database, channel) = (tenant.database(), Ident::new(&tenant.api.db_channel));
        let opened = timeout(OPEN_TIMEOUT, async {
            let (session, notices) = pg::connect_listening(endpoint, &logins, &database).await?;
            session.batch_execute(&format!("LISTEN {channel}")).await?;
            Ok::<_, pg::Error>((session, notices))
        });
        let (_session, mut notices) = match opened.await {
            Ok(opened) => opened.map_err(|error| error.to_string())?,
            Err(_) => return Err("no answer".into()),
        };
        backoff.reset();
        while let Some(notice) = notices.recv().await {
            if !MEANT.contains(&notice.payload()) {
                continue;
            }
            sleep(GATHER).await;
            while notices.try_recv().is_ok() {}
            // By its row as it is now: its exposed schemas may have changed.
            let Some(tenant) = self.directory.get(&tenant.id) else { break };
            while let Some(wait) = self.rest.look(&tenant).await {
                sleep(wait).await;
            }
        }
        Ok(())
    }
}
