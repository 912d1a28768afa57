//! The house rules: layers, owners of crates, the order of stages, no circles, size, first sentences.
//!
//! Files are parsed, so every line counts, but for what stands under `#[cfg(test)]`.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "tidy/house.rs"]
mod house;
#[path = "tidy/planted.rs"]
mod planted;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use house::{House, Reference, Target};

/// What each top-level module may import. Arrows go down only, and the two planes meet in the catalog alone.
const MAY_IMPORT: &[(&str, &str)] = &[
    ("backoff", ""),
    ("policy", ""),
    ("tenant", "policy"),
    ("settings", "policy tenant"),
    ("telemetry", "policy tenant settings"),
    ("outbound", ""),
    ("otlp", "backoff settings telemetry outbound policy"),
    ("pg", "policy tenant settings telemetry"),
    ("vault", "policy tenant settings telemetry pg"),
    ("embedded", "policy telemetry pg vault"),
    ("catalog", "policy tenant settings telemetry pg vault"),
    ("schema", "policy tenant telemetry pg"),
    ("directory", "backoff policy tenant settings telemetry pg vault catalog"),
    ("pool", "backoff policy tenant settings telemetry pg vault"),
    ("rest", "policy tenant settings telemetry pg vault schema pool"),
    ("migrate", "backoff policy tenant telemetry pg schema"),
    ("fleet", "policy tenant settings telemetry pg vault catalog schema migrate"),
    ("rollout", "policy tenant settings telemetry pg vault catalog schema migrate fleet"),
    ("verify", "policy tenant settings telemetry pg vault catalog rest migrate fleet"),
    ("doctor", "tenant settings pg vault catalog fleet"),
    ("front", "backoff policy tenant settings telemetry otlp pg vault catalog directory pool rest"),
    ("admin", "policy tenant settings telemetry vault directory pool"),
    (
        "control",
        "policy tenant settings telemetry outbound otlp pg vault catalog rest migrate fleet rollout verify",
    ),
    ("fuzz", "tenant directory rest migrate"),
    (
        "cli",
        "policy tenant settings telemetry otlp pg vault embedded catalog directory pool rest migrate fleet rollout verify doctor front admin control",
    ),
];

/// Modules, and the crates that only they may name. One that a single module names belongs to it.
const OWNERS: &[(&str, &str)] = &[
    ("policy", "regex serde_json_path"),
    ("tenant", "idna"),
    ("settings", "config"),
    ("telemetry", "tracing_subscriber"),
    ("otlp", "opentelemetry opentelemetry_proto opentelemetry_sdk prost"),
    (
        "pg",
        "deadpool deadpool_postgres fallible_iterator lru postgres_protocol socket2 tokio_postgres_rustls x509_cert",
    ),
    ("vault", "chacha20poly1305"),
    ("rollout", "quick_junit"),
    ("control", "maud utoipa_axum"),
    ("embedded", "uzers"),
    ("rest", "equivalent form_urlencoded moka self_cell winnow"),
    ("migrate", "refinery siphasher squawk_lexer squawk_linter squawk_syntax"),
    ("front", "governor tower tower_http webpki"),
    ("cli", "clap clap_complete clap_mangen comfy_table console indicatif"),
    ("telemetry admin", "prometheus_client"),
    ("front admin control", "axum"),
    ("pg front outbound", "rustls tokio_rustls"),
    ("pg outbound", "rustls_native_certs"),
    ("verify cli outbound", "http_body_util"),
    ("front verify cli outbound", "hyper hyper_util"),
    ("front control rest", "http_body"),
    ("front pool rest", "slab"),
    ("front admin rest control otlp outbound", "http"),
    ("telemetry directory front pool rest", "dashmap"),
];

/// What a REST request goes through, and what stands beside that: each uses only what comes before it.
const STAGES: &str = "head error root auth offload cache renewal request context plan planned sql body execute response documents disk timing transaction fuzz";

const MAX_LINES: usize = 500;

#[test]
fn arrows_go_down_only() {
    assert_eq!(arrows(&source()), [""; 0]);
    for (row, (module, allowed)) in MAY_IMPORT.iter().enumerate() {
        let below: Vec<_> = MAY_IMPORT[..row].iter().map(|(module, _)| *module).collect();
        let up = allowed.split_whitespace().find(|import| !below.contains(import));
        assert_eq!(up, None, "what `{module}` may import stands above it in the table");
    }
}

#[test]
fn crates_have_one_owner() {
    assert_eq!(foreign_crates(&source()), [""; 0]);
    assert_eq!(unowned(&source()), [""; 0]);
}

#[test]
fn stages_use_earlier_stages_only() {
    assert_eq!(steps_back(&source()), [""; 0]);
}

#[test]
fn files_form_no_circle() {
    assert_eq!(circles(&source()), BTreeMap::new());
}

#[test]
fn files_are_one_idea_each() {
    assert_eq!(untidy(&source()), [""; 0]);
}

/// The source, with the dependencies by the names that code has for them.
fn source() -> House {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let dependencies = manifest["dependencies"].as_table().unwrap();
    House::read(&root.join("src"), dependencies.keys().map(|name| name.replace('-', "_")).collect())
}

/// Arrows between top-level modules that the table doesn't have.
fn arrows(house: &House) -> Vec<String> {
    let mut wrong = Vec::new();
    for reference in references(house) {
        let Target::Item(named, _) = &reference.named else { continue };
        let (module, Some(import)) = (&reference.file.module[0], named.first()) else { continue };
        let row = MAY_IMPORT.iter().find(|(known, _)| known == module);
        match row {
            None => wrong.push(format!("{}: `{module}` has no row in the table", reference.place())),
            Some((_, allowed)) if import != module && !allowed.split_whitespace().any(|a| a == import) => {
                wrong.push(format!("{} imports `{import}`", reference.place()));
            }
            Some(_) => {}
        }
    }
    wrong
}

/// Crates that are named outside the modules that own them.
fn foreign_crates(house: &House) -> Vec<String> {
    let mut wrong = Vec::new();
    for reference in references(house) {
        let (Target::Crate(name), module) = (&reference.named, &reference.file.module[0]) else { continue };
        if owners(name).is_some_and(|owners| !owners.contains(&module.as_str())) {
            wrong.push(format!("{} names `{name}`", reference.place()));
        }
    }
    wrong
}

/// Crates that a single module names and doesn't own, and rows with what is no longer named.
fn unowned(house: &House) -> Vec<String> {
    let references = references(house);
    let mut users: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for reference in &references {
        if let Target::Crate(name) = &reference.named {
            users.entry(name).or_default().insert(&reference.file.module[0]);
        }
    }
    let single = users.iter().filter(|(name, modules)| modules.len() == 1 && owners(name).is_none());
    let mut wrong: Vec<_> =
        single.map(|(name, modules)| format!("only {modules:?} names `{name}`: make it the owner")).collect();
    for (modules, crates) in OWNERS {
        for (module, name) in modules.split(' ').flat_map(|m| crates.split(' ').map(move |name| (m, name))) {
            if !users.get(name).is_some_and(|users| users.contains(module)) {
                wrong.push(format!("`{module}` no longer names `{name}`: take it off the table"));
            }
        }
    }
    wrong
}

/// The modules that may name a crate; `None` if all may.
fn owners(name: &str) -> Option<Vec<&'static str>> {
    let row = OWNERS.iter().find(|(_, crates)| crates.split(' ').any(|owned| owned == name));
    row.map(|(modules, _)| modules.split(' ').collect())
}

/// Uses of a later stage by an earlier one.
fn steps_back(house: &House) -> Vec<String> {
    let place = |stage: &str| STAGES.split(' ').position(|known| known == stage);
    let mut wrong = Vec::new();
    for reference in references(house) {
        let Target::Item(meant, _) = &reference.meant else { continue };
        let ([rest, from, ..], [other, to, ..]) = (&reference.file.module[..], &meant[..]) else { continue };
        if rest != "rest" || other != "rest" || from == to {
            continue;
        }
        match (place(from), place(to)) {
            (Some(from), Some(to)) if from > to => {}
            (Some(_), Some(_)) => wrong.push(format!("{} uses the later stage `{to}`", reference.place())),
            _ => {
                wrong.push(format!("{}: `{from}` or `{to}` has no place among the stages", reference.place()))
            }
        }
    }
    wrong
}

/// Circles between the files of one module, by that module.
///
/// The rule: follow what a file's code names, and no way leads back to it. A file stands there with its folder. Of a
/// parent's file each item stands for itself, so that children may use a type of their parent's, but not a function
/// that needs them.
fn circles(house: &House) -> BTreeMap<String, Vec<String>> {
    let mut arrows: BTreeMap<&[String], Arrows> = BTreeMap::new();
    let references = references(house);
    for reference in &references {
        let (from, Target::Item(to, item)) = (&reference.file.module, &reference.meant) else { continue };
        let shared = from.iter().zip(to).take_while(|(from, to)| from == to).count();
        if shared == 0 {
            continue;
        }
        let arrow = (Node::at(shared, from, reference.item), Node::at(shared, to, item));
        arrows.entry(&from[..shared]).or_default().entry(arrow).or_insert_with(|| reference.place());
    }
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (module, arrows) in arrows {
        for ((from, to), place) in &arrows {
            // Items of one file may need each other.
            let between_files = matches!((from, to), (Node::File(_), _) | (_, Node::File(_)));
            if between_files && from != to && leads(&arrows, *to, *from) {
                found.entry(module.join("::")).or_default().push(format!("{place} uses {to:?}"));
            }
        }
    }
    found
}

/// What stands in a module's graph: a child with all below it, or an item of the module's own file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node<'a> {
    File(&'a str),
    Item(&'a str),
}

impl<'a> Node<'a> {
    /// Where an item of a module stands in the graph of its ancestor at this depth.
    fn at(depth: usize, module: &'a [String], item: &'a str) -> Self {
        module.get(depth).map_or(Self::Item(item), |child| Self::File(child))
    }
}

/// Which node uses which, and the first place where it does.
type Arrows<'a> = BTreeMap<(Node<'a>, Node<'a>), String>;

/// Whether a way leads from one to the other.
fn leads(arrows: &Arrows, from: Node, to: Node) -> bool {
    let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
    while let Some(at) = next.pop() {
        let ends = arrows.keys().filter(|(from, _)| *from == at).map(|(_, to)| *to);
        next.extend(ends.filter(|end| seen.insert(*end)));
    }
    seen.contains(&to)
}

/// Files that are too long, don't say what they are, or hide something from the other rules.
fn untidy(house: &House) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in house.files() {
        let (path, lines) = (&file.path, file.text.lines().count());
        if lines > MAX_LINES {
            wrong.push(format!("src/{path} has {lines} lines, {MAX_LINES} at most"));
        }
        if !file.text.starts_with("//! ") {
            wrong.push(format!("src/{path} does not open with a `//!` sentence"));
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        if ["mod.rs", "util.rs", "utils.rs", "common.rs", "types.rs"].contains(&name) {
            wrong.push(format!("src/{path} is no name for an idea"));
        }
        if house.is_code(file) {
            wrong.extend(file.opaque.iter().map(|what| format!("src/{path} {what}")));
        }
    }
    wrong
}

/// What the modules' code names. The roots of the library and of the program put modules together, and may name all.
fn references(house: &House) -> Vec<Reference<'_>> {
    let mut references = house.references();
    references.retain(|reference| !matches!(reference.file.path.as_str(), "lib.rs" | "main.rs"));
    references
}

impl Reference<'_> {
    fn place(&self) -> String {
        format!("src/{}:{}", self.file.path, self.line)
    }
}
