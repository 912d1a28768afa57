//! Verify: whether tenants are kept apart: the last report, and a new one.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;
use time::OffsetDateTime;

use super::super::{Control, Problem, ProblemCode, Work};
use super::document::refuse;
use super::layout::{Place, ago, count, empty, head, lines, moment, page, some, text};
use super::viewer::{Order as Sent, Viewer};
use crate::catalog::{JobRow, OperatorRole};
use crate::verify::CHECKS;

/// What jobs that verify are called.
pub(super) const KIND: &str = "verify";
/// Verifications that are listed.
const MOST: i64 = 10;
/// Tenants looked into when not all are.
const SAMPLE: usize = 20;
/// Most findings that are told; the report of `manybox verify` has more.
const MOST_FINDINGS: usize = 100;

/// `GET /verify`
pub(super) async fn show(State(control): State<Arc<Control>>, viewer: Viewer) -> Response {
    let rows = match viewer.caller.needs_all(OperatorRole::Viewer) {
        Ok(()) => control.fleet.catalog.jobs_of_kind(KIND, MOST).await.map_err(Problem::from),
        Err(problem) => Err(problem),
    };
    match rows {
        Ok(rows) => viewer.send(page(&viewer, Place::Verify, "Verify", body(&viewer, &rows))),
        Err(problem) => refuse(problem),
    }
}

fn body(viewer: &Viewer, rows: &[JobRow]) -> Markup {
    let now = OffsetDateTime::now_utc();
    let running = rows.iter().find(|row| !row.state.is_over());
    let run = html! {
        @if viewer.may(OperatorRole::Operator) && running.is_none() {
            form .acts method="post" action="/verify" {
                (viewer.token())
                select name="scope" aria-label="Which tenants are looked into" { option value="sample" { (SAMPLE) " tenants" } option value="all" { "All tenants" } }
                button .primary { "Verify" }
            }
        }
    };
    let last = rows.iter().find_map(|row| Some((row, row.result.as_ref()?)));
    let stream = running.map(|_| "/verify/events");
    html! {
        (head(html! { "Verify" }, html! { "Asks the live fleet whether tenants are kept apart as they must be. It changes nothing." }, run))
        div .stack data-stream=[stream] {
            div #running { @if let Some(row) = running { (going_on(row, now)) } }
            @match last {
                Some((row, report)) => (found(row, report, now)),
                None => { section .panel { (empty("There is no report yet", "A verification looks at servers, roles, rights and some tenants' databases.")) } }
            }
            (earlier(rows, now))
        }
    }
}

/// How far the newest is; `None` when it is over.
pub(super) fn still_going_on(rows: &[JobRow]) -> Option<String> {
    let now = OffsetDateTime::now_utc();
    let row = rows.first().filter(|row| !row.state.is_over())?;
    Some(going_on(row, now).into_string())
}

fn going_on(row: &JobRow, now: OffsetDateTime) -> Markup {
    html! {
        div .notice.warn role="status" { b { "Verifying" } p { @if let Some(progress) = &row.progress { (text(progress)) ", begun " } @else { "Begun " } (ago(row.created_at, now)) " by " (text(&row.act.operator)) "." } }
    }
}

fn found(row: &JobRow, report: &Value, now: OffsetDateTime) -> Markup {
    let list = |name: &str| report.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (findings, left_out) = (list("findings"), list("left_out"));
    let tried = report.get("tried").and_then(Value::as_object);
    let tried = |code: &str| tried.and_then(|tried| tried.get(code)).and_then(Value::as_u64);
    let said = |finding: &Value, name: &str| {
        finding.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or(0);
    html! {
        @if findings.is_empty() {
            div .notice.good { b { "All green" } p { "Everything that was tried is as it must be." @if !left_out.is_empty() { " Something was not looked at; see below." } } }
        } @else {
            div .notice.bad { b { (some(findings.len() as u64, "finding")) } p { "Something is not as it must be: each says what mends it." } }
        }
        @if !findings.is_empty() {
            section .panel {
                header { h2 { "Findings" } }
                @for finding in findings.iter().take(MOST_FINDINGS) {
                    @let tenant = said(finding, "tenant");
                    article .failure {
                        div .line {
                            span .pill.bad { (text(&said(finding, "code"))) }
                            @if tenant.is_empty() { b { (text(&said(finding, "server"))) } } @else { a href={ "/tenants/" (text(&tenant)) } { b { (text(&tenant)) } } span .soft { "on " (text(&said(finding, "server"))) } }
                        }
                        p { (lines(&said(finding, "seen"))) }
                        pre tabindex="0" { (lines(&said(finding, "remedy"))) }
                    }
                }
            }
        }
        div .grid {
            section .panel.w8 {
                header { h2 { "What was tried" } span .soft { (moment(row.created_at)) } }
                div .scroll tabindex="0" { table {
                    thead { tr { th { "Check" } th { "What must hold" } th .num { "Tried" } th { "Found" } } }
                    tbody { @for check in CHECKS {
                        @let of = findings.iter().filter(|finding| said(finding, "code") == check.code).count();
                        tr {
                            td .mono { (check.code) }
                            td { (check.title) }
                            td .num { (tried(check.code).map(count).unwrap_or_else(|| "–".into())) }
                            td { @if of > 0 { span .pill.bad { (of) } } @else if tried(check.code).is_some() { span .pill.good { "none" } } @else { span .pill { "not tried" } } }
                        }
                    } }
                } }
            }
            section .panel.w4 {
                header { h2 { "This report" } }
                div .body { dl .facts {
                    dt { "Ended" } dd { (ago(row.ended_at.unwrap_or(row.created_at), now)) }
                    dt { "By" } dd { (text(&row.act.operator)) }
                    dt { "Took" } dd { (format!("{:.1} s", report.get("seconds").and_then(Value::as_f64).unwrap_or(0.0))) }
                    dt { "Tenants" } dd { (list("looked_into").len()) " of " (count(number("tenants"))) }
                    @if let Some(servers) = report.get("servers").and_then(Value::as_object) { @for (name, version) in servers {
                        dt { "Server " (text(name)) } dd { (text(version.as_str().unwrap_or_default())) }
                    } }
                    @for what in left_out { dt { "Not looked at" } dd { (text(what.as_str().unwrap_or_default())) } }
                } }
            }
        }
    }
}

fn earlier(rows: &[JobRow], now: OffsetDateTime) -> Markup {
    html! {
        @if !rows.is_empty() { section .panel {
            header { h2 { "Earlier" } }
            div .scroll tabindex="0" { table {
                thead { tr { th { "Begun" } th { "By" } th { "Came of it" } } }
                tbody { @for row in rows {
                    @let findings = row.result.as_ref().and_then(|report| report.get("findings")?.as_array()).map(Vec::len);
                    @let failure = row.problem.as_ref().map(|problem| Problem::read(problem).detail);
                    tr {
                        td { (ago(row.created_at, now)) }
                        td { (text(&row.act.operator)) }
                        td { @match (findings, &failure) {
                            (Some(0), _) => { span .pill.good { "all green" } }
                            (Some(n), _) => { span .pill.bad { (some(n as u64, "finding")) } }
                            (None, Some(failure)) => { span .pill.bad { "failed" } span .under { (text(failure)) } }
                            (None, None) => { span .pill.info.live { "running" } }
                        } }
                    }
                } }
            } }
        } }
    }
}

/// `POST /verify`
pub(super) async fn run(State(control): State<Arc<Control>>, Sent { viewer, fields }: Sent) -> Response {
    match begin(&control, &viewer, fields.get("scope") == Some("all")).await {
        Err(problem) if problem.code == ProblemCode::Forbidden => refuse(problem),
        outcome => viewer.tell("/verify", outcome),
    }
}

async fn begin(control: &Control, viewer: &Viewer, all: bool) -> Result<String, Problem> {
    viewer.caller.needs_all(OperatorRole::Operator)?;
    let known = viewer.fleet.catalog.jobs_of_kind(KIND, MOST).await?;
    if known.iter().any(|row| !row.state.is_over()) {
        return Err(Problem::new(ProblemCode::Busy, "a verification is running already"));
    }
    let router = Some(control.fleet.settings.listen.http.to_string());
    let work = Work::Verify { tenant: None, sample: SAMPLE, all, router };
    control.jobs.begin(viewer.act.clone(), None, &work).await?;
    Ok("The verification has begun.".into())
}
