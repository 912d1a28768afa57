//! Supervisor: keeps an app's background tasks running. One that panics or ends is reported, counted and started again.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::telemetry::Metrics;

/// Longest wait before a task is started again after its first failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait after many. A task that ran for longer than this counts as mended.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The tasks that run until [`Supervisor::abort`], or until it is dropped.
pub(super) struct Supervisor {
    metrics: Metrics,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Supervisor {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, tasks: Mutex::default() }
    }

    /// Runs a task that should never end: what `start` makes of `parts`, and makes again after each failure.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn keep<P, T>(
        &self,
        name: &'static str,
        parts: P,
        start: impl Fn(P) -> T + Send + Sync + 'static,
    ) where
        P: Clone + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        self.metrics.register_task(name);
        let metrics = self.metrics.clone();
        let task = tokio::spawn(async move { keep(name, || start(parts.clone()), metrics).await });
        self.tasks().push(task.abort_handle());
    }

    /// Ends all tasks, at their next wait.
    pub(super) fn abort(&self) {
        for task in self.tasks().iter() {
            task.abort();
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.abort();
    }
}

async fn keep<T: Future<Output = ()>>(name: &'static str, start: impl Fn() -> T, metrics: Metrics) {
    let mut backoff = Backoff::new(FIRST_WAIT, MAX_WAIT);
    loop {
        let started = Instant::now();
        let ended = AssertUnwindSafe(async { start().await }).catch_unwind().await;
        let reason = match &ended {
            Ok(()) => "it ended",
            Err(payload) => panic_message(&**payload),
        };
        if started.elapsed() > MAX_WAIT {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        metrics.task_failed(name);
        tracing::error!(
            task = name,
            reason,
            panicked = ended.is_err(),
            retry.ms = wait.as_millis() as u64,
            "a background task failed; it is started again"
        );
        sleep(wait).await;
    }
}

/// What a panic said.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_started_again() {
        let (sender, mut started) = mpsc::channel(8);
        let supervisor = Supervisor::new(Metrics::default());
        let parts = (Arc::new(AtomicU32::new(0)), sender);
        supervisor.keep("test", parts, async |(starts, sender)| {
            let number = starts.fetch_add(1, Ordering::Relaxed);
            sender.send(number).await.unwrap();
            match number {
                0 => panic!("on purpose"),
                1 => {}
                _ => std::future::pending().await,
            }
        });
        for number in 0..3 {
            assert_eq!(started.recv().await, Some(number));
        }
    }

    #[tokio::test]
    async fn tasks_end_with_their_supervisor() {
        let (held, mut ended) = mpsc::channel::<()>(1);
        let supervisor = Supervisor::new(Metrics::default());
        supervisor.keep("test", held, async |held| held.closed().await);
        tokio::task::yield_now().await;
        assert_eq!(ended.try_recv(), Err(mpsc::error::TryRecvError::Empty), "it runs");
        drop(supervisor);
        assert_eq!(ended.recv().await, None);
    }
}
