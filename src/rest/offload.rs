//! Offload: what takes a processor milliseconds runs beside the threads that serve requests, for each tenant one at a time.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::error::Error;
use crate::tenant::TenantId;

/// Tenants that are remembered, and for how long without work.
const MAX_TENANTS: u64 = 10_000;
const IDLE: Duration = Duration::from_secs(600);

/// For each tenant one at a time: the others of that tenant wait for their turn. A handle, cheap to clone.
#[derive(Clone)]
pub(super) struct Turns(Cache<TenantId, Arc<Semaphore>>);

/// A tenant's turn, until it is dropped.
pub(super) struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for Turns {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_TENANTS).time_to_idle(IDLE).build())
    }
}

impl Turns {
    pub(super) async fn take(&self, tenant: &TenantId) -> Turn {
        let own = self.0.get_with_by_ref(tenant, || Arc::new(Semaphore::new(1)));
        // It is never closed.
        Turn { _permit: own.acquire_owned().await.ok() }
    }
}

/// A handle, cheap to clone.
#[derive(Clone)]
pub(super) struct Offload {
    tenants: Turns,
    /// As many as there are processors: more would not be done sooner. A tenant waits here with one piece only, so that
    /// all have their turn.
    all: Arc<Semaphore>,
}

impl Default for Offload {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self { tenants: Turns::default(), all: Arc::new(Semaphore::new(processors)) }
    }
}

impl Offload {
    /// Does a tenant's piece of work. It can't be given up amid: whoever no longer waits leaves it to its end, and its
    /// tenant's next piece waits for that.
    ///
    /// # Errors
    /// When the work panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        tenant: &TenantId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let own = self.tenants.take(tenant).await;
        // Nor is this ever closed.
        let all = Arc::clone(&self.all).acquire_owned().await;
        let work = move || {
            let result = work();
            drop((own, all));
            result
        };
        spawn_blocking(work).await.map_err(|_| Error::internal("a piece of work failed"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_tenant_has_one_at_a_time_and_holds_up_nobody_else() {
        let offload = Offload { all: Arc::new(Semaphore::new(2)), ..Offload::default() };
        let (one, other) = (TenantId::random().unwrap(), TenantId::random().unwrap());
        let under_way = Arc::new(AtomicUsize::new(0));
        let (go, stop) = mpsc::channel::<()>();
        let stop = Arc::new(std::sync::Mutex::new(stop));
        let works: Vec<_> = (0..3)
            .map(|_| {
                let (offload, tenant) = (offload.clone(), one.clone());
                let (under_way, stop) = (Arc::clone(&under_way), Arc::clone(&stop));
                tokio::spawn(async move {
                    let work = move || {
                        let most = under_way.fetch_add(1, Ordering::SeqCst);
                        let _ = stop.lock().unwrap().recv();
                        under_way.fetch_sub(1, Ordering::SeqCst);
                        most
                    };
                    offload.run(&tenant, work).await.unwrap()
                })
            })
            .collect();
        assert_eq!(offload.run(&other, || 7).await.unwrap(), 7, "while the first tenant's is under way");
        // Given up while it waits, it takes nobody's place.
        works[2].abort();
        drop(go);
        for work in works.into_iter().take(2) {
            assert_eq!(work.await.unwrap(), 0, "alone");
        }
        assert!(offload.run(&one, || panic!("on purpose")).await.is_err());
        assert_eq!(offload.run(&one, || 8).await.unwrap(), 8);
    }
}
