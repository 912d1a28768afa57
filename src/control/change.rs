//! Change: what an operator gives a tenant: tier, settings, labels, base URLs; all checked before the first is written.

use std::collections::BTreeMap;

use crate::catalog::TenantRow;
use crate::fleet::{Fleet, FleetError};
use crate::policy::{Invalid, Limits, Overrides};
use crate::rest::check_jwt_secret;
use crate::tenant::{BaseUrl, labelled};

/// What is to be otherwise. What is `None`, or not among keys, stays.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) tier: Option<String>,
    /// By key; an empty value goes back to the default.
    pub(super) settings: BTreeMap<String, String>,
    /// By name; an empty value takes it away.
    pub(super) labels: BTreeMap<String, String>,
    /// Those of its own.
    pub(super) base_urls: Option<Vec<BaseUrl>>,
}

/// Changes a tenant, and returns it as it is then.
///
/// # Errors
/// When one of them is wrong: then nothing was changed. When a base URL is taken, or a server refuses: the settings may have
/// been by then.
pub(super) async fn apply(
    fleet: &Fleet,
    row: &TenantRow,
    changes: &Changes,
) -> Result<TenantRow, FleetError> {
    let record = &row.record;
    let gives_secret = changes.settings.contains_key(crate::policy::JWT_SECRET);
    // A secret that can't be opened any more stays as it is sealed, unless it is set anew.
    let (mut overrides, keeps_secrets) = match fleet.unsealed(record) {
        Ok(overrides) => (overrides, false),
        Err(_) => (record.overrides.clone(), !gives_secret),
    };
    for (key, value) in &changes.settings {
        overrides.set(key, value)?;
    }
    check_secret(fleet, row, &overrides)?;
    let labels = labelled(&row.labels, &changes.labels)?;
    let tier = changes.tier.as_ref().unwrap_or(&record.tier);
    if changes.tier.is_some() || !changes.settings.is_empty() {
        if keeps_secrets {
            fleet.configure_beside_secrets(record, tier, &overrides).await?;
        } else {
            fleet.configure(record, tier, &overrides).await?;
        }
    }
    if labels != row.labels {
        fleet.catalog.tenant_label(&record.id, &labels).await?;
    }
    if let Some(urls) = &changes.base_urls {
        fleet.catalog.base_urls_replace(&record.id, urls, false).await?;
    }
    fleet.mark(&record.id).await;
    let changed = fleet.catalog.tenant(&record.id).await?;
    changed.ok_or_else(|| FleetError::Unknown(record.slug.to_string()))
}

/// Refuses a token secret that no token could be checked with.
fn check_secret(fleet: &Fleet, row: &TenantRow, overrides: &Overrides) -> Result<(), Invalid> {
    let base = fleet.settings.tenant(row.record.clone()).api;
    let (_, api) = overrides.applied_to(Limits::default(), base);
    match overrides.jwt_secret() {
        Some(secret) => {
            check_jwt_secret(secret, api.jwt_secret_is_base64).map_err(|e| Invalid(e.to_string()))
        }
        None => Ok(()),
    }
}
