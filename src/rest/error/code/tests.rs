//! Codes stay unique and documented, and docs/errors.md says what they say.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::*;

/// The groups of codes by the start of their texts: what is wrong, in the order of a request's way.
const GROUPS: [(&str, &str); 8] = [
    ("MBX1", "MBX1xx: finding the tenant, taking in the request"),
    ("MBX2", "MBX2xx: connections to the database"),
    ("MBX3", "MBX3xx: roles"),
    ("MBX5", "MBX5xx: defects"),
    ("PGRST0", "PGRST0xx: the schema cache can't be loaded"),
    ("PGRST1", "PGRST1xx: the request"),
    ("PGRST2", "PGRST2xx: names that are not in the schema cache, or not unique"),
    ("PGRST3", "PGRST3xx: tokens"),
];

#[test]
fn a_text_belongs_to_one_code() {
    let reserved = Code::RESERVED.iter().map(|(text, _)| *text);
    let all: Vec<&str> = Code::ALL.iter().map(Code::as_str).chain(reserved).collect();
    let unique: BTreeSet<_> = all.iter().collect();
    assert_eq!(unique.len(), all.len());
    let texts: Vec<_> = Code::ALL.iter().map(Code::as_str).collect();
    assert!(texts.is_sorted(), "codes stand in their order");
}

#[test]
fn outcomes_fit_their_status() {
    for code in Code::ALL {
        let status = code.status().as_u16();
        let expected: &[Outcome] = match code {
            Code::AmbiguousUrl | Code::UnknownBaseUrl => &[Outcome::UnknownTenant],
            _ => match status {
                429 => &[Outcome::RateLimited, Outcome::Backpressure],
                503 => &[Outcome::Unavailable, Outcome::Backpressure],
                300 | 507 => &[Outcome::ClientError],
                status => &[Outcome::of_status(status)],
            },
        };
        assert!(expected.contains(&code.outcome()), "{code} is {status} and {:?}", code.outcome());
    }
}

#[test]
fn a_code_of_the_tenants_is_never_ours() {
    for ours in Code::ALL {
        let (text, status) = (ours.as_str(), ours.status());
        let theirs = Code::Function { code: text.into(), status };
        assert_ne!(theirs, *ours);
        assert_eq!(theirs.outcome(), Outcome::of_status(status.as_u16()), "{text}");
    }
    let status = StatusCode::SERVICE_UNAVAILABLE;
    assert_eq!(Code::Sqlstate { state: "57P03".into(), status }.outcome(), Outcome::Unavailable);
    assert_eq!(Code::Function { code: "57P03".into(), status }.outcome(), Outcome::ServerError);
}

/// The tables of docs/errors.md.
fn tables() -> String {
    let mut page = String::new();
    for (start, title) in GROUPS {
        let _ = write!(page, "\n### {title}\n\n");
        page.push_str("| code | status | raised when | callers | operators |\n|---|---|---|---|---|\n");
        for code in Code::ALL.iter().filter(|code| code.as_str().starts_with(start)) {
            let Documentation { raised, caller, operator } = code.documentation().unwrap();
            let status = code.status().as_u16();
            let _ = writeln!(page, "| {code} | {status} | {raised} | {caller} | {operator} |");
        }
    }
    page.push_str("\n### Never sent\n\n| code | why |\n|---|---|\n");
    for (text, why) in Code::RESERVED {
        let _ = writeln!(page, "| {text} | {why} |");
    }
    page.push('\n');
    page
}

#[test]
fn the_page_of_errors_is_made_from_the_codes() {
    const BEGIN: &str = "<!-- begin: made from src/rest/error/code.rs -->\n";
    const END: &str = "<!-- end -->\n";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let tables = tables();
    let rows = tables.lines().filter(|line| line.starts_with("| MBX") || line.starts_with("| PGRST")).count();
    assert_eq!(rows, Code::ALL.len() + Code::RESERVED.len(), "every code is in one group");
    let current = format!("{before}{BEGIN}{tables}{END}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, current).unwrap();
        return;
    }
    assert!(
        page == current,
        "docs/errors.md is not what src/rest/error/code.rs says. Run\n\n    \
         UPDATE_DOCS=1 cargo test --lib the_page_of_errors\n\nand commit the page."
    );
}
