//! Watch: keeps the directory true to the catalog by notices, and serves on from what it knows when the catalog is away.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch as signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::{Directory, Freshness, Obstacle, RowChange, Snapshots};
use crate::backoff::Backoff;
use crate::catalog::{CatalogError, Feed, Made, Reader};
use crate::settings::Settings;
use crate::tenant::{Record, TenantId};

/// Waits between attempts to reach the catalog.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// Longest wait for one answer of the catalog: past it, the connection counts as half-open and is dropped.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long changes are gathered before the directory on disk is written anew.
const KEEP_AFTER: Duration = Duration::from_secs(1);

/// Runs until it is aborted. `changed` hears of every tenant whose row changed, after the directory has taken it over.
///
/// LISTEN comes before the first load, so that no change falls between them, and again after every lost connection.
/// The version counter is compared every `poll_interval` besides. `refused` names tenants whose login a server
/// refused: their rows are read again, in case a notice was missed. When the settings change all rows are.
///
/// With `snapshots` the directory is kept on disk, and read from there if the catalog can't be reached at first.
///
/// However it ends, by a panic too, the directory is [stale](super::Freshness::Stale) from then on.
pub async fn watch(
    directory: Directory,
    reader: Reader,
    settings: signal::Receiver<Arc<Settings>>,
    mut refused: broadcast::Receiver<TenantId>,
    snapshots: Option<Snapshots>,
    changed: impl Fn(RowChange) + Send + 'static,
) {
    let _following = Following(directory.clone());
    let (unkept, snapshots) = (Notify::new(), snapshots.as_ref());
    let watcher = Watcher { directory: &directory, settings: &settings, unkept: &unkept, changed: &changed };
    // Side by side, and neither ends: a disk that hangs holds up nothing that the catalog says.
    tokio::join!(watcher.follow_all(&reader, &mut refused, snapshots), keep(&directory, snapshots, &unkept));
}

/// Writes the directory to disk, a while after it was found `unkept`.
async fn keep(directory: &Directory, snapshots: Option<&Snapshots>, unkept: &Notify) {
    let Some(snapshots) = snapshots else { return };
    loop {
        unkept.notified().await;
        sleep(KEEP_AFTER).await;
        snapshots.write(directory.tenants()).await;
    }
}

/// How the catalog and this program differ.
struct Misfit {
    told: String,
    is_newer: bool,
}

impl Misfit {
    /// Asks the catalog by which version it was made, and says in the log what was not said before.
    async fn of(feed: &Feed, before: Option<Self>) -> Option<Self> {
        let Ok(made) = in_time(feed.made()).await else { return before };
        let told = Made::misfit(made.as_ref())?;
        if before.is_none_or(|before| before.told != told) {
            tracing::warn!("{told}");
        }
        Some(Self { told, is_newer: Made::is_newer(made.as_ref()) })
    }
}

/// Marks the directory as stale when nobody follows the catalog any more.
struct Following(Directory);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

struct Watcher<'a, F> {
    directory: &'a Directory,
    settings: &'a signal::Receiver<Arc<Settings>>,
    /// Told when the directory on disk is behind this one, or older than it need be.
    unkept: &'a Notify,
    changed: &'a F,
}

impl<F: Fn(RowChange)> Watcher<'_, F> {
    /// Follows one feed after the other.
    async fn follow_all(
        &self,
        reader: &Reader,
        refused: &mut broadcast::Receiver<TenantId>,
        snapshots: Option<&Snapshots>,
    ) {
        let (mut backoff, mut misfit) = (BACKOFF, None);
        loop {
            let reason = match timeout(ANSWER_TIMEOUT, reader.open()).await {
                Ok(Ok(feed)) => {
                    // Said before anything of a newer catalog is stumbled over.
                    misfit = Misfit::of(&feed, misfit).await;
                    self.follow(feed, refused, &mut backoff).await
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            let is_newer_catalog = misfit.as_ref().is_some_and(|misfit| misfit.is_newer);
            self.directory.set_obstacle(Some(Obstacle { reason: reason.clone(), is_newer_catalog }));
            // A catalog of a newer manybox is not away: what was true before it is not what is true now.
            if self.directory.freshness() == Freshness::Unread
                && !is_newer_catalog
                && let Some(snapshots) = snapshots
            {
                let now = Arc::clone(&self.settings.borrow());
                snapshots.restore(self.directory, &now);
            }
            let wait = backoff.next_wait();
            tracing::warn!(error = %reason, retry.ms = wait.as_millis() as u64, "catalog lost; serving on from the directory");
            sleep(wait).await;
        }
    }

    /// Follows one feed until it ends, and says why it did.
    async fn follow(
        &self,
        mut feed: Feed,
        refused: &mut broadcast::Receiver<TenantId>,
        backoff: &mut Backoff,
    ) -> String {
        // A change from here on is one that the first load may not have seen.
        let mut settings = self.settings.clone();
        let poll_interval = settings.borrow_and_update().catalog.poll_interval;
        let mut version = match self.load_all(&feed).await {
            Ok(version) => version,
            Err(error) => return error,
        };
        backoff.reset();
        self.directory.set_obstacle(None);
        tracing::info!(tenants = self.directory.len(), "directory loaded");
        let poll = poll_interval.max(Duration::from_millis(100));
        let mut ticks = interval_at(Instant::now() + poll, poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.unkept.notify_one();
        loop {
            let outcome = tokio::select! {
                notice = feed.next() => match notice {
                    Some(id) => {
                        self.unkept.notify_one();
                        self.load(&feed, &id).await
                    }
                    None => return "the connection was closed".into(),
                },
                id = refused.recv() => match id {
                    Ok(id) => self.load(&feed, &id).await,
                    // Some were dropped: which ones is not known, so all are read.
                    Err(broadcast::error::RecvError::Lagged(_)) => self.load_all(&feed).await.map(drop),
                    Err(broadcast::error::RecvError::Closed) => return "the pools are gone".into(),
                },
                // Every tenant is made of its row and the settings. While nobody can change them there is nothing to wait for.
                Ok(()) = settings.changed() => self.load_all(&feed).await.map(drop),
                _ = ticks.tick() => match in_time(feed.version()).await {
                    Ok(now) if now == version => {
                        // Also when nothing changed: the file tells when it was true.
                        self.unkept.notify_one();
                        Ok(())
                    }
                    // Most often the notices have told it all already; a reload costs one query.
                    Ok(_) => self.load_all(&feed).await.map(|now| version = now),
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = outcome {
                return error;
            }
        }
    }

    async fn load_all(&self, feed: &Feed) -> Result<i64, String> {
        // The version first: a change between the two is loaded again at the next tick, never missed.
        let version = in_time(feed.version()).await?;
        let records = in_time(feed.load_all()).await?;
        let settings = self.settings.borrow().clone();
        let tenants = records.into_iter().map(|record| settings.tenant(record)).collect();
        for change in self.directory.replace_all(tenants) {
            self.tell(change);
        }
        Ok(version)
    }

    async fn load(&self, feed: &Feed, id: &TenantId) -> Result<(), String> {
        let record: Option<Record> = in_time(feed.load(id)).await?;
        let change = match record {
            Some(record) => {
                let settings = self.settings.borrow().clone();
                self.directory.put(settings.tenant(record))
            }
            None => self.directory.remove(id),
        };
        if let Some(change) = change {
            self.tell(change);
        }
        Ok(())
    }

    fn tell(&self, change: RowChange) {
        match &change {
            RowChange::Updated(tenant, difference) => {
                tracing::debug!(tenant.id = %tenant.id, tenant.slug = %tenant.slug, ?difference, "tenant changed");
            }
            RowChange::Removed(tenant) => {
                tracing::debug!(tenant.id = %tenant.id, tenant.slug = %tenant.slug, "tenant left the directory");
            }
        }
        (self.changed)(change);
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, CatalogError>>) -> Result<T, String> {
    match timeout(ANSWER_TIMEOUT, asked).await {
        Ok(outcome) => outcome.map_err(|e| e.to_string()),
        Err(_) => Err("no answer".into()),
    }
}
