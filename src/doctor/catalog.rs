//! Whether the catalog fits this program, and everything begun in it was finished. D1x.

use super::{Finding, Patient, or_unread};
use crate::catalog::{Catalog, CatalogError, Made};

pub(super) async fn look(patient: &Patient<'_>) -> Vec<Finding> {
    let Some(catalog) = &patient.catalog else { return Vec::new() };
    or_unread("catalog", findings(catalog).await)
}

async fn findings(catalog: &Catalog) -> Result<Vec<Finding>, CatalogError> {
    let mut findings = Vec::new();
    let made = catalog.made().await?;
    if let Some(what) = Made::misfit(made.as_ref()) {
        let next = if Made::is_newer(made.as_ref()) { "upgrade this manybox" } else { "manybox init" };
        findings.push(Finding::new("D11", "catalog", what, next));
    }
    if let Some((tenants, example)) = catalog.unsettled().await? {
        let what = format!("{tenants} tenant(s) with a change that was begun and not finished");
        findings.push(Finding::new("D12", format!("tenant {example}"), what, "manybox apply"));
    }
    Ok(findings)
}
