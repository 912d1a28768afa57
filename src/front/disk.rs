//! Disk: has databases measured: those with a quota while they are used, and all of them by turns with the other routers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::catalog::{CatalogError, Reader};
use crate::directory::Directory;
use crate::pool::Pools;
use crate::tenant::{Tenant, TenantId};

/// How often it is looked which databases are due.
const LOOK: Duration = Duration::from_secs(1);
/// How often the catalog is asked what other routers measured, and whether it is this router's turn.
const TURN: Duration = Duration::from_secs(60);
/// How often one of the routers measures all databases of a server.
const ROUND: Duration = Duration::from_secs(300);
/// Longest wait for an answer of the catalog.
const ANSWER: Duration = Duration::from_secs(10);
/// The pause between two questions of a round, which others on the server have for themselves.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until it is aborted.
pub(super) async fn watch(pools: Pools, directory: Directory, reader: Option<Reader>) {
    let used = async {
        let mut troubles = Troubles::default();
        loop {
            sleep(LOOK).await;
            measure_used(&pools, &directory, &mut troubles).await;
        }
    };
    let all = async {
        let Some(reader) = &reader else { return std::future::pending().await };
        let mut troubles = Troubles::default();
        loop {
            directory.wait_ready().await;
            take_turn(&pools, &directory, reader, &mut troubles).await;
            sleep(TURN).await;
        }
    };
    tokio::join!(used, all);
}

/// What could not be done last time, by server: told once for each reason.
#[derive(Default)]
struct Troubles(HashMap<String, String>);

impl Troubles {
    fn tell(&mut self, server: &str, reason: Option<String>) {
        let Some(reason) = reason else {
            self.0.remove(server);
            return;
        };
        if self.0.get(server) != Some(&reason) {
            tracing::warn!(server, error = %reason, "databases are not measured: their sizes and quotas stay as they were");
            self.0.insert(server.to_owned(), reason);
        }
    }
}

fn by_server(tenants: impl Iterator<Item = Arc<Tenant>>) -> HashMap<String, Vec<Arc<Tenant>>> {
    let mut servers: HashMap<String, Vec<Arc<Tenant>>> = HashMap::new();
    tenants.for_each(|tenant| servers.entry(tenant.server.clone()).or_default().push(tenant));
    servers
}

/// Measures those that are due, with one question for each server.
async fn measure_used(pools: &Pools, directory: &Directory, troubles: &mut Troubles) {
    let due = pools.disk().due(Instant::now());
    let servers = by_server(due.iter().filter_map(|id| directory.get(id)));
    let measured = servers
        .iter()
        .map(|(server, tenants)| async move { (server, measure(pools, server, tenants).await) });
    for (server, outcome) in join_all(measured).await {
        let left = match outcome {
            Ok((_, left)) => {
                troubles.tell(server, None);
                left
            }
            Err(reason) => {
                troubles.tell(server, Some(reason));
                servers[server].clone()
            }
        };
        pools.disk().still_due(&ids(&left));
    }
}

fn ids(tenants: &[Arc<Tenant>]) -> Vec<TenantId> {
    tenants.iter().map(|tenant| tenant.id.clone()).collect()
}

/// Measures databases of one server. Gives what was measured, and those that were not come to.
async fn measure(
    pools: &Pools,
    server: &str,
    tenants: &[Arc<Tenant>],
) -> Result<(Vec<(TenantId, u64)>, Vec<Arc<Tenant>>), String> {
    let databases: Vec<_> = tenants.iter().map(|tenant| tenant.database()).collect();
    let measured = pools.measure(server, &databases).await.map_err(|error| error.to_string())?;
    let now = Instant::now();
    let mut sizes = Vec::new();
    // Those that the server passed over are not its to measure; behind the last one it was out of time.
    let reached =
        databases.iter().rposition(|database| measured.contains_key(database)).map_or(0, |last| last + 1);
    for (tenant, database) in tenants.iter().zip(&databases) {
        if let Some((bytes, took)) = measured.get(database) {
            pools.disk().note(tenant, *bytes, *took, now);
            sizes.push((tenant.id.clone(), *bytes));
        }
    }
    let left = if measured.is_empty() { Vec::new() } else { tenants[reached..].to_vec() };
    Ok((sizes, left))
}

/// Takes over what other routers measured, and measures all databases of the servers whose turn it is.
async fn take_turn(pools: &Pools, directory: &Directory, reader: &Reader, troubles: &mut Troubles) {
    let round = async |troubles: &mut Troubles| {
        let disk = pools.disk();
        let now = Instant::now();
        for (id, bytes) in answered(reader.sizes()).await? {
            if let Some(tenant) = directory.get(&id) {
                disk.hear(&tenant, bytes, now);
            }
        }
        disk.retain(|id| directory.get(id).is_some());
        for (server, mut tenants) in by_server(directory.tenants().into_iter()) {
            if !answered(reader.claim_size_round(&server, ROUND)).await? {
                continue;
            }
            while !tenants.is_empty() {
                let (sizes, left) = match measure(pools, &server, &tenants).await {
                    Ok(measured) => measured,
                    Err(reason) => {
                        troubles.tell(&server, Some(reason));
                        break;
                    }
                };
                troubles.tell(&server, None);
                answered(reader.report_sizes(&sizes)).await?;
                tenants = left;
                sleep(PAUSE).await;
            }
        }
        Ok::<_, String>(())
    };
    let outcome = round(troubles).await;
    troubles.tell("the catalog's", outcome.err());
}

async fn answered<T>(asked: impl Future<Output = Result<T, CatalogError>>) -> Result<T, String> {
    match timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".into()),
    }
}
