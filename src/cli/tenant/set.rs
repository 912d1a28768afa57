//! `manybox tenant set`: settings by the table of keys, all checked before the first is written.

use std::collections::BTreeMap;

use super::super::Failure;
use crate::catalog::TenantRow;
use crate::fleet::Fleet;
use crate::policy::{Api, KEYS, Limits, Overrides};
use crate::rest::check_jwt_secret;
use crate::tenant::BaseUrl;

/// What `tenant set` takes, for its help.
pub(super) fn keys() -> String {
    let line = |name: &str, doc: &str, expected: &str| format!("  {name}\n      {doc}: {expected}\n");
    let mut text =
        String::from("Keys (an empty value goes back to the default; lists are separated by commas):\n");
    text.push_str(&line("tier", "its limits", "a tier of the settings"));
    text.push_str(&line("base_urls", "base URLs of its own", "URLs"));
    for key in KEYS {
        text.push_str(&line(key.name, key.doc, key.expected));
    }
    text.push_str(&line("label.NAME", "a label, by which rollouts choose tenants", "a text"));
    text.push_str(&line("app.settings.NAME", "set in every request's transaction", "a text"));
    text
}

/// `KEY=VALUE`, split.
pub(super) fn pair(setting: &str) -> Result<(&str, &str), Failure> {
    setting.split_once('=').ok_or_else(|| {
        // Not repeated whole: it may be a secret that lost its key.
        Failure(format!("`{}…`: expected KEY=VALUE", setting.chars().take(12).collect::<String>()))
    })
}

/// Refuses a token secret that no token could be checked with.
pub(super) fn check_secret(base: &Api, overrides: &Overrides) -> Result<(), Failure> {
    let (_, api) = overrides.applied_to(Limits::default(), base.clone());
    match overrides.jwt_secret() {
        Some(secret) => Ok(check_jwt_secret(secret, api.jwt_secret_is_base64)?),
        None => Ok(()),
    }
}

/// A tenant whose settings were changed.
#[derive(serde::Serialize)]
pub(super) struct Changed {
    #[serde(flatten)]
    pub(super) tenant: TenantRow,
    /// What of that has no effect, or not the whole; one sentence each.
    pub(super) warnings: Vec<String>,
}

/// How a label is written as a key.
const LABEL: &str = "label.";
/// Most labels of a tenant, and most bytes in a name or a value.
const MOST_LABELS: usize = 50;
const MOST_BYTES: usize = 100;

/// Sets a label, or takes it away when the value is empty.
fn label(labels: &mut BTreeMap<String, String>, name: &str, value: &str) -> Result<(), Failure> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if name.is_empty() || name.len() > MOST_BYTES || !name.chars().all(known) {
        return Err(Failure(format!(
            "`{LABEL}{name}`: expected a name of up to {MOST_BYTES} letters, digits, `-`, `_`, `.` and `/` behind `{LABEL}`"
        )));
    }
    if value.len() > MOST_BYTES || value.chars().any(char::is_control) {
        return Err(Failure(format!(
            "`{LABEL}{name}`: expected a text of up to {MOST_BYTES} bytes in one line"
        )));
    }
    if value.is_empty() {
        labels.remove(name);
    } else {
        labels.insert(name.to_owned(), value.to_owned());
    }
    if labels.len() > MOST_LABELS {
        return Err(Failure(format!("a tenant has {MOST_LABELS} labels at most")));
    }
    Ok(())
}

pub(super) async fn set(fleet: &Fleet, slug: &str, settings: &[String]) -> Result<Changed, Failure> {
    let row = fleet.tenant(slug).await?;
    let record = &row.record;
    let (mut tier, mut overrides, mut base_urls) = (record.tier.clone(), fleet.unsealed(record)?, None);
    let mut labels = row.labels.clone();
    for setting in settings {
        match pair(setting)? {
            ("tier", "") => tier.clone_from(&fleet.settings.defaults.tier),
            ("tier", value) => value.clone_into(&mut tier),
            ("base_urls", value) => {
                let urls = value.split(',').map(str::trim).filter(|url| !url.is_empty());
                base_urls = Some(urls.map(str::parse).collect::<Result<Vec<BaseUrl>, _>>()?);
            }
            (key, value) if key.starts_with(LABEL) => label(&mut labels, &key[LABEL.len()..], value)?,
            (key, value) => overrides
                .set(key, value)
                .map_err(|e| Failure(format!("{e}; see `manybox tenant set --help`")))?,
        }
    }
    check_secret(&fleet.settings.tenant(record.clone()).api, &overrides)?;
    // Settings first: a role or a tier that isn't there refuses all.
    fleet.configure(record, &tier, &overrides).await?;
    if labels != row.labels {
        fleet.catalog.tenant_label(&record.id, &labels).await?;
    }
    if let Some(urls) = base_urls {
        fleet.catalog.base_urls_replace(&record.id, &urls, false).await?;
    }
    let tenant = fleet.tenant(slug).await?;
    let asks = settings.iter().any(|s| ["max_connections=", "tier="].iter().any(|key| s.starts_with(key)));
    let warnings = if asks { fleet.settings.idle_limits(&tenant.record) } else { Vec::new() };
    Ok(Changed { tenant, warnings })
}
