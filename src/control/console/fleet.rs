//! Fleet: the first page: what there is, how it goes, and what needs somebody's attention.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::super::look::Look;
use super::super::{Control, Problem};
use super::chart::{Hour, bar, millis};
use super::document::refuse;
use super::layout::{Place, ago, count, empty, head, page, rate, some, text};
use super::viewer::Viewer;
use crate::catalog::{CatalogError, OperatorRole, RolloutState, Share};
use crate::tenant::State as TenantState;

/// The share of errors from which on somebody should look.
const MANY_ERRORS: f64 = 0.01;

/// What somebody should look at.
struct Matter {
    is_bad: bool,
    what: String,
    more: String,
    link: String,
    open: &'static str,
}

/// `GET /`
pub(super) async fn show(State(control): State<Arc<Control>>, viewer: Viewer) -> Response {
    // Who is for some tenants begins with these.
    if !viewer.sees_fleet {
        return Redirect::to("/tenants").into_response();
    }
    match control.look.get(&control.fleet).await {
        Ok(look) => viewer.send(page(&viewer, Place::Fleet, "Fleet", whole(&viewer, &look))),
        Err(error) => refuse(Problem::from(error)),
    }
}

/// The part of the page that goes with the time.
pub(super) async fn part(control: &Control, viewer: &Viewer) -> Result<String, CatalogError> {
    let look = control.look.get(&control.fleet).await?;
    Ok(body(viewer, &look).into_string())
}

fn whole(viewer: &Viewer, look: &Look) -> Markup {
    let create = html! {
        @if viewer.may(OperatorRole::Operator) { a .button.primary href="/new-tenant" { "New tenant" } }
    };
    let under = html! {
        (some(look.sum(|group| group.tenants), "tenant")) " on " (some(look.servers.len() as u64, "server")) ", "
        (some(look.routers.iter().filter(|router| router.is_alive).count() as u64, "router"))
    };
    html! {
        (head(html! { "Fleet" }, under, create))
        div #live .stack data-stream="/events" { (body(viewer, look)) }
    }
}

fn body(viewer: &Viewer, look: &Look) -> Markup {
    let hour = Hour::new(&look.minutes, look.at);
    html! {
        div .kpis { (tenants(look)) (traffic(&hour)) }
        div .grid {
            div .w7.stack { (attention(&matters(viewer, look, &hour))) (servers(look)) }
            div .w5.stack { (busiest(look)) (editions(viewer, look)) (routers(look)) }
        }
    }
}

fn tenants(look: &Look) -> Markup {
    let shown = TenantState::ALL.into_iter().filter(|state| *state != TenantState::Purged);
    let states: Vec<_> = shown.map(|state| (state, look.in_state(state))).filter(|(_, n)| *n > 0).collect();
    let classes: Vec<_> = states.iter().map(|(state, n)| (format!("s-{state}"), *n as f64)).collect();
    let parts: Vec<_> = classes.iter().map(|(class, part)| (class.as_str(), *part)).collect();
    let label = states.iter().map(|(state, n)| format!("{n} {state}")).collect::<Vec<_>>().join(", ");
    html! {
        section .panel.kpi aria-label="Tenants" {
            div .line { span .label { "Tenants" } }
            span .value { (count(look.sum(|group| group.tenants))) }
            (bar(&label, false, &parts))
            div .legend {
                @for (state, n) in &states {
                    a href={ "/tenants?state=" (state) } { i class={ "s-" (state) } {} b { (count(n)) } " " (state) }
                }
            }
        }
    }
}

fn traffic(hour: &Hour) -> Markup {
    let errors = hour.errors_now() * 100.0;
    html! {
        section .panel.kpi aria-label="Requests" {
            div .line { span .label { "Requests" } span .small.soft { "last hour" } }
            span .value { (rate(hour.rate_now())) small { "/s" } }
            (hour.requests(false))
        }
        section .panel.kpi aria-label="Errors" {
            div .line { span .label { "Errors" } span .small.soft { "last 5 minutes" } }
            span .value { (format!("{errors:.2}").trim_end_matches('0').trim_end_matches('.')) small { "% 5xx" } }
            (hour.errors(false))
        }
        section .panel.kpi aria-label="Latency" {
            div .line { span .label { "Latency" } span .small.soft { "half and 99 %" } }
            span .value { @match hour.p99_now() {
                Some(p99) => { (millis(p99)) small { "99 % within" } }
                None => { "–" small { "no requests" } }
            } }
            (hour.latencies(false))
        }
    }
}

/// What needs attention, what is bad first.
fn matters(viewer: &Viewer, look: &Look, hour: &Hour) -> Vec<Matter> {
    let mut matters = Vec::new();
    let mut add = |is_bad, what: String, more: &str, link: String, open| {
        matters.push(Matter { is_bad, what, more: more.to_owned(), link, open });
    };
    for rollout in look.rollouts.iter().filter(|rollout| rollout.state != RolloutState::Running) {
        let what = format!("Rollout {} is {}", rollout.id, rollout.state.as_str());
        let reason = rollout.reason.as_deref().unwrap_or_default();
        add(rollout.state == RolloutState::Halted, what, reason, format!("/rollouts/{}", rollout.id), "Open");
    }
    let have = |n: u64| if n == 1 { "has" } else { "have" };
    let of = |n: u64, what: &str| format!("{} {} {what}", some(n, "tenant"), have(n));
    let list = |trouble: &str| format!("/tenants?trouble={trouble}");
    let all = look.sum(|group| group.tenants);
    let failed = look.sum(|group| group.failed);
    if failed > 0 {
        let more = "Each one's page says in which file and line.";
        add(true, of(failed, "a failed migration"), more, list("failed"), "List");
    }
    let lost = look.sum(|group| group.lost_secrets);
    if lost > 0 {
        let more = "They were sealed with a master key that is lost; set them anew.";
        add(true, of(lost, "secrets that can't be opened"), more, list("lost-secrets"), "List");
    }
    let unsettled = look.sum(|group| group.unsettled);
    if unsettled > 0 {
        let more = "`manybox apply` finishes what was begun and cut off.";
        add(
            false,
            of(unsettled, "a change that has not reached its server"),
            more,
            list("unsettled"),
            "List",
        );
    }
    let quarantined = look.sum(|group| group.quarantined);
    if quarantined > 0 {
        let more = "Rollouts leave them out until they are taken in again.";
        add(false, format!("{} set aside", some(quarantined, "tenant")), more, list("quarantined"), "List");
    }
    if all > 0 && !look.routers.iter().any(|router| router.is_alive) {
        add(
            true,
            "No router is connected".into(),
            "Nobody serves: start `manybox serve`.",
            "#routers".into(),
            "Look",
        );
    }
    if hour.errors_now() >= MANY_ERRORS {
        let what = format!("{:.1} % of requests fail", hour.errors_now() * 100.0);
        add(true, what, "Answered with 5xx in the last five minutes.", "#busiest".into(), "Look");
    }
    for group in &look.groups {
        if !look.servers.contains(&group.server) && !matches!(group.state, TenantState::Retired) {
            let what = format!("Server `{}` is not in the settings", group.server);
            add(
                true,
                what,
                "Tenants are on it: put [servers.NAME] back.",
                format!("/tenants?server={}", group.server),
                "List",
            );
            break;
        }
    }
    for (server, total, wanted, _) in budgets(look) {
        if wanted > total {
            let what = format!("Server `{server}` is short of connections");
            let more = format!("Requests could use {wanted} of its {total}.");
            add(false, what, &more, "#servers".into(), "Look");
        }
    }
    for edition in look.newest.keys() {
        let behind = look.behind(edition);
        if behind > 0 && !look.rollouts.iter().any(|rollout| rollout.state == RolloutState::Running) {
            let what =
                format!("{} of {edition} behind version {}", some(behind, "tenant"), look.newest[edition]);
            let (link, open) = if viewer.may(OperatorRole::Operator) {
                (format!("/new-rollout?edition={edition}"), "Plan a rollout")
            } else {
                (format!("/tenants?edition={edition}&order=version"), "List")
            };
            add(false, what, "They serve with the schema that they have.", link, open);
        }
    }
    matters.sort_by_key(|matter| !matter.is_bad);
    matters
}

fn attention(matters: &[Matter]) -> Markup {
    html! {
        section .panel {
            header { h2 { "Needs attention" } @if !matters.is_empty() { span .soft { (matters.len()) } } }
            @if matters.is_empty() {
                p .calm {
                    svg viewBox="0 0 20 20" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round" { path d="M4 10.5l4 4 8-9" {} }
                    "Nothing. The fleet is as it should be."
                }
            } @else {
                ul .attention {
                    @for matter in matters {
                        li {
                            @if matter.is_bad { span .pill.bad { "Wrong" } } @else { span .pill.warn { "Look" } }
                            span .what { (text(&matter.what)) span .more { (text(&matter.more)) } }
                            a .button.small href=(matter.link) { (matter.open) span .sr { ": " (text(&matter.what)) } }
                        }
                    }
                }
            }
        }
    }
}

/// Each server's budget, what routers could use, and what they may hold.
fn budgets(look: &Look) -> Vec<(&str, u32, u32, u32)> {
    let of = |server: &String| {
        let shares = || look.shares.iter().filter(move |share| share.server == *server);
        let total = shares().map(|share| share.total).max()?;
        let sum = |of: fn(&Share) -> u32| shares().map(of).sum::<u32>();
        Some((total, sum(|share| share.wanted), sum(|share| share.share)))
    };
    let servers = look.servers.iter();
    servers
        .filter_map(|server| of(server).map(|(total, wanted, held)| (server.as_str(), total, wanted, held)))
        .collect()
}

fn servers(look: &Look) -> Markup {
    let budgets = budgets(look);
    html! {
        section #servers .panel {
            header { h2 { "Servers" } span .soft { "what requests could use of the budget" } }
            div .scroll { table {
                thead { tr { th { "Server" } th .num { "Tenants" } th { "Connections" } th .num { "Wanted" } th .num.wide { "Held" } } }
                tbody {
                    @for server in &look.servers {
                        @let tenants = look.sum(|group| if group.server == *server { group.tenants } else { 0 });
                        @let budget = budgets.iter().find(|(name, ..)| name == server);
                        tr {
                            td { a href={ "/tenants?server=" (server) } { (text(server)) } }
                            td .num { (count(tenants)) }
                            @if let Some((_, total, wanted, held)) = budget {
                                @let class = if wanted > total { "s-warn" } else { "s-accent" };
                                @let used = (*wanted).min(*total);
                                td { (bar(&format!("{wanted} of {total} connections"), true, &[(class, f64::from(used)), ("", f64::from(total - used))])) }
                                td .num { (count(wanted)) span .soft { " / " (count(total)) } }
                                td .num.wide { (count(held)) }
                            } @else {
                                td .soft colspan="3" { "no router has a share" }
                            }
                        }
                    }
                }
            } }
        }
    }
}

fn busiest(look: &Look) -> Markup {
    let most = look.busiest.first().map_or(0.0, |busy| busy.rate);
    html! {
        section #busiest .panel {
            header { h2 { "Busiest now" } span .soft { "last 15 seconds" } }
            @if look.busiest.is_empty() {
                (empty("No requests", "Nobody has asked any tenant for anything of late."))
            } @else {
                div .scroll { table .rows {
                    thead { tr { th { "Tenant" } th { span .sr { "Share of the busiest" } } th .num { "Requests" } th .num { "5xx" } } }
                    tbody { @for busy in &look.busiest {
                        tr {
                            td .name { a .open href={ "/tenants/" (busy.slug) } { (busy.slug) } }
                            td { (bar("", true, &[("s-accent", busy.rate), ("", most - busy.rate)])) }
                            td .num { (rate(busy.rate)) span .soft { "/s" } }
                            td .num { @if busy.errors > 0.0 { span .bad-text { (rate(busy.errors)) "/s" } } @else { span .soft { "–" } } }
                        }
                    } }
                } }
            }
        }
    }
}

fn editions(viewer: &Viewer, look: &Look) -> Markup {
    let mut names: Vec<_> = look.groups.iter().filter_map(|group| group.edition.as_deref()).collect();
    names.extend(look.newest.keys().map(String::as_str));
    names.sort_unstable();
    names.dedup();
    html! {
        section .panel {
            header { h2 { "Editions" } @if viewer.may(OperatorRole::Operator) { a .small href="/new-rollout" { "Plan a rollout" } } }
            @if names.is_empty() { (empty("No edition is in use", "Declare one in the settings: [editions.NAME].")) }
            @else { div .scroll { table {
                thead { tr { th { "Edition" } th .num { "Version" } th { "Up to date" } th .num { "Behind" } } }
                tbody { @for name in names {
                    @let tenants = look.sum(|group| if group.edition.as_deref() == Some(name) { group.tenants } else { 0 });
                    @let behind = look.behind(name);
                    tr {
                        td { a href={ "/tenants?edition=" (name) "&order=version" } { (text(name)) } }
                        td .num { @if let Some(version) = look.newest.get(name) { (version) } @else { span .soft { "–" } } }
                        td { (bar(&format!("{} of {tenants} up to date", tenants - behind), true, &[("s-good", (tenants - behind) as f64), ("s-warn", behind as f64)])) }
                        td .num { @if behind > 0 { (count(behind)) } @else { span .soft { "0" } } }
                    }
                } }
            } } }
        }
    }
}

fn routers(look: &Look) -> Markup {
    html! {
        section #routers .panel {
            header { h2 { "Routers" } }
            @if look.routers.is_empty() { (empty("No router", "`manybox serve` is one.")) }
            @else { div .scroll tabindex="0" { table {
                thead { tr { th { "Router" } th { "State" } th .wide { "Version" } th .num { "Since" } } }
                tbody { @for router in &look.routers {
                    tr {
                        td { (text(&router.name)) span .under { (text(&router.address)) } }
                        td { @if router.is_alive { span .pill.good { "alive" } } @else { span .pill.bad { "lost" } } }
                        td .wide { (text(&router.version)) }
                        td .num { (ago(router.since, look.at)) }
                    }
                } }
            } } }
        }
    }
}
