//! Traffic: what was counted of tenants' requests grows old here, and is reported to the catalog.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::catalog::{Reader, TRAFFIC_REPORT};
use crate::directory::Directory;
use crate::telemetry::Traffic;

/// Longest wait for an answer of the catalog.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// What could not be reported for this long is given up: reported later, it would stand at a time that it doesn't belong to.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Ages the counts of tenants' requests, and drops those of tenants that are gone.
pub(super) async fn age((traffic, directory): (Traffic, Directory)) {
    loop {
        sleep(Traffic::AGE).await;
        traffic.age(|id| directory.get(id).is_some());
    }
}

/// Reports until it is aborted.
pub(super) async fn report(traffic: Traffic, reader: Reader, router: String) {
    let (mut reported, mut last_reason) = (Instant::now(), String::new());
    let mut ticks = interval(TRAFFIC_REPORT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match send(&traffic, &reader, &router, reported.elapsed() < GIVE_UP).await {
            Ok(()) => (reported, last_reason) = (Instant::now(), String::new()),
            // Once for each reason, as with leases.
            Err(reason) if reason != last_reason => {
                tracing::warn!(
                    error = %reason,
                    "traffic not reported to the catalog: rollouts with a health gate wait for it; if the catalog was made by \
                     an older manybox, run `manybox init`"
                );
                last_reason = reason;
            }
            Err(_) => {}
        }
    }
}

/// Reports what was counted since the last report; `keep` it for the next one if that fails.
pub(super) async fn send(traffic: &Traffic, reader: &Reader, router: &str, keep: bool) -> Result<(), String> {
    let counted = traffic.take();
    let reason = match timeout(ANSWER_TIMEOUT, reader.report_traffic(router, &counted)).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        // It may have been written all the same. Counted twice, it weighs more, but says the same.
        Err(_) => "no answer".to_owned(),
    };
    if keep {
        traffic.give_back(counted);
    }
    Err(reason)
}
