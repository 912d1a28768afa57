//! Whether the routers that live agree with each other and with this program. D3x.

use std::collections::BTreeMap;

use super::{Finding, Patient, or_unread};
use crate::catalog::{Catalog, CatalogError, RouterRow};

pub(super) async fn look(patient: &Patient<'_>) -> Vec<Finding> {
    let Some(catalog) = &patient.catalog else { return Vec::new() };
    let newest = patient.keys.as_ref().map(|keys| keys.newest().id());
    or_unread("routers", findings(catalog, newest).await)
}

async fn findings(catalog: &Catalog, newest_key: Option<i32>) -> Result<Vec<Finding>, CatalogError> {
    let mut findings = Vec::new();
    let own = env!("CARGO_PKG_VERSION");
    for router in catalog.routers().await?.iter().filter(|router| router.is_alive) {
        if router.version != own {
            let what = format!("runs manybox {}, this is {own}", router.version);
            findings.push(Finding::new("D30", place(router), what, "upgrade the older one and restart it"));
        }
        if let Some(newest) = newest_key
            && router.key_number != newest
        {
            let what =
                format!("has master key {} as its newest, this machine has {newest}", router.key_number);
            let next = "give both the same key file; after a rekey every router needs the new key";
            findings.push(Finding::new("D31", place(router), what, next));
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
