//! Tenants: found as one types, filtered, ordered, a page at a time; and made.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use maud::{Markup, html};
use time::OffsetDateTime;

use super::super::{Control, Problem, ProblemCode};
use super::document::refuse;
use super::layout::{Place, ago, empty, head, option, page, state, text};
use super::viewer::{Fields, Order as Sent, Viewer};
use crate::catalog::{Listing, OperatorRole, Order, Page, TenantRow, Trouble};
use crate::fleet::TenantSpec;
use crate::policy::Invalid;
use crate::settings::Settings;
use crate::tenant::{BaseUrl, Slug, State as TenantState};

/// Tenants of a page.
const MOST: usize = 50;

/// `GET /tenants`
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    viewer: Viewer,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let asked = Fields::of(pairs);
    match find(&viewer, &asked).await {
        Ok(found) => {
            let body = body(&viewer, &control.fleet.settings, &asked, &found);
            viewer.send(page(&viewer, Place::Tenants, "Tenants", body))
        }
        Err(problem) => refuse(problem),
    }
}

async fn find(viewer: &Viewer, asked: &Fields) -> Result<Page, Problem> {
    let listing = listing(viewer, asked);
    Ok(viewer.fleet.catalog.tenants_page(&listing, MOST).await?)
}

/// What is asked for, of what the viewer may see. Words that mean nothing say nothing.
fn listing(viewer: &Viewer, asked: &Fields) -> Listing {
    let scopes = &viewer.caller.scopes;
    let wanted = asked.get("edition").map(|edition| BTreeSet::from([edition.to_owned()]));
    let editions = match (&scopes.editions, wanted) {
        (Some(may), Some(wanted)) => Some(may & &wanted),
        (may, wanted) => wanted.or_else(|| may.clone()),
    };
    Listing {
        search: asked.get("q").map(|text| text.replace('\0', "")),
        state: asked.get("state").and_then(|state| state.parse().ok()),
        editions,
        tier: asked.get("tier").map(|tier| tier.replace('\0', "")),
        server: asked.get("server").map(|server| server.replace('\0', "")),
        labels: scopes.labels.clone(),
        trouble: asked.get("trouble").and_then(|trouble| trouble.parse().ok()),
        order: asked.get("order").and_then(|order| order.parse().ok()).unwrap_or_default(),
        after: asked.get("after").and_then(|after| after.parse().ok()),
    }
}

fn body(viewer: &Viewer, settings: &Settings, asked: &Fields, found: &Page) -> Markup {
    let create = html! {
        @if viewer.may(OperatorRole::Operator) { a .button.primary href="/new-tenant" { "New tenant" } }
    };
    html! {
        (head(html! { "Tenants" }, html! { "By name or base URL, by state, edition, tier and server." }, create))
        section .panel aria-label="Tenants" { (filters(settings, asked)) (results(asked, found)) }
    }
}

fn filters(settings: &Settings, asked: &Fields) -> Markup {
    let choice = |name: &str, all: &str, values: Vec<(&str, &str)>| {
        html! {
            select name=(name) aria-label=(all) {
                option value="" { (all) }
                @for (value, words) in values { (option(value, words, asked.get(name))) }
            }
        }
    };
    let mut tiers = names(settings.tiers.keys());
    if tiers.iter().all(|(tier, _)| *tier != "standard") {
        tiers.push(("standard", "standard"));
    }
    let orders = Order::ALL.map(|order| match order {
        Order::Slug => (order.as_str(), "By name"),
        Order::Newest => (order.as_str(), "Newest first"),
        Order::Version => (order.as_str(), "Oldest version first"),
    });
    let troubles = Trouble::ALL.map(|trouble| match trouble {
        Trouble::Failed => (trouble.as_str(), "Failed migration"),
        Trouble::Quarantined => (trouble.as_str(), "Set aside"),
        Trouble::Unsettled => (trouble.as_str(), "Unsettled"),
        Trouble::LostSecrets => (trouble.as_str(), "Lost secrets"),
    });
    html! {
        form .filters method="get" action="/tenants" role="search" data-search {
            div .search {
                input type="search" name="q" value=(asked.text("q")) placeholder="Search by name or base URL" aria-label="Search tenants" autocomplete="off" spellcheck="false" maxlength="300";
                kbd .wide aria-hidden="true" { "/" }
            }
            (choice("state", "Any state", TenantState::ALL.iter().map(|state| (state.as_str(), state.as_str())).collect()))
            (choice("edition", "Any edition", names(settings.editions.keys())))
            (choice("tier", "Any tier", tiers))
            (choice("server", "Any server", names(settings.servers.keys())))
            (choice("trouble", "Any trouble", troubles.to_vec()))
            (choice("order", "By name", orders[1..].to_vec()))
            button .no-script { "Show" }
        }
    }
}

/// Names that stand for themselves.
fn names<'a>(names: impl Iterator<Item = &'a String>) -> Vec<(&'a str, &'a str)> {
    names.map(|name| (name.as_str(), name.as_str())).collect()
}

/// The part of the page that follows the search.
fn results(asked: &Fields, found: &Page) -> Markup {
    let now = OffsetDateTime::now_utc();
    html! {
        div #results aria-live="polite" {
            @if found.tenants.is_empty() {
                (empty("No tenant matches", "Look for less, or take a filter away."))
            } @else {
                div .scroll { table .rows {
                    thead { tr {
                        th { "Tenant" } th { "State" } th .wide { "Edition" } th .num { "Version" }
                        th .wide { "Tier" } th .wide { "Server" } th .num.wide { "Created" }
                    } }
                    tbody { @for tenant in &found.tenants { (row(tenant, now)) } }
                } }
                @let is_first = asked.get("after").is_none();
                @if !is_first || found.next.is_some() {
                    nav .pages aria-label="Pages of the list" {
                        @if is_first { span .soft { "First page" } } @else { a .button.small href=(link(asked, None)) { "First page" } }
                        @if let Some(next) = &found.next { a .button.small rel="next" href=(link(asked, Some(&next.to_string()))) { "Next page" } }
                        @else { span .soft { "Last page" } }
                    }
                }
            }
        }
    }
}

fn row(tenant: &TenantRow, now: OffsetDateTime) -> Markup {
    let record = &tenant.record;
    html! {
        tr {
            td .name {
                a .open href={ "/tenants/" (record.slug) } { (record.slug) }
                @if let Some(url) = record.base_urls.first() { span .under.cut { (text(&url.to_string())) } }
            }
            td {
                (state(record.state))
                @if tenant.failure.is_some() { " " span .pill.bad { "failed" } }
                @if tenant.quarantined.is_some() { " " span .pill.warn { "set aside" } }
                @if tenant.unsettled && record.state != TenantState::Creating { " " span .pill.warn { "unsettled" } }
            }
            @match record.lineage() {
                Some(lineage) => { td .wide { (text(&lineage.edition)) } td .num { (lineage.version) } }
                None => { td .soft.wide { "adopted" } td .num.soft { "–" } }
            }
            td .wide { (text(&record.tier)) }
            td .wide { (text(&record.server)) }
            td .num.wide { (ago(tenant.created_at, now)) }
        }
    }
}

/// The same list from somewhere else on.
fn link(asked: &Fields, after: Option<&str>) -> String {
    let kept = ["q", "state", "edition", "tier", "server", "trouble", "order"];
    asked.link("/tenants", &kept, after.map(|after| ("after", after)))
}

/// `GET /new-tenant`
pub(super) async fn new(State(control): State<Arc<Control>>, viewer: Viewer) -> Response {
    if let Err(problem) = viewer.caller.needs(OperatorRole::Operator) {
        return refuse(problem);
    }
    let form = form(&viewer, &control.fleet.settings, &Fields::default(), None);
    viewer.send(page(&viewer, Place::Tenants, "New tenant", form))
}

fn form(viewer: &Viewer, settings: &Settings, given: &Fields, wrong: Option<&str>) -> Markup {
    let defaults = &settings.defaults;
    let choose = |name: &str, default: Option<&str>, values: Vec<&str>| {
        let chosen = given.get(name).or(default);
        html! { select id=(name) name=(name) { @for value in values { (option(value, value, chosen)) } } }
    };
    let may = |edition: &&str| viewer.caller.scopes.admits_edition(Some(edition));
    let editions: Vec<_> = settings.editions.keys().map(String::as_str).filter(may).collect();
    let mut tiers: Vec<_> = settings.tiers.keys().map(String::as_str).collect();
    if !tiers.contains(&"standard") {
        tiers.push("standard");
    }
    let servers: Vec<_> = if settings.is_embedded() {
        vec!["main"]
    } else {
        settings.servers.keys().map(String::as_str).collect()
    };
    let crumbs = html! { "A database of its own, made from the edition's template in a moment." };
    html! {
        (head(html! { "New tenant" }, crumbs, html! {}))
        section .panel { div .body {
            form .form method="post" action="/tenants" {
                (viewer.token())
                @if let Some(wrong) = wrong { div .notice.bad role="alert" { b { "Not done" } p { (text(wrong)) } } }
                div .field {
                    label for="slug" { "Name" }
                    input id="slug" name="slug" type="text" value=(given.text("slug")) required maxlength="40" pattern="[a-z0-9]([a-z0-9\\-]*[a-z0-9])?" autocomplete="off" autocapitalize="none" spellcheck="false" autofocus;
                    span .hint { "For people and URLs: a–z, 0–9 and dashes." }
                }
                div .pair {
                    div .field { label for="edition" { "Edition" } (choose("edition", defaults.edition.as_deref(), editions)) }
                    div .field { label for="tier" { "Tier" } (choose("tier", Some(&defaults.tier), tiers)) }
                    div .field { label for="server" { "Server" } (choose("server", Some(&defaults.server), servers)) }
                }
                div .field {
                    label for="base_urls" { "Base URLs of its own" }
                    textarea id="base_urls" name="base_urls" rows="2" spellcheck="false" placeholder="https://clinic.example" { (given.text("base_urls")) }
                    span .hint { "One a line, beside those that every tenant gets. May be empty." }
                }
                div .acts { button .primary { "Create" } a .button href="/tenants" { "Cancel" } }
            }
        } }
    }
}

/// `POST /tenants`
pub(super) async fn create(State(control): State<Arc<Control>>, Sent { viewer, fields }: Sent) -> Response {
    let made = create_by(&viewer, &fields).await;
    match made {
        Ok(slug) => viewer.lead(&format!("/tenants/{slug}"), true, format!("{slug} is created and serves.")),
        Err(problem) => {
            // What was typed stays.
            let status = problem.code.row().1;
            let form = form(&viewer, &control.fleet.settings, &fields, Some(&problem.detail));
            let mut response = viewer.send_as(status, page(&viewer, Place::Tenants, "New tenant", form));
            response.extensions_mut().insert(problem);
            response
        }
    }
}

async fn create_by(viewer: &Viewer, fields: &Fields) -> Result<Slug, Problem> {
    let caller = &viewer.caller;
    caller.needs(OperatorRole::Operator)?;
    let slug: Slug = fields.text("slug").parse()?;
    let fleet = &viewer.fleet;
    let edition =
        fields.get("edition").map(str::to_owned).or_else(|| fleet.settings.defaults.edition.clone());
    if !caller.scopes.admits_edition(edition.as_deref()) {
        let detail = format!("`{}` is for tenants of other editions", caller.name);
        return Err(Problem::new(ProblemCode::Forbidden, detail));
    }
    // One that is half made is finished.
    let there = fleet.catalog.tenant_by_slug(slug.as_str()).await?;
    if there.is_some_and(|row| row.record.state != TenantState::Creating || !caller.scopes.admits(&row)) {
        return Err(Problem::new(ProblemCode::Taken, format!("the name `{slug}` is taken: choose another")));
    }
    let urls = fields.text("base_urls").lines().map(str::trim).filter(|line| !line.is_empty());
    let base_urls = urls.map(str::parse).collect::<Result<Vec<BaseUrl>, Invalid>>()?;
    let spec = TenantSpec {
        edition,
        tier: fields.get("tier").map(str::to_owned),
        server: fields.get("server").map(str::to_owned),
        base_urls,
        ..TenantSpec::default()
    };
    let (fleet, labels, name) = (Arc::clone(fleet), caller.scopes.labels.clone(), slug.clone());
    to_its_end(async move {
        let row = fleet.create(&name, &spec).await?;
        if !labels.is_empty() && row.labels != labels {
            fleet.catalog.tenant_label(&row.record.id, &labels).await?;
        }
        Ok(())
    })
    .await?;
    Ok(slug)
}

/// Work that goes on when the browser goes away: half done it would wait for somebody to finish it.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let joined = tokio::spawn(work).await;
    joined.map_err(|error| Problem::new(ProblemCode::Internal, error.to_string()))?
}

/// Says that there is no such page.
pub(super) async fn missing() -> Response {
    let mut response = refuse(Problem::not_found("such page"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
