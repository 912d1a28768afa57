//! Executors: rollouts that this process carries out, each once. Others may take part in them, and go on when it ends.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::catalog::RolloutState;
use crate::fleet::{Fleet, FleetError};
use crate::rollout::Executor;

/// How often it is looked whether all have stopped.
const POLL: Duration = Duration::from_millis(50);

/// The rollouts at hand.
#[derive(Default)]
pub(super) struct Executors {
    running: Arc<Mutex<HashSet<i64>>>,
    stop: CancellationToken,
}

impl Executors {
    /// Takes part in a rollout that runs, unless this process does already.
    pub(super) fn begin(&self, fleet: &Arc<Fleet>, id: i64) {
        let (fleet, running, stop) = (Arc::clone(fleet), Arc::clone(&self.running), self.stop.clone());
        if !running.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            return;
        }
        tokio::spawn(async move {
            // Forgotten also when it panics.
            let _at_hand = AtHand { id, running };
            if let Err(error) = carry_out(&fleet, id, stop).await {
                tracing::error!(rollout = id, %error, "the rollout is halted");
                let from = [RolloutState::Running];
                let moved = fleet
                    .catalog
                    .rollout_move(id, &from, RolloutState::Halted, Some(&error.to_string()))
                    .await;
                if let Err(error) = moved {
                    tracing::error!(rollout = id, %error, "nobody carries the rollout out, and the catalog could not be told");
                }
            }
        });
    }

    /// Whether this process carries a rollout out.
    pub(super) fn has(&self, id: i64) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Stops what runs, and waits until it has: it is cancelled, and whoever resumes the rollout goes on.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        while !self.running.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A rollout that this process carries out.
struct AtHand {
    id: i64,
    running: Arc<Mutex<HashSet<i64>>>,
}

impl Drop for AtHand {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

async fn carry_out(fleet: &Fleet, id: i64, stop: CancellationToken) -> Result<(), FleetError> {
    let Some(row) = fleet.catalog.rollout(id).await? else { return Ok(()) };
    let ending = Executor::new(fleet, &row, None, stop)?.run().await?;
    tracing::info!(rollout = id, ?ending, "the rollout's executor has ended");
    Ok(())
}
