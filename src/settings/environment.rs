//! The environment as a layer of the settings: `MANYBOX__SECTION__KEY`.

use std::collections::HashMap;

use config::{Config, Environment, File, FileFormat, FileSourceFile};

/// Sections whose keys are names of the operator's choice.
const NAMED: [&str; 5] = ["servers", "editions", "tiers", "rollouts", "tenants"];

/// Lists, which the environment has in one text with commas.
const LISTS: [&str; 11] = [
    "listen.base_urls",
    "listen.trusted_proxies",
    "listen.admin_hosts",
    "control.hosts",
    "control.webhook_networks",
    "control.oidc.scopes",
    "control.oidc.viewers",
    "control.oidc.operators",
    "control.oidc.owners",
    "control.oidc.domains",
    "control.oidc.networks",
];

/// What the environment says.
pub(super) fn environment(file: &File<FileSourceFile, FileFormat>) -> Environment {
    let environment = Environment::with_prefix("MANYBOX")
        .source(Some(variables(file)))
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true)
        .ignore_empty(true)
        .list_separator(",");
    LISTS.iter().fold(environment, |all, list| all.with_list_parse_key(list))
}

/// A variable that is meant for a setting and sets none, because it has one underscore where two belong.
pub(super) fn misnamed() -> Option<String> {
    std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).find(|name| {
        name.strip_prefix("MANYBOX_").is_some_and(|rest| !rest.starts_with('_') && rest.contains("__"))
    })
}

/// The variables that are ours. One can't have a dash in its name, so a name in the file that has some (`[servers.eu-west]`) is
/// found by underscores as well (`MANYBOX__SERVERS__EU_WEST__URL`).
fn variables(file: &File<FileSourceFile, FileFormat>) -> HashMap<String, String> {
    let read = Config::builder().add_source(file.clone()).build();
    let names = |section: &str| -> Vec<String> {
        let table = read.as_ref().ok().and_then(|read| read.get_table(section).ok());
        table.map(|table| table.into_keys().collect()).unwrap_or_default()
    };
    let renamed = |variable: String| {
        let mut parts: Vec<_> = variable.split("__").map(str::to_owned).collect();
        if let [_, section, name, ..] = &mut parts[..]
            && let (section, given) = (section.to_ascii_lowercase(), name.to_ascii_lowercase())
            && NAMED.contains(&section.as_str())
        {
            let known = names(&section);
            let dashed = known.iter().find(|known| known.replace('-', "_") == given);
            if let Some(dashed) = dashed.filter(|_| !known.contains(&given)) {
                dashed.clone_into(name);
            }
        }
        parts.join("__")
    };
    let ours = std::env::vars_os().filter_map(|(name, value)| {
        let name =
            name.into_string().ok().filter(|name| name.to_ascii_uppercase().starts_with("MANYBOX__"))?;
        Some((renamed(name), value.into_string().ok()?))
    });
    ours.collect()
}
