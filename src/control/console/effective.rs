//! Effective: every setting that holds for a tenant, and which layer it comes from.

use crate::policy::{Api, Effective, JWT_SECRET, KEYS, Limits};
use crate::settings::Settings;
use crate::tenant::Record;

/// A setting as it holds.
pub(super) struct Line {
    pub(super) key: String,
    pub(super) value: String,
    /// What it is for.
    pub(super) doc: &'static str,
    /// The layer, in words.
    pub(super) from: String,
    layer: Layer,
}

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Default,
    Between,
    Own,
}

impl Line {
    /// Whether nobody said anything.
    pub(super) fn is_default(&self) -> bool {
        self.layer == Layer::Default
    }

    /// Whether the tenant has it for itself.
    pub(super) fn is_own(&self) -> bool {
        self.layer == Layer::Own
    }
}

/// What holds for a tenant, in the order of help.
pub(super) fn effective(settings: &Settings, record: &Record) -> Vec<Line> {
    let tenant = settings.tenant(record.clone());
    let holds = Effective { limits: tenant.limits.clone(), api: tenant.api.clone() };
    let base = if record.is_adopted() { Api::adopted() } else { Api::default() };
    let plain = Effective { limits: Limits::default(), api: base.clone() };
    // What a key is of is told by what becomes of it under other limits: nothing else says so.
    let tier = Effective { limits: settings.tiers.get(&record.tier).cloned().unwrap_or_default(), api: base };
    let edition = record
        .lineage()
        .and_then(|lineage| Some((&lineage.edition, settings.editions.get(&lineage.edition)?)));
    let mut lines = Vec::new();
    for key in KEYS.iter().filter(|key| key.name != JWT_SECRET) {
        let value = key.show(&holds);
        let (layer, from) = if record.overrides.get(key.name).is_some() {
            (Layer::Own, "tenant".to_owned())
        } else if let Some((name, _)) = edition.filter(|(_, files)| files.api.get(key.name).is_some()) {
            (Layer::Between, format!("edition {name}"))
        } else if !record.is_adopted() && settings.defaults.api.get(key.name).is_some() {
            (Layer::Between, "[defaults.api]".to_owned())
        } else if key.show(&tier) != key.show(&plain) {
            (Layer::Between, format!("tier {}", record.tier))
        } else if record.is_adopted() {
            (Layer::Default, "PostgREST's default".to_owned())
        } else {
            (Layer::Default, "default".to_owned())
        };
        lines.push(Line { key: key.name.to_owned(), value, doc: key.doc, from, layer });
    }
    for (name, value) in &tenant.api.app_settings {
        let key = format!("app.settings.{name}");
        let own = record.overrides.get(&key).is_some();
        let (layer, from) =
            if own { (Layer::Own, "tenant") } else { (Layer::Between, "edition or [defaults.api]") };
        let doc = "set in every request's transaction";
        lines.push(Line { key, value: value.clone(), doc, from: from.to_owned(), layer });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_says_where_it_comes_from() {
        let toml = "[defaults.api]\ndb_max_rows = 500\n[editions.shop.api]\ndb_aggregates_enabled = true\n\
                    [tiers.standard]\nmax_connections = 4\nmax_rows = 9";
        let settings: Settings = toml::from_str(toml).unwrap();
        let mut record = Record::example("aaaaaaaaaaaaaaaa", "acme");
        record.overrides.set("max_rows", "7").unwrap();
        let lines = effective(&settings, &record);
        let of = |key: &str| {
            let line = lines.iter().find(|line| line.key == key).unwrap();
            (line.value.as_str(), line.from.as_str())
        };
        assert_eq!(of("db_max_rows"), ("500", "[defaults.api]"));
        assert_eq!(of("db_aggregates_enabled"), ("true", "edition shop"));
        assert_eq!(of("max_connections"), ("4", "tier standard"));
        assert_eq!(of("max_rows"), ("7", "tenant"));
        assert_eq!(of("db_plan_enabled"), ("false", "default"));
    }
}
