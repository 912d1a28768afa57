//! Rollout: one, as it walks through the fleet: its waves as fields of cells, its gates, what failed, and the operator's word.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;
use time::OffsetDateTime;

use super::super::{Control, Problem, ProblemCode, Work};
use super::document::refuse;
use super::layout::{Place, act, ago, ask, count, lines, page, some, span, text};
use super::rollouts::{leads_to, state, then};
use super::viewer::{Order as Sent, Viewer};
use crate::catalog::{OperatorRole, RolloutRow, RolloutState, StepRow, StepState, WaveField};
use crate::fleet::Fleet;
use crate::rollout::{self, Plan, View, failure_of};

/// Most cells of a page: with more tenants, each stands for several.
const MOST_CELLS: usize = 2_000;
/// Most tenants whose cells say whose they are.
const MOST_NAMED: usize = 1_000;
/// Most failures that are told.
const MOST_FAILURES: usize = 50;

/// A rollout at a moment.
pub(super) struct Look {
    view: View,
    plan: Plan,
    field: Vec<WaveField>,
    /// Whether a process is at work on it.
    is_attended: bool,
    now: OffsetDateTime,
}

impl Look {
    pub(super) async fn take(control: &Control, row: RolloutRow) -> Result<Self, Problem> {
        let fleet = &control.fleet;
        let plan = Plan::read(&row)?;
        let field = fleet.catalog.step_field(row.id).await?;
        let now = row.now;
        // Its own executor may not have taken its seat yet.
        let work = Work::Rollout { rollout: row.id };
        let is_attended = fleet.is_attended(row.id).await? || control.jobs.is_at(&work).await?;
        Ok(Self { is_attended, view: View::look(&fleet.catalog, row).await?, plan, field, now })
    }

    /// Whether nothing moves any more, until somebody says a word.
    pub(super) fn is_still(&self) -> bool {
        self.view.rollout.state != RolloutState::Running
    }

    /// Whether the rollout is over, or stands otherwise than it did.
    pub(super) fn state(&self) -> RolloutState {
        self.view.rollout.state
    }

    /// How many tenants a cell stands for.
    fn each(&self) -> usize {
        let all: usize = self.field.iter().map(|wave| wave.letters.len()).sum();
        all.div_ceil(MOST_CELLS).max(1)
    }

    /// The cells of every wave, by the ids of their fields.
    pub(super) fn cells(&self) -> Vec<(String, String)> {
        let each = self.each();
        self.field.iter().map(|wave| (format!("w{}", wave.wave), joined(&wave.letters, each))).collect()
    }
}

/// Cells that stand for several tenants each: what is worst of them.
fn joined(letters: &str, each: usize) -> String {
    let worst = |group: &[u8]| {
        let found = b"fwrps".iter().find(|letter| group.contains(letter));
        char::from(*found.unwrap_or(&b'd'))
    };
    if each <= 1 { letters.to_owned() } else { letters.as_bytes().chunks(each).map(worst).collect() }
}

/// The rollout that a page is about.
pub(super) async fn find(fleet: &Fleet, id: &str) -> Result<RolloutRow, Problem> {
    let missing = || Problem::not_found(&format!("rollout `{}`", id.chars().take(30).collect::<String>()));
    let number = id.parse().map_err(|_| missing())?;
    fleet.catalog.rollout(number).await?.ok_or_else(missing)
}

/// `GET /rollouts/{id}`
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    viewer: Viewer,
    Path(id): Path<String>,
) -> Response {
    let looked = async {
        viewer.caller.needs_all(OperatorRole::Viewer)?;
        let look = Look::take(&control, find(&control.fleet, &id).await?).await?;
        let all: usize = look.field.iter().map(|wave| wave.letters.len()).sum();
        let named = if all <= MOST_NAMED {
            control.fleet.catalog.steps(look.view.rollout.id).await?
        } else {
            Vec::new()
        };
        Ok::<_, Problem>((look, named))
    };
    match looked.await {
        Ok((look, named)) => {
            let title = format!("Rollout {}", look.view.rollout.id);
            viewer.send(page(&viewer, Place::Rollouts, &title, body(&viewer, &look, &named)))
        }
        Err(problem) => refuse(problem),
    }
}

fn body(viewer: &Viewer, look: &Look, named: &[StepRow]) -> Markup {
    let row = &look.view.rollout;
    let stream = (!look.is_still()).then(|| format!("/rollouts/{}/events", row.id));
    html! {
        div .head {
            div {
                p .crumbs { a href="/rollouts" { "Rollouts" } }
                div .title { h1 { "Rollout " (row.id) } (state(row.state)) }
                p .sub { (text(&leads_to(&look.plan))) " · policy " (text(&look.plan.policy_name)) " · planned by " (text(&row.actor)) " " (ago(row.created_at, look.now)) }
            }
            div .acts { (acts(viewer, look)) }
        }
        div .stack data-stream=[stream] {
            @if row.state == RolloutState::Running && !look.is_attended {
                div .notice.warn { b { "Nobody at work" } p { "The process that carried it out has ended. It goes on where it was." } }
            }
            div #progress { (progress(look)) }
            section .panel aria-label="Waves" { @for (at, wave) in look.view.waves.iter().enumerate() {
                @let number = wave.counts.wave;
                section .wave {
                    div id={ "line" (number) } { (wave_line(look, at)) }
                    (cells(look, number, named))
                }
                @if let Some(planned) = look.plan.waves.get(at) {
                    @let words = then(&planned.policy);
                    div .gate {
                        span { (planned.policy.failures) " may fail" }
                        @if !words.is_empty() { span { "· then " (words) } }
                        @if row.approved == Some(number) { span .pill.info { "gate passed by hand" } }
                    }
                }
            } }
            div #failures { (failures(viewer, look)) }
            (files(&look.plan))
        }
    }
}

/// Its parts that go with the time, by their ids.
pub(super) fn parts(viewer: &Viewer, look: &Look) -> Vec<(String, String)> {
    let mut parts = vec![
        ("progress".to_owned(), progress(look).into_string()),
        ("failures".to_owned(), failures(viewer, look).into_string()),
    ];
    for (at, wave) in look.view.waves.iter().enumerate() {
        parts.push((format!("line{}", wave.counts.wave), wave_line(look, at).into_string()));
    }
    parts
}

fn progress(look: &Look) -> Markup {
    let row = &look.view.rollout;
    let (closed, all) = look.view.progress();
    let failed: usize = look.view.waves.iter().map(|wave| wave.counts.failures()).sum();
    let running: usize = look.view.waves.iter().map(|wave| wave.counts.running).sum();
    let skipped: usize = look.view.waves.iter().map(|wave| wave.counts.skipped).sum();
    let left = look.view.left.filter(|_| row.state == RolloutState::Running);
    html! {
        div .panel { div .body .stack {
            div .line {
                p .done-of { (count(closed)) small { " of " (count(all)) " tenants" } }
            }
            (super::chart::bar(&format!("{closed} of {all} tenants"), false, &[
                ("s-good", (closed - failed - skipped) as f64), ("s-bad", failed as f64), ("s-idle", skipped as f64), ("s-info", running as f64), ("", (all - closed - running) as f64),
            ]))
            div .legend {
                span .item { i .s-good {} b { (count(closed - failed - skipped)) } " done" }
                span .item { i .s-info {} b { (count(running)) } " running" }
                span .item { i .s-bad {} b { (count(failed)) } " failed" }
                @if skipped > 0 { span .item { i .s-idle {} b { (count(skipped)) } " left out" } }
                @if let Some(left) = left { span .soft { "about " (span(i64::try_from(left.as_secs()).unwrap_or(i64::MAX).max(1))) " left" } }
                @if let Some(ended) = row.ended_at { span .soft { "ended " (ago(ended, look.now)) } }
            }
            @if let Some(reason) = &row.reason {
                div class={ "notice " (if row.state == RolloutState::Halted { "bad" } else { "warn" }) } {
                    b { (match row.state { RolloutState::Running => "Waits", RolloutState::Halted => "Halted", RolloutState::Paused => "Paused", _ => "Why" }) }
                    p { (lines(reason)) }
                }
            }
        } }
    }
}

fn wave_line(look: &Look, at: usize) -> Markup {
    let Some(wave) = look.view.waves.get(at) else { return html! {} };
    let (row, counts) = (&look.view.rollout, &wave.counts);
    let is_open = row.wave == counts.wave
        && !matches!(row.state, RolloutState::Planned | RolloutState::Done | RolloutState::Aborted);
    let (class, word) = match () {
        () if counts.failures() > 0 && counts.open() == 0 => ("bad", "ended with failures"),
        () if counts.open() == 0 => ("good", "done"),
        () if is_open => ("info live", "open"),
        () => ("", "waits"),
    };
    html! {
        div .line {
            span { span .name { (text(&wave.name)) } " " span class={ "pill " (class) } { (word) } }
            span .soft.small { (count(counts.closed())) " of " (some(counts.all() as u64, "tenant"))
                @if counts.failures() > 0 { ", " span .bad-text { (count(counts.failures())) " failed" } } }
        }
    }
}

fn cells(look: &Look, number: i32, named: &[StepRow]) -> Markup {
    let each = look.each();
    let letters = look
        .field
        .iter()
        .find(|field| field.wave == number)
        .map(|field| joined(&field.letters, each))
        .unwrap_or_default();
    let slugs: Vec<_> =
        named.iter().filter(|step| step.wave == number).map(|step| step.slug.as_str()).collect();
    let class = |letter: char| (!matches!(letter, 'p')).then(|| letter.to_string());
    html! {
        div #{ "w" (number) } .cells.many[letters.len() > 400] role="img" aria-label={ "What became of each tenant of the wave; " (if each > 1 { format!("a cell stands for {each}") } else { "a cell stands for one".into() }) } {
            @for (at, letter) in letters.chars().enumerate() {
                @match slugs.get(at) {
                    Some(slug) => { i class=[class(letter)] title=(slug) {} }
                    None => { i class=[class(letter)] {} }
                }
            }
        }
    }
}

fn failures(viewer: &Viewer, look: &Look) -> Markup {
    let row = &look.view.rollout;
    let failed: Vec<_> = look.view.steps.iter().filter(|step| step.state.is_failure()).collect();
    let may_act = viewer.may(OperatorRole::Operator) && !row.state.is_over();
    let path = |word: &str| format!("/rollouts/{}/{word}", row.id);
    html! {
        @if !failed.is_empty() {
            section .panel {
                header { h2 { "What failed" } span .soft { "the others are not touched by it" } }
                @for step in failed.iter().take(MOST_FAILURES) {
                    article .failure {
                        div .line {
                            a href={ "/tenants/" (step.slug) } { b { (step.slug) } }
                            @if step.state == StepState::Drifted { span .pill.warn { "drifted" } } @else { span .pill.bad { "failed" } }
                            @if let Some(place) = place(step) { code { (text(&place)) } }
                            span .soft.small { "version " (step.before) ", " (some(u64::try_from(step.attempts).unwrap_or(0), "try")) }
                            @if may_act {
                                (word_of(viewer, &path("retry"), &step.slug, "Retry"))
                                (word_of(viewer, &path("skip"), &step.slug, "Leave out"))
                            }
                        }
                        p { (lines(&failure_of(step))) }
                        @if let Some(statement) = statement(step).filter(|statement| !failure_of(step).contains(statement)) { pre tabindex="0" { (lines(&statement)) } }
                    }
                }
                @if failed.len() > MOST_FAILURES { p .calm { (count(failed.len() - MOST_FAILURES)) " more: `manybox migrate report " (row.id) "` has them all." } }
            }
        }
    }
}

/// A word about one tenant of a rollout.
fn word_of(viewer: &Viewer, action: &str, slug: &str, word: &str) -> Markup {
    html! {
        form method="post" action=(action) {
            (viewer.token()) input type="hidden" name="tenant" value=(slug);
            button .small { (word) span .sr { " " (slug) } }
        }
    }
}

/// The file and line of what failed.
fn place(step: &StepRow) -> Option<String> {
    let place = step.failure.as_ref()?.get("place")?;
    let file = place.get("file")?.as_str()?;
    Some(match place.get("line").and_then(Value::as_u64) {
        Some(line) => format!("{file}:{line}"),
        None => file.to_owned(),
    })
}

fn statement(step: &StepRow) -> Option<String> {
    Some(step.failure.as_ref()?.get("place")?.get("text")?.as_str()?.to_owned())
}

fn files(plan: &Plan) -> Markup {
    html! {
        section .panel {
            header { h2 { "Files" } span .soft { "that some tenant lacks" } }
            div .body { dl .facts { @for (edition, target) in &plan.targets {
                dt { (text(edition)) " to " (target.version) }
                dd { @for file in &target.files { code { (text(file)) } br; } @if target.files.is_empty() { span .soft { "none" } } }
            } @for (server, edition) in &plan.templates { dt { "Template" } dd { "of " (text(edition)) " on " (text(server)) } } } }
        }
    }
}

fn acts(viewer: &Viewer, look: &Look) -> Markup {
    if !viewer.may(OperatorRole::Operator) {
        return html! {};
    }
    let row = &look.view.rollout;
    let path = |word: &str| format!("/rollouts/{}/{word}", row.id);
    let failed = look.view.waves.iter().any(|wave| wave.counts.failures() > 0);
    let reason = |id: &str| {
        html! { div .field { label for=(id) { "Reason" } input id=(id) name="reason" type="text" maxlength="300" autocomplete="off" placeholder="for those who see it"; } }
    };
    html! {
        @match row.state {
            RolloutState::Planned => { button .primary type="button" popovertarget="ask-run" { "Begin" } }
            RolloutState::Running => {
                @if !look.is_attended { (act(viewer, &path("resume"), html! { button .primary { "Go on" } })) }
                button type="button" popovertarget="ask-pause" { "Pause" }
            }
            RolloutState::Paused => { (act(viewer, &path("resume"), html! { button .primary { "Go on" } })) }
            RolloutState::Halted => {
                @if failed { (act(viewer, &path("retry"), html! { button .primary { "Retry what failed" } })) }
                button type="button" popovertarget="ask-approve" { "Go on all the same" }
            }
            RolloutState::Aborted | RolloutState::Done => {}
        }
        @if !row.state.is_over() { button .danger type="button" popovertarget="ask-abort" { "Give up" } }
        (ask("ask-run", html! { "Begin rollout " (row.id) "?" }, viewer, &path("run"),
            html! { p .soft { "It begins with the first wave, and stops by itself where more fail than may." } }, html! { button .primary { "Begin" } }))
        (ask("ask-pause", html! { "Pause rollout " (row.id) "?" }, viewer, &path("pause"),
            html! { p .soft { "No further tenant is begun; those that are being worked on are finished." } (reason("reason-pause")) }, html! { button .primary { "Pause" } }))
        (ask("ask-approve", html! { "Go on with rollout " (row.id) "?" }, viewer, &path("approve"),
            html! { p .soft { "The gate that halted it is passed by hand. What failed beyond what may must be retried or left out first." } (reason("reason-approve")) }, html! { button .primary { "Go on" } }))
        (ask("ask-abort", html! { "Give rollout " (row.id) " up?" }, viewer, &path("abort"),
            html! { p .soft { "What was done stays. The tenants that are left keep the version that they have." } (reason("reason-abort")) }, html! { button .primary.danger { "Give up" } }))
    }
}

/// `POST /rollouts/{id}/{word}`
pub(super) async fn order(
    State(control): State<Arc<Control>>,
    Path((id, word)): Path<(String, String)>,
    Sent { viewer, fields }: Sent,
) -> Response {
    let outcome = carry_out(&control, &viewer, &id, &word, fields.get("tenant"), fields.get("reason")).await;
    match outcome {
        Err(problem) if matches!(problem.code, ProblemCode::NotFound | ProblemCode::Forbidden) => {
            refuse(problem)
        }
        outcome => viewer.tell(&format!("/rollouts/{id}"), outcome),
    }
}

async fn carry_out(
    control: &Control,
    viewer: &Viewer,
    id: &str,
    word: &str,
    tenant: Option<&str>,
    reason: Option<&str>,
) -> Result<String, Problem> {
    viewer.caller.needs_all(OperatorRole::Operator)?;
    let (fleet, catalog) = (&viewer.fleet, &viewer.fleet.catalog);
    let row = find(fleet, id).await?;
    let open = [RolloutState::Running, RolloutState::Paused, RolloutState::Halted];
    let slugs: Vec<_> = tenant.into_iter().map(str::to_owned).collect();
    let is_not = |row: &RolloutRow| {
        Problem::new(
            ProblemCode::WrongState,
            format!("rollout {} is {}: that is not possible now", row.id, row.state.as_str()),
        )
    };
    let to = match word {
        "run" => {
            rollout::begin(fleet, &row).await?;
            None
        }
        "pause" => Some((vec![RolloutState::Running], RolloutState::Paused)),
        "abort" => Some((
            vec![RolloutState::Planned, RolloutState::Running, RolloutState::Paused, RolloutState::Halted],
            RolloutState::Aborted,
        )),
        "resume" | "approve" | "retry" => {
            rollout::refuse_unrehearsed(fleet, &row).await?;
            if !open.contains(&row.state) {
                return Err(is_not(&row));
            }
            match word {
                "approve" => catalog.rollout_approve(row.id).await?,
                "retry" => {
                    catalog.steps_retry(row.id, &slugs).await?;
                    catalog.wave_reopened(row.id).await?;
                }
                _ => {}
            }
            Some((open.to_vec(), RolloutState::Running))
        }
        "skip" => {
            let skipped = catalog.steps_skip(row.id, &slugs, reason).await?;
            if skipped.is_empty() {
                return Err(Problem::new(
                    ProblemCode::WrongState,
                    "it can't be left out: it is done, or being worked on",
                ));
            }
            return Ok(format!("Left out: {}.", skipped.join(", ")));
        }
        _ => return Err(Problem::not_found("such act")),
    };
    if let Some((from, to)) = to
        && !catalog.rollout_move(row.id, &from, to, reason).await?
    {
        return Err(is_not(&row));
    }
    let work = Work::Rollout { rollout: row.id };
    if matches!(word, "run" | "resume" | "approve" | "retry") && !control.jobs.is_at(&work).await? {
        control.jobs.begin(viewer.act.clone(), None, &work).await?;
    }
    Ok(match word {
        "run" => format!("Rollout {} has begun.", row.id),
        "pause" => format!("Rollout {} is paused: no further tenant is begun.", row.id),
        "abort" => format!("Rollout {} is given up; what was done stays.", row.id),
        _ => format!("Rollout {} goes on.", row.id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_of_several_is_as_bad_as_the_worst() {
        assert_eq!(joined("ddfdddrrpd", 1), "ddfdddrrpd");
        assert_eq!(joined("ddfdddrrpd", 3), "fdrd");
        assert_eq!(joined("", 3), "");
    }
}
