//! Rollouts: those that there were, and a new one, planned before it is begun.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use time::OffsetDateTime;

use super::super::{Control, Problem, ProblemCode};
use super::document::refuse;
use super::layout::{Place, ago, count, empty, head, option, page, some, text};
use super::viewer::{Fields, Order as Sent, Viewer};
use crate::catalog::{OperatorRole, RolloutRow, RolloutState};
use crate::rollout::{self, Plan, RolloutAsk};
use crate::settings::{DEFAULT_POLICY, RolloutPolicy, Settings};

/// Rollouts that are listed.
const MOST: i64 = 50;

/// `GET /rollouts`
pub(super) async fn list(State(control): State<Arc<Control>>, viewer: Viewer) -> Response {
    let rows = match viewer.caller.needs_all(OperatorRole::Viewer) {
        Ok(()) => control.fleet.catalog.rollouts(MOST).await.map_err(Problem::from),
        Err(problem) => Err(problem),
    };
    match rows {
        Ok(rows) => viewer.send(page(&viewer, Place::Rollouts, "Rollouts", body(&viewer, &rows))),
        Err(problem) => refuse(problem),
    }
}

fn body(viewer: &Viewer, rows: &[RolloutRow]) -> Markup {
    let now = OffsetDateTime::now_utc();
    let plan = html! {
        @if viewer.may(OperatorRole::Operator) { a .button.primary href="/new-rollout" { "Plan a rollout" } }
    };
    html! {
        (head(html! { "Rollouts" }, html! { "Tenants brought to their edition's newest version, wave by wave." }, plan))
        section .panel aria-label="Rollouts" {
            @if rows.is_empty() { (empty("There was no rollout yet", "Plan one when an edition has new files.")) }
            @else { div .scroll { table .rows {
                thead { tr { th { "Rollout" } th { "State" } th { "Leads to" } th .num { "Tenants" } th .wide { "Policy" } th .wide { "Planned by" } th .num { "When" } } }
                tbody { @for row in rows {
                    @let plan = Plan::read(row).ok();
                    tr {
                        td { a .open href={ "/rollouts/" (row.id) } { "Rollout " (row.id) } }
                        td { (state(row.state)) @if let Some(reason) = &row.reason { span .under { (text(reason)) } } }
                        td { (text(&plan.as_ref().map(leads_to).unwrap_or_default())) }
                        td .num { (count(plan.as_ref().map_or(0, |plan| plan.waves.iter().map(|wave| wave.tenants).sum::<usize>()))) }
                        td .wide { (text(plan.as_ref().map_or("", |plan| plan.policy_name.as_str()))) }
                        td .wide { (text(&row.actor)) }
                        td .num { (ago(row.created_at, now)) }
                    }
                } }
            } } }
        }
    }
}

/// A rollout's state.
pub(super) fn state(state: RolloutState) -> Markup {
    let class = match state {
        RolloutState::Planned => "",
        RolloutState::Running => "info live",
        RolloutState::Paused => "warn",
        RolloutState::Halted => "bad",
        RolloutState::Aborted => "",
        RolloutState::Done => "good",
    };
    let word = if state == RolloutState::Aborted { "given up" } else { state.as_str() };
    html! { span class={ "pill " (class) } { (word) } }
}

/// Where a plan leads, in words.
pub(super) fn leads_to(plan: &Plan) -> String {
    let of = |(edition, target): (&String, &rollout::Target)| format!("{edition} to {}", target.version);
    plan.targets.iter().map(of).collect::<Vec<_>>().join(", ")
}

/// `GET /new-rollout`
pub(super) async fn new(
    State(control): State<Arc<Control>>,
    viewer: Viewer,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    if let Err(problem) = viewer.caller.needs_all(OperatorRole::Operator) {
        return refuse(problem);
    }
    let form = form(&viewer, &control.fleet.settings, &Fields::of(pairs), None);
    viewer.send(page(&viewer, Place::Rollouts, "Plan a rollout", form))
}

fn form(viewer: &Viewer, settings: &Settings, given: &Fields, wrong: Option<&str>) -> Markup {
    html! {
        (head(html! { "Plan a rollout" }, html! { "Nothing is changed yet: the plan is shown with its waves, and then begun." }, html! {}))
        div .grid {
            section .panel.w5 { div .body {
                form .form method="post" action="/rollouts" {
                    (viewer.token())
                    @if let Some(wrong) = wrong { div .notice.bad role="alert" { b { "No plan" } p { (text(wrong)) } } }
                    div .field {
                        label for="edition" { "Edition" }
                        select id="edition" name="edition" {
                            option value="" { "All editions" }
                            @for edition in settings.editions.keys() { (option(edition, edition, given.get("edition"))) }
                        }
                    }
                    div .field {
                        label for="policy" { "Policy" }
                        select id="policy" name="policy" { @for policy in settings.rollouts.keys() { (option(policy, policy, given.get("policy").or(Some(DEFAULT_POLICY)))) } }
                    }
                    div .pair {
                        div .field {
                            label for="tenant" { "Only this tenant" }
                            input id="tenant" name="tenant" type="text" value=(given.text("tenant")) autocomplete="off" spellcheck="false" placeholder="all of them";
                        }
                        div .field {
                            label for="target" { "Only up to version" }
                            input id="target" name="target" type="text" inputmode="numeric" pattern="[0-9]*" value=(given.text("target")) autocomplete="off" placeholder="the newest";
                        }
                    }
                    div .acts { button .primary { "Plan" } a .button href="/rollouts" { "Cancel" } }
                }
            } }
            section .panel.w7 {
                header { h2 { "Policies" } span .soft { "[rollouts.NAME] of the settings" } }
                (policies(&settings.rollouts))
            }
        }
    }
}

fn policies(policies: &BTreeMap<String, RolloutPolicy>) -> Markup {
    html! {
        div .scroll tabindex="0" { table {
            thead { tr { th { "Policy" } th { "Wave" } th .num { "May fail" } th { "Then" } } }
            tbody { @for (name, policy) in policies { @for (at, wave) in policy.waves.iter().enumerate() {
                tr {
                    td { @if at == 0 { b { (text(name)) } } }
                    td {
                        (text(&wave.name.clone().unwrap_or_else(|| format!("wave {}", at + 1))))
                        @if let Some(percent) = wave.percent { span .soft { ", " (percent) " %" } }
                    }
                    td .num { (wave.failures) }
                    td .soft { (then(wave)) }
                }
            } } }
        } }
    }
}

/// What follows a wave, in words.
pub(super) fn then(wave: &crate::settings::Wave) -> String {
    let mut words = Vec::new();
    if !wave.bake.is_zero() {
        words.push(format!("bake {}", humantime::format_duration(wave.bake)));
    }
    if let Some(gate) = &wave.gate {
        let mut asks = Vec::new();
        asks.extend(gate.error_rate.map(|rate| format!("5xx up by {:.1} % at most", rate * 100.0)));
        asks.extend(gate.p99.map(|times| format!("p99 at most ×{times}")));
        asks.extend(gate.sql.as_ref().map(|_| "a query holds".to_owned()));
        words.push(format!("gate: {}", asks.join(", ")));
    }
    words.join("; ")
}

/// `POST /rollouts`
pub(super) async fn plan(State(control): State<Arc<Control>>, Sent { viewer, fields }: Sent) -> Response {
    match plan_by(&control, &viewer, &fields).await {
        Ok((id, said)) => viewer.lead(&format!("/rollouts/{id}"), true, said),
        Err(problem) => {
            let form = form(&viewer, &control.fleet.settings, &fields, Some(&problem.detail));
            let mut response =
                viewer.send_as(problem.code.row().1, page(&viewer, Place::Rollouts, "Plan a rollout", form));
            response.extensions_mut().insert(problem);
            response
        }
    }
}

async fn plan_by(control: &Control, viewer: &Viewer, fields: &Fields) -> Result<(i64, String), Problem> {
    viewer.caller.needs_all(OperatorRole::Operator)?;
    let target = match fields.get("target").map(str::parse) {
        Some(Err(_)) => {
            return Err(Problem::new(ProblemCode::Invalid, "the version is a number, as in V12__name.sql"));
        }
        Some(Ok(target)) => Some(target),
        None => None,
    };
    let ask = RolloutAsk {
        edition: fields.get("edition").map(str::to_owned),
        tenant: fields.get("tenant").map(str::to_owned),
        target,
        policy: fields.get("policy").unwrap_or(DEFAULT_POLICY).to_owned(),
        allow_out_of_order: false,
    };
    let fleet = &viewer.fleet;
    let rollout::Found { draft, problems, notes } = control.jobs.plan(fleet, &ask).await?;
    if draft.is_empty() {
        let mut detail = "nothing to do: every tenant is at its edition's newest version".to_owned();
        problems.iter().chain(&notes).for_each(|more| detail.push_str(&format!("\n{more}")));
        return Err(Problem::new(ProblemCode::Invalid, detail));
    }
    let estimate = rollout::estimate(fleet, &draft).await?;
    let row = rollout::store(fleet, &draft).await?;
    let mut said = format!(
        "{} in {}, planned and not begun.",
        some(draft.steps.len() as u64, "tenant"),
        some(draft.plan.waves.len() as u64, "wave")
    );
    if let Some(estimate) = estimate {
        said.push_str(&format!(
            " It may take {}, by what such steps took before.",
            humantime::format_duration(estimate)
        ));
    }
    problems.iter().chain(&notes).for_each(|more| said.push_str(&format!("\n{more}")));
    Ok((row.id, said))
}
