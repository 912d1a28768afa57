//! Whether the settings have what tenants' rows name. D2x.

use super::{Finding, Patient, or_unread};
use crate::catalog::{Catalog, CatalogError, Named, Use};
use crate::settings::Settings;

pub(super) async fn look(patient: &Patient<'_>) -> Vec<Finding> {
    let Some(catalog) = &patient.catalog else { return Vec::new() };
    or_unread("settings", misfits(catalog, patient.settings).await)
}

/// What tenants have that the settings don't: servers, tiers, editions.
///
/// # Errors
/// When the catalog can't be read.
pub async fn misfits(catalog: &Catalog, settings: &Settings) -> Result<Vec<Finding>, CatalogError> {
    let mut findings = Vec::new();
    let mut missing = |uses: Vec<Use>, code, section: &str, is_there: &dyn Fn(&str) -> bool, means: &str| {
        for used in uses.iter().filter(|used| !is_there(&used.name)) {
            let Use { name, tenants, example } = used;
            let what = format!("{tenants} tenant(s), {example} among them, have {section} `{name}`: {means}");
            let next = format!("add [{section}.{name}] to the settings of every router and command");
            findings.push(Finding::new(code, format!("{section}.{name}"), what, next));
        }
    };
    let has_server = |name: &str| settings.has_server(name);
    missing(
        catalog.uses(Named::Server).await?,
        "D20",
        "servers",
        &has_server,
        "their requests get 503 MBX210",
    );
    let has_tier = |name: &str| settings.tiers.contains_key(name);
    missing(
        catalog.uses(Named::Tier).await?,
        "D21",
        "tiers",
        &has_tier,
        "the default tier's limits hold for them",
    );
    let has_edition = |name: &str| settings.editions.contains_key(name);
    missing(
        catalog.uses(Named::Edition).await?,
        "D22",
        "editions",
        &has_edition,
        "they can't be migrated, and have the API of `defaults.api`",
    );
    Ok(findings)
}
