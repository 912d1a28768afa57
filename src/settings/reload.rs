//! Reload: what a running router takes up of changed settings, and what it can't.

use serde_json::Value;

use super::Settings;

/// Keys that a running router takes up.
const TAKEN_UP: [&str; 10] = [
    "tiers",
    "editions",
    "defaults.api",
    "defaults.tier",
    "listen.stop_delay",
    "listen.drain_timeout",
    "listen.access_log",
    "listen.trusted_proxies",
    "embedded.budget",
    "servers.*.budget",
];
/// Keys that no router looks at: commands read the file each time.
const OF_COMMANDS: [&str; 7] =
    ["control", "tenants", "rollouts", "migrate", "listen.base_urls", "defaults.edition", "defaults.server"];

/// What differs between the settings that a router has and those it was told to take up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that hold from now on.
    pub taken_up: Vec<String>,
    /// Keys that hold only after a restart.
    pub need_restart: Vec<String>,
}

impl Settings {
    /// These settings with what a running router can take up of `new`, and what differs.
    pub fn reloaded(&self, new: &Self) -> (Self, Reloaded) {
        let mut differences = Reloaded::default();
        let mut keys = Vec::new();
        // What has no JSON form differs from nothing; none of ours lacks one.
        let form = |settings: &Self| serde_json::to_value(settings).unwrap_or_default();
        differing(&form(self), &form(new), String::new(), &mut keys);
        if self.listen.admin_token != new.listen.admin_token {
            keys.push("listen.admin_token".into());
        }
        for key in keys {
            if is_under(&key, &TAKEN_UP) {
                differences.taken_up.push(key);
            } else if !is_under(&key, &OF_COMMANDS) {
                differences.need_restart.push(key);
            }
        }
        let mut settings = self.clone();
        settings.tiers.clone_from(&new.tiers);
        settings.editions.clone_from(&new.editions);
        settings.defaults.api.clone_from(&new.defaults.api);
        settings.defaults.tier.clone_from(&new.defaults.tier);
        settings.listen.stop_delay = new.listen.stop_delay;
        settings.listen.drain_timeout = new.listen.drain_timeout;
        settings.listen.access_log = new.listen.access_log;
        settings.listen.trusted_proxies.clone_from(&new.listen.trusted_proxies);
        settings.embedded.budget.clone_from(&new.embedded.budget);
        for (name, server) in &mut settings.servers {
            if let Some(new) = new.servers.get(name) {
                server.budget.clone_from(&new.budget);
            }
        }
        (settings, differences)
    }
}

/// Whether a key is one of these or below one. A `*` is any name.
fn is_under(key: &str, any: &[&str]) -> bool {
    any.iter().any(|of| {
        let mut parts = key.split('.');
        of.split('.').all(|wanted| parts.next().is_some_and(|part| wanted == "*" || part == wanted))
    })
}

/// The keys under which two values differ, down to tables' entries.
fn differing(old: &Value, new: &Value, at: String, keys: &mut Vec<String>) {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        if old != new {
            keys.push(at);
        }
        return;
    };
    let added = after.keys().filter(|key| !before.contains_key(*key));
    for key in before.keys().chain(added) {
        let below = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        let of = |table: &serde_json::Map<String, Value>| table.get(key).cloned().unwrap_or(Value::Null);
        differing(&of(before), &of(after), below, keys);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::Limits;
    use crate::settings::{BudgetSettings, ServerSettings};

    #[test]
    fn what_can_change_does_and_what_cannot_is_named() {
        let mut old = Settings::default();
        let mut new = old.clone();
        new.tiers.insert("gold".into(), Limits::default());
        new.listen.stop_delay = Duration::from_secs(9);
        new.listen.metrics_tenants = 3;
        new.listen.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let server = |url: &str, most| ServerSettings {
            url: url.into(),
            root_cert: None,
            budget: BudgetSettings { max_connections: Some(most), ..BudgetSettings::default() },
        };
        old.servers.insert("eu".into(), server("postgres://a/postgres", 10));
        new.servers.insert("eu".into(), server("postgres://b/postgres", 20));
        new.catalog.database = "other".into();
        new.migrate.jobs = 9;
        let (settings, differences) = old.reloaded(&new);
        let taken_up = [
            "listen.trusted_proxies",
            "listen.stop_delay",
            "servers.eu.budget.max_connections",
            "tiers.gold",
        ];
        assert_eq!(differences.taken_up, taken_up);
        assert_eq!(
            differences.need_restart,
            ["listen.metrics_tenants", "catalog.database", "servers.eu.url"]
        );
        let server = &settings.servers["eu"];
        assert_eq!((server.url.as_str(), server.budget.max_connections), ("postgres://a/postgres", Some(20)));
        assert!(settings.tiers.contains_key("gold") && settings.listen.stop_delay == Duration::from_secs(9));
        assert_eq!(settings.catalog.database, old.catalog.database);
        assert_eq!(old.reloaded(&old).1, Reloaded::default());
    }
}
