//! The house rules as a plain text scan: layers, owners of crates, order of stages, size, first sentences.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// What each top-level module may import. Arrows go down only, and the two planes meet in the catalog alone.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("backoff", &[]),
    ("policy", &[]),
    ("tenant", &["policy"]),
    ("settings", &["policy", "tenant"]),
    ("telemetry", &["policy", "tenant", "settings"]),
    ("pg", &["policy", "tenant", "settings", "telemetry"]),
    ("vault", &["policy", "tenant", "settings", "telemetry", "pg"]),
    ("embedded", &["policy", "telemetry", "pg", "vault"]),
    ("catalog", &["policy", "tenant", "settings", "telemetry", "pg", "vault"]),
    ("schema", &["policy", "tenant", "telemetry", "pg"]),
    ("directory", &["backoff", "policy", "tenant", "settings", "telemetry", "pg", "vault", "catalog"]),
    ("pool", &["backoff", "policy", "tenant", "settings", "telemetry", "pg", "vault"]),
    ("rest", &["policy", "tenant", "settings", "telemetry", "pg", "vault", "schema", "pool"]),
    ("migrate", &["backoff", "policy", "tenant", "telemetry", "pg", "schema"]),
    ("fleet", &["policy", "tenant", "settings", "telemetry", "pg", "vault", "catalog", "migrate"]),
    (
        "rollout",
        &[
            "policy",
            "tenant",
            "settings",
            "telemetry",
            "pg",
            "vault",
            "catalog",
            "schema",
            "migrate",
            "fleet",
        ],
    ),
    (
        "front",
        &[
            "backoff",
            "policy",
            "tenant",
            "settings",
            "telemetry",
            "pg",
            "vault",
            "catalog",
            "directory",
            "pool",
            "rest",
        ],
    ),
    ("admin", &["policy", "tenant", "settings", "telemetry", "directory", "pool"]),
    (
        "cli",
        &[
            "policy",
            "tenant",
            "settings",
            "telemetry",
            "pg",
            "vault",
            "embedded",
            "catalog",
            "directory",
            "pool",
            "rest",
            "migrate",
            "fleet",
            "rollout",
            "front",
            "admin",
        ],
    ),
];

/// Crates that only the named modules may name.
const OWNERS: &[(&str, &[&str])] = &[
    ("axum", &["front", "admin"]),
    ("tower", &["front", "admin"]),
    ("tower_http", &["front", "admin"]),
    ("hyper", &["front", "cli"]),
    ("hyper_util", &["front", "cli"]),
    ("tokio_io_timeout", &["front"]),
    ("http", &["front", "admin", "rest", "directory"]),
    ("deadpool_postgres", &["pool"]),
    ("refinery", &["migrate"]),
    ("clap", &["cli"]),
    ("config", &["settings"]),
    ("dashmap", &["directory", "telemetry", "front"]),
    ("governor", &["front"]),
    ("prometheus_client", &["telemetry", "admin"]),
    ("console", &["cli"]),
    ("indicatif", &["cli"]),
    ("comfy_table", &["cli"]),
    ("rustls", &["pg"]),
];

/// The stages of a REST request, in their order: a stage uses earlier ones only.
const STAGES: &[&str] = &["request", "plan", "sql", "execute", "response"];

const MOST_LINES: usize = 500;

struct Source {
    path: PathBuf,
    module: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
                let module = Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned();
                found.push(Source { text: fs::read_to_string(&path).unwrap(), path, module });
            }
        }
    }
    found
}

/// The code of a file without comments and without its test module.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The identifiers that directly follow `marker`, also those in a brace list: `crate::{a, b::c}`.
fn after<'a>(code: &'a str, marker: &str) -> Vec<&'a str> {
    let word =
        |text: &'a str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    code.match_indices(marker)
        .flat_map(|(at, _)| {
            let rest = &code[at + marker.len()..];
            match rest.strip_prefix('{') {
                Some(list) => {
                    let list = list.split(';').next().unwrap_or_default();
                    list.split(',').map(|item| word(item.trim())).collect()
                }
                None => vec![word(rest)],
            }
        })
        .collect()
}

#[test]
fn arrows_go_down_only() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !matches!(s.module.as_str(), "lib" | "main")) {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(module, _)| *module == source.module) else {
            wrong.push(format!(
                "{}: module `{}` has no row in the table",
                source.path.display(),
                source.module
            ));
            continue;
        };
        for import in after(&code(&source.text), "crate::") {
            let known = MAY_IMPORT.iter().any(|(module, _)| *module == import);
            if known && import != source.module && !allowed.contains(&import) {
                wrong.push(format!("{} imports `{import}`", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_have_one_owner() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !matches!(s.module.as_str(), "lib" | "main")) {
        let code = code(&source.text);
        for (name, owners) in OWNERS {
            let named = code.match_indices(&format!("{name}::")).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                // `crate::config::` and `tokio_postgres::config::` are other things of the same name.
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if named && !owners.contains(&source.module.as_str()) {
                wrong.push(format!("{} names `{name}`", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn stages_use_earlier_stages_only() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.module == "rest") {
        let stage = source
            .path
            .components()
            .map(|c| c.as_os_str().to_string_lossy().into_owned())
            .find_map(|part| STAGES.iter().position(|stage| *stage == part.trim_end_matches(".rs")));
        let Some(stage) = stage else { continue };
        let code = code(&source.text);
        for (later, name) in STAGES.iter().enumerate().skip(stage + 1) {
            if code.contains(&format!("rest::{name}::")) || code.contains(&format!("super::{name}::")) {
                wrong.push(format!("{} uses the later stage `{}`", source.path.display(), STAGES[later]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_one_idea_each() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{} has {lines} lines, {MOST_LINES} at most", source.path.display()));
        }
        if !source.text.starts_with("//! ") {
            wrong.push(format!("{} does not open with a `//!` sentence", source.path.display()));
        }
        let name = source.path.file_name().unwrap().to_string_lossy().into_owned();
        if ["mod.rs", "util.rs", "utils.rs", "common.rs", "types.rs"].contains(&name.as_str()) {
            wrong.push(format!("{} is no name for an idea", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
