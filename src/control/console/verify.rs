//! Verify: whether tenants are kept apart: the last report, and a new one.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;
use time::OffsetDateTime;

use super::super::{Control, Problem, ProblemCode};
use super::document::refuse;
use super::layout::{Place, ago, count, empty, head, lines, moment, page, some, text};
use super::viewer::{Order as Sent, Viewer};
use crate::catalog::{CatalogError, OperatorRole, VerificationRow};
use crate::fleet::Fleet;
use crate::verify::{self, CHECKS, Request, Scope};

/// Verifications that are listed.
const MOST: i64 = 10;
/// How often one says how far it is, and after how long without a word it was cut off.
const WORD: Duration = Duration::from_secs(1);
const CUT_OFF: Duration = Duration::from_secs(30);
/// Tenants looked into when not all are.
const SAMPLE: usize = 20;
/// Most findings that are told; the report of `manybox verify` has more.
const MOST_FINDINGS: usize = 100;

/// `GET /verify`
pub(super) async fn show(State(control): State<Arc<Control>>, viewer: Viewer) -> Response {
    let rows = match viewer.caller.needs_all(OperatorRole::Viewer) {
        Ok(()) => control.fleet.catalog.verifications(MOST).await.map_err(Problem::from),
        Err(problem) => Err(problem),
    };
    match rows {
        Ok(rows) => viewer.send(page(&viewer, Place::Verify, "Verify", body(&viewer, &rows))),
        Err(problem) => refuse(problem),
    }
}

fn is_running(row: &VerificationRow, now: OffsetDateTime) -> bool {
    row.ended_at.is_none() && now - row.seen_at < CUT_OFF
}

fn body(viewer: &Viewer, rows: &[VerificationRow]) -> Markup {
    let now = OffsetDateTime::now_utc();
    let running = rows.iter().find(|row| is_running(row, now));
    let run = html! {
        @if viewer.may(OperatorRole::Operator) && running.is_none() {
            form .acts method="post" action="/verify" {
                (viewer.token())
                select name="scope" aria-label="Which tenants are looked into" { option value="sample" { (SAMPLE) " tenants" } option value="all" { "All tenants" } }
                button .primary { "Verify" }
            }
        }
    };
    let last = rows.iter().find_map(|row| Some((row, row.report.as_ref()?)));
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
pub(super) fn still_going_on(rows: &[VerificationRow]) -> Option<String> {
    let now = OffsetDateTime::now_utc();
    let row = rows.first().filter(|row| is_running(row, now))?;
    Some(going_on(row, now).into_string())
}

fn going_on(row: &VerificationRow, now: OffsetDateTime) -> Markup {
    html! {
        div .notice.warn role="status" { b { "Verifying" } p { (some(u64::try_from(row.looked_into).unwrap_or(0), "tenant")) " looked into, begun " (ago(row.begun_at, now)) " by " (text(&row.actor)) "." } }
    }
}

fn found(row: &VerificationRow, report: &Value, now: OffsetDateTime) -> Markup {
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
                header { h2 { "What was tried" } span .soft { (moment(row.begun_at)) } }
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
                    dt { "Ended" } dd { (ago(row.ended_at.unwrap_or(row.seen_at), now)) }
                    dt { "By" } dd { (text(&row.actor)) }
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

fn earlier(rows: &[VerificationRow], now: OffsetDateTime) -> Markup {
    html! {
        @if !rows.is_empty() { section .panel {
            header { h2 { "Earlier" } }
            div .scroll tabindex="0" { table {
                thead { tr { th { "Begun" } th { "By" } th { "Came of it" } } }
                tbody { @for row in rows {
                    @let findings = row.report.as_ref().and_then(|report| report.get("findings")?.as_array()).map(Vec::len);
                    tr {
                        td { (ago(row.begun_at, now)) }
                        td { (text(&row.actor)) }
                        td { @match (findings, &row.failure) {
                            (Some(0), _) => { span .pill.good { "all green" } }
                            (Some(n), _) => { span .pill.bad { (some(n as u64, "finding")) } }
                            (None, Some(failure)) => { span .pill.bad { "failed" } span .under { (text(failure)) } }
                            (None, None) if is_running(row, now) => { span .pill.info.live { "running" } }
                            (None, None) => { span .pill.warn { "cut off" } }
                        } }
                    }
                } }
            } }
        } }
    }
}

/// `POST /verify`
pub(super) async fn run(State(control): State<Arc<Control>>, Sent { viewer, fields }: Sent) -> Response {
    let scope = if fields.get("scope") == Some("all") { Scope::All } else { Scope::Sample(SAMPLE) };
    match begin(&control, &viewer, scope).await {
        Err(problem) if problem.code == ProblemCode::Forbidden => refuse(problem),
        outcome => viewer.tell("/verify", outcome),
    }
}

async fn begin(control: &Control, viewer: &Viewer, scope: Scope) -> Result<String, Problem> {
    viewer.caller.needs_all(OperatorRole::Operator)?;
    let catalog = &viewer.fleet.catalog;
    let now = OffsetDateTime::now_utc();
    if catalog.verifications(MOST).await?.iter().any(|row| is_running(row, now)) {
        return Err(Problem::new(ProblemCode::Busy, "a verification is running already"));
    }
    let id = catalog.verification_begin(&viewer.name).await?;
    let router = Some(control.fleet.settings.listen.http.to_string());
    let fleet = Arc::clone(&viewer.fleet);
    // On a thread of its own: the verifier's future borrows too much to be sent about.
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let stored = runtime.block_on(carry_out(&fleet, id, &Request { scope, router }));
        if let Err(error) = stored {
            tracing::error!(verification = id, %error, "the report could not be stored");
        }
    });
    Ok("The verification has begun.".into())
}

/// Says how far it is, as long as it goes on.
async fn tell(fleet: &Fleet, id: i64, done: &AtomicI64) -> Infallible {
    loop {
        tokio::time::sleep(WORD).await;
        if let Err(error) = fleet.catalog.verification_goes_on(id, done.load(Ordering::Relaxed)).await {
            tracing::warn!(verification = id, %error, "the catalog was not told how far it is");
        }
    }
}

async fn carry_out(fleet: &Fleet, id: i64, request: &Request) -> Result<(), CatalogError> {
    let done = AtomicI64::new(0);
    let progress = |n: usize| done.store(i64::try_from(n).unwrap_or(i64::MAX), Ordering::Relaxed);
    let report = tokio::select! {
        report = verify::verify(fleet, request, progress) => report,
        never = tell(fleet, id, &done) => match never {},
    };
    match report {
        Ok(report) => {
            let report =
                serde_json::to_value(&report).map_err(|error| CatalogError::Row(error.to_string()))?;
            fleet.catalog.verification_end(id, Ok(&report)).await
        }
        Err(error) => fleet.catalog.verification_end(id, Err(&error.to_string())).await,
    }
}
