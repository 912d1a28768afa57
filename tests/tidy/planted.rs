//! The rules seen to work: a violation in the last line of every kind of file is found.

use super::*;

/// A source with this file in it, beside files that it may name.
fn house(path: &str, text: &str) -> House {
    let others = [
        ("pg.rs", "//! PostgreSQL.\nmod ident;\npub use ident::Ident;\npub struct Pool;"),
        ("pg/ident.rs", "//! Names.\nuse super::Pool;\npub struct Ident(Pool);"),
        ("front.rs", "//! HTTP.\npub struct App;"),
        (
            "rest.rs",
            "//! REST.\nmod error;\nmod plan;\nmod response;\nmod sql;\nmod unknown;\npub use sql::Statement;",
        ),
        ("rest/plan.rs", "//! Plans.\nmod tree;\npub struct Plan;"),
        ("rest/sql.rs", "//! SQL.\npub struct Statement(super::plan::Plan);"),
    ];
    let files = others.into_iter().filter(|(other, _)| *other != path).chain([(path, text)]);
    House::parse(
        files.map(|(path, text)| (path.to_owned(), text.to_owned())),
        ["axum", "tokio"].map(str::to_owned).into(),
    )
}

/// Each kind of file, by its path and what stands in it before its last line.
const KINDS: [(&str, &str); 5] = [
    ("pg.rs", "//! A parent.\nmod ident;\npub use ident::Ident;\npub struct Pool;\n"),
    ("pg/ident.rs", "//! A leaf.\npub struct Ident;\n"),
    ("pg/ident.rs", "//! A leaf with tests.\n#[cfg(test)]\nmod tests {\n    use crate::front::App;\n}\n"),
    ("pg/ident.rs", "//! A leaf whose tests are a file.\n#[cfg(test)]\nmod tests;\n"),
    ("pg/ident.rs", "//! A leaf with a test's helper.\n#[cfg(test)]\nfn app() -> crate::front::App {}\n"),
];

/// Ways to name a thing.
fn ways(path: &str) -> [String; 9] {
    let (start, end) = path.rsplit_once("::").unwrap();
    [
        format!("use {path};"),
        format!("pub use {start}::{{self, {end} as Other}};"),
        format!("fn f() {{ use {start}::{{{end}}}; }}"),
        format!("pub struct X {{ x: Option<Vec<{path}>> }}"),
        format!("impl X {{ fn f() -> impl Iterator<Item = u8> + use<'_> {{ {path}::new() }} }}"),
        format!("fn f() {{ format!(\"{{}}\", g({path}::new().x)) }}"),
        format!("#[derive({path})] struct X;"),
        format!("#[serde(with = \"{path}\")] struct X;"),
        format!("macro_rules! m {{ () => {{ {path} }} }}"),
    ]
}

/// Plants a last line in each kind of file, in each way, and has the rule find it there.
fn finds(rule: fn(&House) -> Vec<String>, named: &str) {
    for (path, text) in KINDS {
        assert_eq!(rule(&house(path, text)), [""; 0], "nothing is planted");
        for line in ways(named) {
            let at = format!("src/{path}:{}", text.lines().count() + 1);
            let found = rule(&house(path, &format!("{text}{line}")));
            assert!(found.iter().any(|found| found.starts_with(&at)), "{path}: {line}: {found:?}");
        }
    }
}

#[test]
fn an_arrow_up_is_found() {
    finds(arrows, "crate::front::App");
}

#[test]
fn a_crate_of_others_is_found() {
    finds(foreign_crates, "axum::Router");
    finds(foreign_crates, "::axum::Router");
}

#[test]
fn names_that_stand_for_others_are_followed() {
    for (line, upwards) in [
        ("use crate as root; fn f(_: root::front::App) {}", true),
        ("use super::super::front::App;", true),
        ("use super::super::{front as f}; fn g(_: f::App) {}", true),
        // A thing of another crate with the name of one of ours.
        ("use tokio::front; fn f(_: front::App) {}", false),
        ("fn f(front: u8) -> u8 { front }", false),
    ] {
        let found = arrows(&house("pg/ident.rs", &format!("//! A leaf.\n{line}")));
        assert_eq!(!found.is_empty(), upwards, "{line}: {found:?}");
    }
    assert_eq!(
        foreign_crates(&house("pg/ident.rs", "//! A leaf.\nuse tokio::axum; fn f(_: axum::X) {}")),
        [""; 0]
    );
}

#[test]
fn a_later_stage_is_found() {
    for line in ways("crate::rest::sql::Statement") {
        let found = steps_back(&house("rest/plan.rs", &format!("//! Plans.\npub struct Plan;\n{line}")));
        assert!(found.iter().any(|found| found.starts_with("src/rest/plan.rs:3 ")), "{line}: {found:?}");
    }
    // Also through a re-export, by a short path, from below, and in a checkout whose folder has a stage's name.
    for (path, line) in [
        ("rest/plan.rs", "use super::Statement;"),
        ("rest/plan.rs", "use super::{sql::Statement};"),
        ("rest/plan/tree.rs", "use super::super::sql::Statement;"),
        ("rest/error.rs", "use super::plan::Plan;"),
        ("rest/unknown.rs", "use super::plan::Plan;"),
    ] {
        let found = steps_back(&house(path, &format!("//! A stage.\n{line}")));
        assert!(
            found.len() == 1 && found[0].starts_with(&format!("src/{path}:2")),
            "{path}: {line}: {found:?}"
        );
    }
    assert_eq!(steps_back(&house("rest/response.rs", "//! Last.\nuse super::Statement;")), [""; 0]);
}

#[test]
fn a_circle_is_found() {
    // Two files, directly, through what their parent re-exports, and through an item of their parent's.
    for (plan, rest) in [
        ("use super::sql::Statement;", ""),
        ("use super::Statement;", ""),
        ("use super::prepare;", "pub fn prepare() { Statement::new() }"),
        ("use super::Prepared;", "pub struct Prepared(sql::Statement);"),
        (
            "fn f() { super::first() }",
            "pub fn first() { second() }\npub fn second() { sql::Statement::new() }",
        ),
    ] {
        let sql = "//! SQL.\npub struct Statement(super::plan::Plan);";
        let rest = format!("//! REST.\nmod plan;\nmod sql;\npub use sql::Statement;\n{rest}");
        let plan = format!("//! Plans.\npub struct Plan;\n{plan}");
        let files = [("rest.rs", &*rest), ("rest/plan.rs", &*plan), ("rest/sql.rs", sql)];
        let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
        let found = circles(&House::parse(files, BTreeSet::new()));
        assert!(
            found["rest"].iter().any(|found| found.starts_with("src/rest/plan.rs:3 ")),
            "{plan}: {found:?}"
        );
    }
    // A parent that uses its child, which uses a type of the parent's: no circle, unless the type needs the child.
    for (parent, circle) in [
        ("pub struct Pool;\nimpl Pool { fn ident(&self) -> Ident { Ident(self) } }", false),
        ("pub struct Pool(Ident);", true),
        ("pub struct Pool(Vec<ident::Ident>);", true),
        ("pub struct Pool(Name);\ntype Name = Ident;", true),
    ] {
        let text = format!("//! PostgreSQL.\nmod ident;\npub use ident::Ident;\n{parent}");
        let found = circles(&house("pg.rs", &text));
        assert_eq!(!found.is_empty(), circle, "{parent}: {found:?}");
    }
}

#[test]
fn an_untidy_file_is_found() {
    let long = "//! Long.\n".repeat(MAX_LINES + 1);
    for (path, text, expected) in [
        ("pg.rs", long.as_str(), "501 lines"),
        ("pg.rs", "\n//! Late.", "does not open"),
        ("pg/util.rs", "//! Everything.", "no name"),
        ("pg/mod.rs", "//! A folder's own file.", "no name"),
        ("pg.rs", "//! All of it.\nuse crate::front::*;", "imports all of `crate::front`"),
        ("pg.rs", "//! Two in one.\nmod inner { use crate::front::App; }", "the module `inner` inside"),
    ] {
        let found = untidy(&house(path, text));
        assert!(found.len() == 1 && found[0].contains(expected), "{path}: {found:?}");
    }
}

#[test]
fn a_crate_without_owner_is_found() {
    let found = unowned(&house("pg.rs", "//! PostgreSQL.\nuse tokio::net;"));
    assert!(found.iter().any(|found| found.starts_with("only {\"pg\"} names `tokio`")), "{found:?}");
    assert!(found.iter().any(|found| found.starts_with("`front` no longer names `axum`")), "{found:?}");
}
