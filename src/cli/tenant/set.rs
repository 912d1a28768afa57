//! `manybox tenant set`: settings by the table of keys, all checked before the first is written.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Failure, Output};
use super::secret::{self, JwtSecret};
use crate::catalog::TenantRow;
use crate::fleet::{Fleet, SettingChange};
use crate::policy::{Api, JWT_SECRET, KEYS, Limits, Overrides};
use crate::rest::check_jwt_secret;
use crate::tenant::{BaseUrl, Sealed, labelled};

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
    /// What is otherwise than before.
    pub(super) changes: Vec<SettingChange>,
    /// What of that has no effect, or not the whole; one sentence each.
    pub(super) warnings: Vec<String>,
}

/// What was changed, for people.
pub(super) fn words(changed: &Changed) -> String {
    let (slug, state) = (&changed.tenant.record.slug, changed.tenant.record.state);
    let mut text = format!("{slug} is {state}");
    if changed.changes.is_empty() {
        text.push_str("; nothing is otherwise than before");
    }
    for change in &changed.changes {
        text.push_str(&format!("\n  {change}"));
    }
    for warning in &changed.warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}

/// What a tenant has different, by key, with secrets told by nothing but their being set.
fn shown(row: &TenantRow, given: &[BaseUrl]) -> BTreeMap<String, String> {
    let record = &row.record;
    let own = record.overrides.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    let labels = row.labels.iter().map(|(name, value)| (format!("{LABEL}{name}"), value.clone()));
    let mut all: BTreeMap<_, _> = own.chain(labels).collect();
    all.insert("tier".into(), record.tier.clone());
    if !given.is_empty() {
        all.insert("base_urls".into(), given.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    all
}

/// What differs between the two, and which secrets were set anew or taken away.
fn changes(before: (&TenantRow, &[BaseUrl]), after: (&TenantRow, &[BaseUrl])) -> Vec<SettingChange> {
    let (from, to) = (shown(before.0, before.1), shown(after.0, after.1));
    let keys: BTreeSet<_> = from.keys().chain(to.keys()).collect();
    let differ = keys.into_iter().filter(|key| from.get(*key) != to.get(*key));
    let mut changes: Vec<_> = differ
        .map(|key| SettingChange { key: key.clone(), from: from.get(key).cloned(), to: to.get(key).cloned() })
        .collect();
    let (was, is) = (&before.0.record.sealed, &after.0.record.sealed);
    let names: BTreeSet<_> = was.keys().chain(is.keys()).collect();
    for name in names.into_iter().filter(|name| was.get(*name) != is.get(*name)) {
        let set = |sealed: &Sealed, word: &str| sealed.contains_key(name).then(|| word.to_owned());
        changes.push(SettingChange {
            key: name.clone(),
            from: set(was, "(a secret)"),
            to: set(is, "(a new secret)"),
        });
    }
    for name in before.0.lost_secrets.iter().filter(|name| !is.contains_key(*name)) {
        if !after.0.lost_secrets.contains(name) {
            changes.push(SettingChange { key: name.clone(), from: Some("(a lost secret)".into()), to: None });
        }
    }
    changes
}

/// Why a key that `tenant set` does not take can't be set at all.
fn fixed(key: &str) -> Option<&'static str> {
    Some(match key {
        "slug" => "`manybox tenant rename` gives it another, and with it other base URLs",
        "edition" => "its database was made by that edition's files; see `manybox tenant change-edition`",
        "server" => {
            "its database is there; `manybox tenant restore SLUG --from BACKUP --as NEW --server OTHER` makes a copy elsewhere"
        }
        "id" => "its database, its login and its keys derive from it",
        "state" => "use suspend, resume, retire or restore",
        "version" => "`manybox migrate` brings it to another",
        _ => return None,
    })
}

/// How a label is written as a key.
const LABEL: &str = "label.";

pub(super) async fn set(
    fleet: &Fleet,
    slug: &str,
    settings: &[String],
    jwt_secret: &JwtSecret,
    output: Output,
) -> Result<Changed, Failure> {
    let row = fleet.tenant(slug).await?;
    let record = &row.record;
    let mut pairs = Vec::new();
    for setting in settings {
        let (key, given) = pair(setting)?;
        if let Some(why) = fixed(key) {
            return Err(Failure(format!("`{key}` of a tenant can't be changed: {why}; nothing was changed")));
        }
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(Failure(format!("`{key}` is given more than once; nothing was changed")));
        }
        pairs.push((key, secret::value(key, given, output)?));
    }
    pairs.extend(jwt_secret.read()?.map(|secret| (JWT_SECRET, secret)));
    let gives_secret = pairs.iter().any(|(key, _)| *key == JWT_SECRET);
    // A secret that can't be opened any more stays as it is sealed, unless it is set anew.
    let (mut overrides, keeps_secrets) = match fleet.unsealed(record) {
        Ok(overrides) => (overrides, false),
        Err(error) => {
            if !gives_secret {
                output.note(&error.to_string());
            }
            (record.overrides.clone(), !gives_secret)
        }
    };
    let (mut tier, mut base_urls, mut labels) = (record.tier.clone(), None, row.labels.clone());
    for (key, value) in &pairs {
        match (*key, value.expose()) {
            ("tier", "") => tier.clone_from(&fleet.settings.defaults.tier),
            ("tier", value) => value.clone_into(&mut tier),
            ("base_urls", value) => {
                let urls = value.split(',').map(str::trim).filter(|url| !url.is_empty());
                base_urls = Some(urls.map(str::parse).collect::<Result<Vec<BaseUrl>, _>>()?);
            }
            (key, value) if key.starts_with(LABEL) => {
                let change = (key[LABEL.len()..].to_owned(), value.to_owned());
                labels = labelled(&labels, &BTreeMap::from([change]))?;
            }
            (key, value) => overrides
                .set(key, value)
                .map_err(|e| Failure(format!("{e}; see `manybox tenant set --help`")))?,
        }
    }
    check_secret(&fleet.settings.tenant(record.clone()).api, &overrides)?;
    let given = fleet.catalog.base_urls_given(&record.id).await?;
    // Settings first: a role or a tier that isn't there refuses all.
    if keeps_secrets {
        fleet.configure_beside_secrets(record, &tier, &overrides).await?;
    } else {
        fleet.configure(record, &tier, &overrides).await?;
    }
    // Taken away, it is missed no more.
    if gives_secret && overrides.jwt_secret().is_none() {
        fleet.catalog.tenant_secret_given_up(&record.id, JWT_SECRET).await?;
    }
    if labels != row.labels {
        fleet.catalog.tenant_label(&record.id, &labels).await?;
    }
    if let Some(urls) = &base_urls {
        fleet.catalog.base_urls_replace(&record.id, urls, false).await?;
    }
    fleet.mark(&record.id).await;
    let tenant = fleet.tenant(slug).await?;
    let asks = pairs.iter().any(|(key, _)| ["max_connections", "tier"].contains(key));
    let warnings = if asks { fleet.settings.idle_limits(&tenant.record) } else { Vec::new() };
    let after = base_urls.unwrap_or_else(|| given.clone());
    let changes = changes((&row, &given), (&tenant, &after));
    Ok(Changed { tenant, changes, warnings })
}
