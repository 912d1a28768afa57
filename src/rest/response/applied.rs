//! `Preference-Applied`: the preferences that the answer honours.

use super::super::plan::{Query, Source};
use super::super::request::prefer::{Count, Resolution, Return};
use super::super::request::{Action, Change, Request};

/// The header's value; `None` when nothing was applied.
pub(super) fn applied(query: &Query<'_>, request: &Request) -> Option<String> {
    let prefer = &request.prefer;
    let change = match &request.action {
        Action::Change(_, change) => Some(*change),
        _ => None,
    };
    let call = matches!(query.source, Source::Call(..));
    let mut applied: Vec<String> = Vec::new();
    let mut add = |text: &str| applied.push(text.to_owned());
    let keyed = matches!(&query.source, Source::Change(change) if !change.key.is_empty())
        || request.query.on_conflict.is_some();
    match prefer.resolution.filter(|_| change == Some(Change::Insert) && keyed) {
        Some(Resolution::Merge) => add("resolution=merge-duplicates"),
        Some(Resolution::Ignore) => add("resolution=ignore-duplicates"),
        None => {}
    }
    match prefer.missing_default.filter(|_| matches!(change, Some(Change::Insert | Change::Update))) {
        Some(true) => add("missing=default"),
        Some(false) => add("missing=null"),
        None => {}
    }
    match prefer.returns.filter(|_| change.is_some()) {
        Some(Return::Representation) => add("return=representation"),
        Some(Return::Minimal) => add("return=minimal"),
        Some(Return::HeadersOnly) => add("return=headers-only"),
        None => {}
    }
    match prefer.count {
        Some(Count::Exact) => add("count=exact"),
        Some(Count::Planned) => add("count=planned"),
        Some(Count::Estimated) => add("count=estimated"),
        None => {}
    }
    match prefer.rollback {
        Some(true) => add("tx=rollback"),
        Some(false) => add("tx=commit"),
        None => {}
    }
    match prefer.strict {
        Some(true) => add("handling=strict"),
        Some(false) => add("handling=lenient"),
        None => {}
    }
    if let Some(zone) = query.timezone {
        add(&format!("timezone={zone}"));
    }
    let limited = call || matches!(change, Some(Change::Update | Change::Delete));
    if let Some(most) = prefer.at_most().filter(|_| limited) {
        add(&format!("max-affected={most}"));
    }
    (!applied.is_empty()).then(|| applied.join(", "))
}
