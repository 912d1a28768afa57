//! Share: keeps this router's part of each server's connections true to what the catalog leases it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::catalog::{self, CatalogError, LEASE_RENEWAL, Leases, Reader};
use crate::pool::{Demand, Holder, Lease, Pools};

/// How soon a router that holds more than its share tells that it has closed some, and one that wants more asks again.
const POLL: Duration = Duration::from_millis(50);
/// How often it is looked whether requests want more than the share.
const LOOK: Duration = Duration::from_millis(100);
/// How often a router asks again that wants what lost routers held, or has less than it needs to serve at all.
const WANTING_POLL: Duration = Duration::from_millis(250);
/// Waits between attempts to reach the catalog; meanwhile the shares stay as they are. A router that comes back within two
/// seconds, or fifteen after a restart of the catalog's server, finds its leases as they were.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
/// Longest wait for an answer of the catalog.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until it is aborted.
pub(super) async fn keep(pools: Pools, reader: Reader, router: String) {
    let (mut backoff, mut last_reason) = (BACKOFF, String::new());
    loop {
        let reason = match timeout(ANSWER_TIMEOUT, reader.open_leases(&router)).await {
            Ok(Ok(leases)) => follow(&pools, leases, &router, &mut backoff).await,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        pools.begin_without_lease();
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

async fn follow(pools: &Pools, mut leases: Leases, router: &str, backoff: &mut Backoff) -> String {
    let mut asked = Asked::default();
    loop {
        let next = match timeout(ANSWER_TIMEOUT, renew(pools, &mut leases, router, &mut asked)).await {
            Ok(Ok(next)) => Instant::now() + next,
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "no answer".into(),
        };
        backoff.reset();
        // Routers that wait for each other don't ask without a pause.
        sleep(POLL).await;
        tokio::select! {
            () = sleep_until(next) => {}
            () = pools.total_known() => {}
            () = asked.outgrown(pools) => {}
            asked = leases.asked() => if asked.is_none() {
                return "the connection was closed".into();
            },
        }
    }
}

/// What was asked for last, by server.
#[derive(Default)]
struct Asked(HashMap<String, u32>);

impl Asked {
    /// Returns when requests want more than the share of a server, and more than was asked for.
    async fn outgrown(&self, pools: &Pools) {
        let is_outgrown = |demand: &Demand| {
            demand.wanted > demand.used.max(self.0.get(&demand.server).copied().unwrap_or(0))
        };
        while !pools.demands().iter().any(is_outgrown) {
            sleep(LOOK).await;
        }
    }
}

/// Renews every lease, and says how long they may stay as they are.
async fn renew(
    pools: &Pools,
    leases: &mut Leases,
    router: &str,
    asked: &mut Asked,
) -> Result<Duration, CatalogError> {
    let mut next = LEASE_RENEWAL;
    for Demand { server, total, used, wanted, minimum } in pools.demands() {
        let lease = leases.renew(&server, catalog::Demand { total, used, wanted, minimum }).await?;
        tracing::debug!(
            server,
            share = lease.share,
            total = lease.total,
            wanted,
            "connections for this router"
        );
        if lease.share < used {
            // What this router lets go of is free for others once it has said so.
            next = next.min(POLL);
        } else if lease.share < minimum
            || lease.share < wanted && lease.holders.iter().any(|holder| holder.lost)
        {
            // Nothing tells it of what others let go of.
            next = next.min(WANTING_POLL);
        }
        pools.set_lease(&server, leased(lease, router));
        asked.0.insert(server, wanted);
    }
    Ok(next)
}

fn leased(lease: catalog::Lease, router: &str) -> Lease {
    let holder = |holder: catalog::Holder| Holder {
        is_own: holder.router == router,
        router: holder.router,
        address: holder.address,
        share: holder.share,
        wanted: holder.wanted,
        is_lost: holder.lost,
    };
    Lease { share: lease.share, total: lease.total, holders: lease.holders.into_iter().map(holder).collect() }
}
