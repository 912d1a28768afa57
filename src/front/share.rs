//! Share: keeps this router's part of each server's connections true to what the catalog leases it.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::catalog::{CatalogError, LEASE_RENEWAL, Leases, Reader};
use crate::pool::Pools;

/// How soon a router that holds more than its share tells that it has closed some.
const SHRINK_POLL: Duration = Duration::from_millis(50);
/// Waits between attempts to reach the catalog; meanwhile the shares stay as they are. The longest is far shorter than
/// a lease lasts.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
/// Longest wait for an answer of the catalog.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until it is aborted.
pub(super) async fn keep(pools: Pools, reader: Reader, router: String) {
    let (mut backoff, mut last_reason) = (BACKOFF, String::new());
    loop {
        let reason = match timeout(ANSWER_TIMEOUT, reader.open_leases(&router)).await {
            Ok(Ok(leases)) => follow(&pools, leases, &mut backoff).await,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        // Once for each reason: the directory's watch tells of the same outage, and this asks every few seconds.
        if reason != last_reason {
            tracing::warn!(
                error = %reason,
                "leases not renewed, shares stay as they are; if the catalog was made by an older manybox, run `manybox init`"
            );
            last_reason = reason;
        }
        sleep(backoff.next_wait()).await;
    }
}

/// Leaves this router's shares to the others, if the catalog can be reached.
pub(super) async fn end(reader: &Reader, router: &str) {
    let end = async { reader.open_leases(router).await?.end().await };
    // They end by themselves, later.
    let _: Result<Result<(), CatalogError>, _> = timeout(ANSWER_TIMEOUT, end).await;
}

async fn follow(pools: &Pools, mut leases: Leases, backoff: &mut Backoff) -> String {
    loop {
        let next = match timeout(ANSWER_TIMEOUT, renew(pools, &leases)).await {
            Ok(Ok(true)) => SHRINK_POLL,
            Ok(Ok(false)) => LEASE_RENEWAL,
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "no answer".into(),
        };
        backoff.reset();
        tokio::select! {
            () = sleep(next) => {}
            () = pools.total_known() => {}
            asked = leases.asked() => if asked.is_none() {
                return "the connection was closed".into();
            },
        }
    }
}

/// Renews every lease; true while this router holds more than its share somewhere.
async fn renew(pools: &Pools, leases: &Leases) -> Result<bool, CatalogError> {
    let mut overdrawn = false;
    for status in pools.servers() {
        let Some(total) = status.total else { continue };
        let share = leases.renew(&status.server, total, status.open).await?;
        if share != status.budget {
            tracing::info!(server = status.server, share, total, "connections for this router");
            pools.set_share(&status.server, share);
        }
        overdrawn |= status.open > share;
    }
    Ok(overdrawn)
}
