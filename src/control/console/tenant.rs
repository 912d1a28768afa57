//! Tenant: all that is known of one, and what may be done to it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use maud::{Markup, html};
use time::OffsetDateTime;

use super::super::look::MINUTES;
use super::super::{Control, Problem, ProblemCode};
use super::chart::Hour;
use super::document::refuse;
use super::effective::{Line, effective};
use super::journal;
use super::layout::{Place, act, ago, ask, count, lines, moment, page, state, text};
use super::tenants::to_its_end;
use super::viewer::{Order as Sent, Viewer};
use crate::catalog::{Entry, OperatorRole, TenantRow};
use crate::fleet::Fleet;
use crate::policy::{JWT_SECRET, KEYS};
use crate::tenant::{State as TenantState, Verb};

/// Lines of the journal that its page has.
const JOURNAL: i64 = 30;
/// The longest wait for a database's size: the page is worth more without it than late.
const SIZE_TIMEOUT: Duration = Duration::from_millis(800);

/// What its page shows.
struct Look {
    row: TenantRow,
    hour: Hour,
    journal: Vec<Entry>,
    /// Bytes, and sessions in it.
    size: Option<(i64, i64)>,
    lines: Vec<Line>,
    warnings: Vec<String>,
    now: OffsetDateTime,
}

/// `GET /tenants/{slug}`
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    viewer: Viewer,
    Path(slug): Path<String>,
) -> Response {
    match look(&control, &viewer, &slug).await {
        Ok(look) => {
            viewer.send(page(&viewer, Place::Tenants, look.row.record.slug.as_str(), body(&viewer, &look)))
        }
        Err(problem) => refuse(problem),
    }
}

async fn look(control: &Control, viewer: &Viewer, slug: &str) -> Result<Look, Problem> {
    let row = viewer.caller.tenant(&control.fleet, slug).await?;
    let (catalog, id) = (&control.fleet.catalog, &row.record.id);
    let minutes = catalog.traffic_of_tenant(id, MINUTES).await?;
    let journal = catalog.journal(id, JOURNAL).await?;
    let size = tokio::time::timeout(SIZE_TIMEOUT, size(&control.fleet, &row)).await.ok().flatten();
    let settings = &control.fleet.settings;
    let now = OffsetDateTime::now_utc();
    Ok(Look {
        hour: Hour::new(&minutes, now),
        journal,
        size,
        lines: effective(settings, &row.record),
        warnings: settings.idle_limits(&row.record),
        now,
        row,
    })
}

/// How large its database is, and how many sessions there are in it, if its server says so.
async fn size(fleet: &Fleet, row: &TenantRow) -> Option<(i64, i64)> {
    let server = fleet.servers.get(&row.record.server).ok()?;
    let admin = server.connect_admin().await.ok()?;
    let sql = "SELECT pg_database_size(datname), numbackends::int8 FROM pg_stat_database WHERE datname = $1";
    let found = admin.query_opt(sql, &[&row.record.database()]).await.ok()??;
    Some((found.try_get(0).ok()?, found.try_get(1).ok()?))
}

fn body(viewer: &Viewer, look: &Look) -> Markup {
    let record = &look.row.record;
    html! {
        div .head {
            div {
                p .crumbs { a href="/tenants" { "Tenants" } }
                div .title { h1 { (record.slug) } (state(record.state)) }
            }
            div .acts { (acts(viewer, look)) }
        }
        (trouble(viewer, look))
        section .kpis aria-label="The last hour" {
            @for (name, chart) in [("Requests a second", look.hour.requests(true)), ("Errors a minute", look.hour.errors(true)), ("Latency, half and 99 %", look.hour.latencies(true))] {
                div .panel.kpi { span .label { (name) } (chart) }
            }
        }
        div .grid {
            div .w5.stack { (urls(look)) (facts(look)) }
            div .w7.stack { (settings(viewer, look)) (history(look)) }
        }
    }
}

/// What is not as it should be.
fn trouble(viewer: &Viewer, look: &Look) -> Markup {
    let row = &look.row;
    let path = format!("/tenants/{}", row.record.slug);
    html! {
        @if let Some(failure) = &row.failure {
            div .notice.bad { b { "Migration failed" } p { (lines(failure)) } }
        }
        @if let Some(since) = row.quarantined {
            div .notice.warn {
                b { "Set aside" } p { "Rollouts leave it out, since " (moment(since)) "." }
                @if viewer.may(OperatorRole::Operator) { (act(viewer, &format!("{path}/take-in"), html! { button .small { "Take it in again" } })) }
            }
        }
        @if row.unsettled && row.record.state != TenantState::Creating {
            div .notice.warn { b { "Unsettled" } p { "Its last change of state has not reached its server; `manybox apply` finishes it." } }
        }
        @if !row.lost_secrets.is_empty() {
            div .notice.bad { b { "Lost secrets" } p { (row.lost_secrets.join(", ")) " can't be opened any more; `manybox keys` says how to set them anew." } }
        }
        @for warning in &look.warnings { div .notice.warn { b { "Setting" } p { (text(warning)) } } }
    }
}

fn acts(viewer: &Viewer, look: &Look) -> Markup {
    let record = &look.row.record;
    let (slug, path) = (&record.slug, format!("/tenants/{}", record.slug));
    if !viewer.may(OperatorRole::Operator) {
        return html! {};
    }
    let question = |verb: Verb, title: &str, says: &str, is_danger: bool| {
        let name = verb.to_string();
        let word = capital(&name);
        ask(
            &format!("ask-{name}"),
            html! { (title) },
            viewer,
            &format!("{path}/{name}"),
            html! {
                p .soft { (says) }
                div .field {
                    label for={ "reason-" (name) } { "Reason" }
                    input id={ "reason-" (name) } name="reason" type="text" maxlength="300" autocomplete="off" placeholder="for the journal";
                }
                @if verb == Verb::Purge {
                    div .field {
                        label for="typed" { "Type " code { (slug) } " to go on" }
                        input id="typed" name="typed" type="text" required autocomplete="off" spellcheck="false" pattern=(slug.as_str());
                    }
                }
            },
            html! { button .primary.danger[is_danger] { (word) } },
        )
    };
    let button = |verb: Verb, class: &str| {
        let name = verb.to_string();
        html! { button type="button" class=(class) popovertarget={ "ask-" (name) } { (capital(&name)) } }
    };
    html! {
        @match record.state {
            TenantState::Active => {
                (act(viewer, &format!("{path}/reload"), html! { button title="Routers read its schema again" { "Reload schema" } }))
                (button(Verb::Suspend, "")) (button(Verb::Retire, "danger"))
            }
            TenantState::Suspended => { (button(Verb::Resume, "primary")) (button(Verb::Retire, "danger")) }
            TenantState::Retired => {
                (button(Verb::Restore, "primary"))
                @if viewer.may(OperatorRole::Owner) { (button(Verb::Purge, "danger")) }
            }
            TenantState::Creating | TenantState::Purging => {
                @if viewer.may(OperatorRole::Owner) { (button(Verb::Purge, "danger")) }
            }
            TenantState::Purged => {}
        }
        @if record.state == TenantState::Active {
            (question(Verb::Suspend, &format!("Suspend {slug}?"), "Its requests are refused with 403 at once. Data is untouched, and it can be resumed.", true))
        }
        @if record.state == TenantState::Suspended {
            (question(Verb::Resume, &format!("Resume {slug}?"), "Its requests are answered again.", false))
        }
        @if matches!(record.state, TenantState::Active | TenantState::Suspended) {
            (question(Verb::Retire, &format!("Retire {slug}?"), "It is out of service: its base URLs answer 404. The database is kept, and it can be restored.", true))
        }
        @if record.state == TenantState::Retired {
            (question(Verb::Restore, &format!("Restore {slug}?"), "It comes back as it was before it was retired.", false))
        }
        @if viewer.may(OperatorRole::Owner) && matches!(record.state, TenantState::Retired | TenantState::Creating | TenantState::Purging) {
            (question(Verb::Purge, &format!("Purge {slug}?"), "Its database is dropped for good. Nothing brings it back but a backup.", true))
        }
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn urls(look: &Look) -> Markup {
    let urls = &look.row.record.base_urls;
    html! {
        section .panel {
            header { h2 { "Base URLs" } span .soft { (urls.len()) } }
            @if urls.is_empty() { p .calm { "None: no request leads here." } }
            @else { table { tbody { @for url in urls {
                tr { td .mono { (text(&url.to_string())) } td .num { button .small type="button" data-copy=(url) { "Copy" } } }
            } } } }
        }
    }
}

fn facts(look: &Look) -> Markup {
    let (row, record) = (&look.row, &look.row.record);
    html! {
        section .panel {
            header { h2 { "Facts" } }
            div .body { dl .facts {
                dt { "Id" } dd .mono { (record.id) }
                @match record.lineage() {
                    Some(lineage) => {
                        dt { "Edition" } dd { a href={ "/tenants?edition=" (lineage.edition) } { (text(&lineage.edition)) } }
                        dt { "Version" } dd { (lineage.version) @if let Some(at) = row.migrated_at { span .soft { ", migrated " (ago(at, look.now)) } } }
                    }
                    None => { dt { "Edition" } dd { "none: the database was adopted" } }
                }
                @if let Some(baseline) = row.baseline { dt { "Baseline" } dd { "version " (baseline) ": recorded, not run" } }
                dt { "Tier" } dd { (text(&record.tier)) }
                dt { "Server" } dd { (text(&record.server)) }
                dt { "Database" } dd .mono { (text(&record.database())) }
                dt { "Login" } dd .mono { (text(&record.login_role())) }
                dt { "Size" } dd { @match look.size { Some((bytes, _)) => (bytes_of(bytes)), None => span .soft { "not known" } } }
                dt { "Sessions" } dd { @match look.size { Some((_, sessions)) => (count(sessions)), None => span .soft { "not known" } } }
                dt { "Created" } dd { (ago(row.created_at, look.now)) }
                dt { "Changed" } dd { (ago(row.changed_at, look.now)) }
                @if let Some(until) = row.keep_until { dt { "Kept until" } dd { (moment(until)) } }
                @if !row.labels.is_empty() {
                    dt { "Labels" } dd { @for (name, value) in &row.labels { span .tag { (text(name)) "=" (text(value)) } " " } }
                }
                @if !record.sealed.is_empty() {
                    dt { "Secrets" } dd { (record.sealed.keys().cloned().collect::<Vec<_>>().join(", ")) span .soft { " (set, never shown)" } }
                }
            } }
        }
    }
}

fn bytes_of(bytes: i64) -> String {
    let bytes = bytes as f64;
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or_else(|| format!("{bytes} B"), |(unit, name)| format!("{:.1} {name}", bytes / unit))
}

fn settings(viewer: &Viewer, look: &Look) -> Markup {
    let path = format!("/tenants/{}/settings", look.row.record.slug);
    let (plain, set): (Vec<_>, Vec<_>) = look.lines.iter().partition(|line| line.is_default());
    let rows = |lines: Vec<&Line>| {
        html! {
            @for line in lines {
                tr {
                    td { code { (text(&line.key)) } span .under { (line.doc) } }
                    td .mono { (text(&line.value)) }
                    td { @if line.is_own() { span .pill.info { "tenant" } } @else { span .soft.small { (text(&line.from)) } } }
                }
            }
        }
    };
    let titles = html! { thead { tr { th { "Setting" } th { "Value" } th { "Comes from" } } } };
    html! {
        section .panel {
            header { h2 { "Limits and settings" } span .soft { "each value, and where it comes from" } }
            @if set.is_empty() { p .calm { "It has nothing different from the defaults." } }
            @else { div .scroll tabindex="0" { table { (titles) tbody { (rows(set)) } } } }
            details {
                summary .calm { (plain.len()) " more as they are by default" }
                div .scroll tabindex="0" { table { (titles) tbody { (rows(plain)) } } }
            }
            @if viewer.may(OperatorRole::Operator) {
                div .body {
                    form .filters method="post" action=(path) {
                        (viewer.token())
                        select name="key" aria-label="Setting" required {
                            option value="" { "Set…" }
                            option value="tier" { "tier" }
                            @for key in KEYS.iter().filter(|key| key.name != JWT_SECRET) { option value=(key.name) title=(key.doc) { (key.name) } }
                        }
                        div .search { input name="value" type="text" aria-label="Value" placeholder="value; empty takes the tenant's own away" autocomplete="off" spellcheck="false" maxlength="2000"; }
                        button { "Set" }
                    }
                }
            }
        }
    }
}

fn history(look: &Look) -> Markup {
    html! {
        section .panel {
            header { h2 { "Journal" } span .soft { "newest first" } }
            @if look.journal.is_empty() { p .calm { "Nothing was done to it yet." } }
            @else { ol .journal { @for entry in &look.journal { (journal::line(entry, None, look.now)) } } }
        }
    }
}

/// `POST /tenants/{slug}/{verb}`
pub(super) async fn order(
    Path((slug, word)): Path<(String, String)>,
    Sent { viewer, fields }: Sent,
) -> Response {
    let outcome = match word.as_str() {
        "suspend" => carry_out(&viewer, &slug, Verb::Suspend, OperatorRole::Operator).await,
        "resume" => carry_out(&viewer, &slug, Verb::Resume, OperatorRole::Operator).await,
        "retire" => carry_out(&viewer, &slug, Verb::Retire, OperatorRole::Operator).await,
        "restore" => carry_out(&viewer, &slug, Verb::Restore, OperatorRole::Operator).await,
        "purge" if fields.text("typed") != slug => {
            let detail = format!("that is not its name: type {slug} to purge it");
            Err(Problem::new(ProblemCode::Invalid, detail))
        }
        "purge" => carry_out(&viewer, &slug, Verb::Purge, OperatorRole::Owner).await,
        "reload" => reload(&viewer, &slug).await,
        "take-in" => take_in(&viewer, &slug).await,
        "settings" => set(&viewer, &slug, fields.text("key"), fields.text("value")).await,
        _ => Err(Problem::not_found("such act")),
    };
    match outcome {
        // Its page is gone with it.
        Ok(text) if word == "purge" => viewer.lead("/tenants", true, text),
        Err(problem) if matches!(problem.code, ProblemCode::NotFound | ProblemCode::Forbidden) => {
            refuse(problem)
        }
        outcome => viewer.tell(&format!("/tenants/{slug}"), outcome),
    }
}

async fn carry_out(viewer: &Viewer, slug: &str, verb: Verb, role: OperatorRole) -> Result<String, Problem> {
    viewer.caller.needs(role)?;
    viewer.caller.tenant(&viewer.fleet, slug).await?;
    let (fleet, name) = (Arc::clone(&viewer.fleet), slug.to_owned());
    let row = to_its_end(async move {
        Ok(match verb {
            Verb::Retire => fleet.retire(&name, None).await?,
            verb => fleet.carry_out(&name, verb).await?,
        })
    })
    .await?;
    Ok(format!("{slug} is {}.", row.record.state))
}

async fn reload(viewer: &Viewer, slug: &str) -> Result<String, Problem> {
    viewer.caller.needs(OperatorRole::Operator)?;
    let row = viewer.caller.tenant(&viewer.fleet, slug).await?;
    viewer.fleet.catalog.tenant_reload(&row.record.id).await?;
    Ok(format!("Routers read the schema of {slug} again."))
}

async fn take_in(viewer: &Viewer, slug: &str) -> Result<String, Problem> {
    viewer.caller.needs(OperatorRole::Operator)?;
    let row = viewer.caller.tenant(&viewer.fleet, slug).await?;
    viewer.fleet.catalog.tenant_quarantine(&row.record.id, false).await?;
    Ok(format!("Rollouts take {slug} in again."))
}

async fn set(viewer: &Viewer, slug: &str, key: &str, value: &str) -> Result<String, Problem> {
    viewer.caller.needs(OperatorRole::Operator)?;
    let fleet = &viewer.fleet;
    let row = viewer.caller.tenant(fleet, slug).await?;
    let (mut tier, mut overrides) = (row.record.tier.clone(), row.record.overrides.clone());
    match key {
        "" => return Err(Problem::new(ProblemCode::Invalid, "say which setting")),
        JWT_SECRET => {
            let detail = "secrets are set by `manybox tenant set`, which keeps them out of browsers";
            return Err(Problem::new(ProblemCode::Invalid, detail));
        }
        "tier" if value.is_empty() => tier.clone_from(&fleet.settings.defaults.tier),
        "tier" => value.clone_into(&mut tier),
        key => overrides.set(key, value)?,
    }
    fleet.configure_beside_secrets(&row.record, &tier, &overrides).await?;
    let row = fleet.tenant(slug).await?;
    let mut text = if value.is_empty() {
        format!("{key} is as it is by default.")
    } else {
        format!("{key} is {value}.")
    };
    for warning in fleet.settings.idle_limits(&row.record) {
        text.push_str(&format!("\n{warning}"));
    }
    Ok(text)
}
