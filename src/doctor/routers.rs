//! Whether the routers that live agree with each other and with this program. D3x.

use std::collections::BTreeMap;

use super::{Finding, Patient, or_unread};
use crate::catalog::{Catalog, CatalogError, RouterRow};

pub(super) async fn look(patient: &Patient<'_>) -> Vec<Finding> {
    let Some(catalog) = &patient.catalog else { return Vec::new() };
    or_unread("routers", findings(patient, catalog).await)
}

async fn findings(patient: &Patient<'_>, catalog: &Catalog) -> Result<Vec<Finding>, CatalogError> {
    let mut findings = Vec::new();
    if let Some(keys) = &patient.keys {
        // What they said last, and not what they began with: a rotation reaches them while they run.
        let newest = keys.newest();
        let login = newest.router_login(&patient.settings.catalog.database).user;
        for router in catalog.routers_without(newest.fingerprint(), &login).await? {
            let what = format!(
                "has not the newest master key of this machine: {} (fingerprint {})",
                newest.id(),
                newest.fingerprint()
            );
            let next = "give both the same key file; after a rekey every router needs the new key";
            findings.push(Finding::new("D31", format!("router at {router}"), what, next));
        }
    }
    let own = env!("CARGO_PKG_VERSION");
    for router in catalog.routers().await?.iter().filter(|router| router.is_alive) {
        if router.version != own {
            let what = format!("runs manybox {}, this is {own}", router.version);
            findings.push(Finding::new("D30", place(router), what, "upgrade the older one and restart it"));
        }
    }
    let mut budgets: BTreeMap<String, Vec<(u32, String)>> = BTreeMap::new();
    for budget in catalog.known_budgets().await? {
        budgets.entry(budget.server).or_default().push((budget.total, budget.router));
    }
    for (server, mut known) in budgets {
        known.sort_unstable();
        let (Some(least), Some(most)) = (known.first(), known.last()) else { continue };
        if least.0 != most.0 {
            let what = format!(
                "routers know different budgets: {} has {}, {} has {}",
                least.1, least.0, most.1, most.0
            );
            let next = format!("give every router the same [servers.{server}.budget]");
            findings.push(Finding::new("D32", format!("servers.{server}.budget"), what, next));
        }
    }
    Ok(findings)
}

fn place(router: &RouterRow) -> String {
    format!("router {} at {}", router.name, router.address)
}
