//! The reaper: closes connections that nobody used for a while, and forgets pools without any.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Shared;

/// How often all pools are looked at: some 0.1 µs each, and never a query.
const TICK: Duration = Duration::from_secs(1);

/// Starts the reaper, which ends with the last handle on the pools.
pub(super) fn spawn(pools: Weak<Shared>) {
    tokio::spawn(async move {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(shared) = pools.upgrade() else { return };
            reap(&shared);
        }
    });
}

fn reap(shared: &Shared) {
    let mut empty = Vec::new();
    for pool in &shared.pools {
        pool.reap();
        if pool.pool.status().size == 0 {
            empty.push(pool.key().clone());
        }
    }
    for id in empty {
        // Counted under the map's lock, under which every checkout takes its share of the pool: nobody who waits or
        // opens a connection loses the pool under his feet, which would allow the tenant twice its connections.
        shared.pools.remove_if(&id, |_, pool| Arc::strong_count(pool) == 1);
    }
}
