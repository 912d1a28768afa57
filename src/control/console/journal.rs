//! Journal: what was done to the fleet, by whom and why.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;
use time::OffsetDateTime;

use super::super::{Control, Problem};
use super::document::refuse;
use super::layout::{Place, ago, empty, head, page, text};
use super::viewer::{Fields, Viewer};
use crate::catalog::{Entry, JournalQuery, OperatorRole, Told};

/// Lines of a page.
const MOST: usize = 100;
/// Longest text of a detail that is shown, characters.
const MAX_SHOWN: usize = 400;

/// `GET /journal`
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    viewer: Viewer,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let asked = Fields::of(pairs);
    let found = match viewer.caller.needs_all(OperatorRole::Viewer) {
        Ok(()) => find(&control, &asked).await,
        Err(problem) => Err(problem),
    };
    match found {
        Ok(found) => viewer.send(page(&viewer, Place::Journal, "Journal", body(&asked, &found))),
        Err(problem) => refuse(problem),
    }
}

async fn find(control: &Control, asked: &Fields) -> Result<Vec<Told>, Problem> {
    let text = |name: &str| asked.get(name).map(|text| text.replace('\0', ""));
    let query = JournalQuery {
        tenant: text("tenant"),
        who: text("who"),
        action: text("action"),
        before: asked.get("before").and_then(|before| before.parse().ok()),
    };
    Ok(control.fleet.catalog.journal_page(&query, MOST as i64 + 1).await?)
}

fn body(asked: &Fields, found: &[Told]) -> Markup {
    let now = OffsetDateTime::now_utc();
    let field = |name: &str, words: &str| {
        html! { input type="text" name=(name) value=(asked.text(name)) placeholder=(words) aria-label=(words) autocomplete="off" spellcheck="false"; }
    };
    let next = (found.len() > MOST).then(|| found.get(MOST - 1)).flatten();
    html! {
        (head(html! { "Journal" }, html! { "What was done, by whom and why. It is only ever appended to." }, html! {}))
        section .panel {
            form .filters method="get" action="/journal" role="search" data-search {
                div .search { input type="search" name="tenant" value=(asked.text("tenant")) placeholder="Tenant" aria-label="Tenant" autocomplete="off" spellcheck="false"; kbd .wide aria-hidden="true" { "/" } }
                div .search { (field("who", "Operator or login")) }
                div .search { (field("action", "Action")) }
                button .no-script { "Show" }
            }
            div #results aria-live="polite" {
                @if found.is_empty() { (empty("No line matches", "Look for less.")) }
                @else { ol .journal { @for told in found.iter().take(MOST) { (line(&told.entry, told.slug.as_deref(), now)) } } }
                @if let Some(last) = next {
                    nav .pages aria-label="Pages of the journal" { span {} a .button.small rel="next" href=(link(asked, last.id)) { "Older" } }
                }
            }
        }
    }
}

fn link(asked: &Fields, before: i64) -> String {
    asked.link("/journal", &["tenant", "who", "action"], Some(("before", &before.to_string())))
}

/// One line.
pub(super) fn line(entry: &Entry, slug: Option<&str>, now: OffsetDateTime) -> Markup {
    let act = entry.act.as_ref();
    html! {
        li {
            span .soft.small { (ago(entry.at, now)) }
            span {
                span .act { (text(&entry.action)) }
                @if let Some(slug) = slug { " " a href={ "/tenants/" (slug) } { (slug) } }
                span .soft { " by " @match act {
                    Some(act) => { b { (text(&act.operator)) } " (" (text(&act.by)) ")" }
                    None => { (text(&entry.actor)) }
                } }
                @if let Some(outcome) = &entry.outcome {
                    " " @if is_well(outcome) { span .pill.good { (text(outcome)) } } @else { span .pill.bad { (text(outcome)) } }
                }
            }
            @if let Some(reason) = act.and_then(|act| act.reason.as_ref()) { p .detail { "“" (text(reason)) "”" } }
            @if let Some(detail) = detail(&entry.detail) { p .detail { (text(&detail)) } }
        }
    }
}

/// Whether a request went well: a redirect leads to what it made, or says what was wrong.
fn is_well(outcome: &str) -> bool {
    outcome.starts_with(['2', '3']) && !outcome.contains("MBX")
}

/// A line's details, as far as they say something.
fn detail(value: &Value) -> Option<String> {
    let map = value.as_object()?;
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let said = map.iter().filter(|(_, value)| !value.is_null());
    let mut text = said.map(|(key, value)| format!("{key}: {}", word(value))).collect::<Vec<_>>().join(" · ");
    if let Some((end, _)) = text.char_indices().nth(MAX_SHOWN) {
        text.truncate(end);
        text.push('…');
    }
    (!text.is_empty()).then_some(text)
}
