//! Desired: what a declared tenant's tier, settings and base URLs shall be, and how that differs from what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Fleet, FleetError};
use crate::catalog::{DeclaredBefore, TenantRow};
use crate::policy::{JWT_SECRET, Overrides};
use crate::settings::Declared;
use crate::tenant::BaseUrl;

/// One setting before and after; of a secret no more than whether it is set.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SettingChange {
    /// Its name.
    pub key: String,
    /// `None`: it had no value of its own.
    pub from: Option<String>,
    /// `None`: it has none from then on.
    pub to: Option<String>,
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(default)".into());
        write!(f, "{}: {} -> {}", self.key, shown(&self.from), shown(&self.to))
    }
}

/// What operators give a tenant, in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) tier: String,
    pub(super) overrides: Overrides,
    /// In the order of their texts.
    pub(super) base_urls: BTreeSet<String>,
}

impl Given {
    /// What is otherwise in `to`.
    pub(super) fn changes(&self, to: &Self) -> Vec<SettingChange> {
        let (from, into) = (self.shown(), to.shown());
        let keys: BTreeSet<_> = from.keys().chain(into.keys()).collect();
        let differ = keys.into_iter().filter(|key| from.get(*key) != into.get(*key));
        let change = |key: &String| SettingChange {
            key: key.clone(),
            from: from.get(key).cloned(),
            to: into.get(key).cloned(),
        };
        let mut changes: Vec<_> = differ.map(change).collect();
        let (before, after) = (self.overrides.jwt_secret(), to.overrides.jwt_secret());
        if before != after {
            let word =
                |secret: Option<_>, word: &str| secret.map(|_: &crate::policy::Secret| word.to_owned());
            changes.push(SettingChange {
                key: JWT_SECRET.into(),
                from: word(before, "(a secret)"),
                to: word(after, "(a new secret)"),
            });
        }
        changes
    }

    fn shown(&self) -> BTreeMap<String, String> {
        let own = self.overrides.iter().filter(|(key, _)| *key != JWT_SECRET);
        let mut all: BTreeMap<_, _> = own.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        all.insert("tier".into(), self.tier.clone());
        if !self.base_urls.is_empty() {
            all.insert("base_urls".into(), self.base_urls.iter().cloned().collect::<Vec<_>>().join(","));
        }
        all
    }
}

/// What is remembered of a declaration.
pub(super) fn remembered(declared: &Declared) -> Result<DeclaredBefore, FleetError> {
    Ok(DeclaredBefore {
        tier: declared.tier.is_some(),
        settings: declared.settings.iter().map(|(key, _)| key.to_owned()).collect(),
        base_urls: texts(&declared.base_urls)?,
    })
}

/// Base URLs as they are stored.
fn texts(urls: &[String]) -> Result<BTreeSet<String>, FleetError> {
    urls.iter().map(|url| Ok(url.parse::<BaseUrl>()?.to_string())).collect()
}

impl Fleet {
    /// What a tenant was given, and what it shall have by its declaration. What was declared before and is no more goes back
    /// to its default; what was never declared, as by `tenant set`, stays.
    pub(super) fn desired(
        &self,
        row: &TenantRow,
        declared: &Declared,
        before: Option<&DeclaredBefore>,
        given: &[String],
    ) -> Result<(Given, Given), FleetError> {
        let record = &row.record;
        // A secret that can't be opened is none: what is declared takes its place.
        let overrides = self.unsealed(record).unwrap_or_else(|_| record.overrides.clone());
        let is = Given { tier: record.tier.clone(), overrides, base_urls: given.iter().cloned().collect() };
        let nothing = DeclaredBefore::default();
        let (before, now) = (before.unwrap_or(&nothing), remembered(declared)?);
        let mut wanted = is.clone();
        match &declared.tier {
            Some(tier) => wanted.tier.clone_from(tier),
            None if before.tier => wanted.tier.clone_from(&self.settings.defaults.tier),
            None => {}
        }
        for key in before.settings.difference(&now.settings) {
            // A key that this version does not know any more is left out anyway.
            let _ = wanted.overrides.set(key, "");
        }
        for (key, value) in declared.settings.iter().filter(|(key, _)| *key != JWT_SECRET) {
            wanted.overrides.set(key, value)?;
        }
        if let Some(secret) = declared.settings.jwt_secret() {
            wanted.overrides = wanted.overrides.with_jwt_secret(Some(secret.clone()));
        }
        wanted.base_urls.retain(|url| !before.base_urls.contains(url));
        wanted.base_urls.extend(now.base_urls);
        Ok((is, wanted))
    }
}
