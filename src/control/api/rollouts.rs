//! `/v1/rollouts`: plan, run, pause, resume, abort, retry, skip, and what became of each tenant.

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::LOCATION;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::access::Acting;
use super::super::jobs::Work;
use super::super::{Problem, ProblemCode, answer};
use super::read::{Body, Given, Nothing};
use crate::catalog::{JobRow, OperatorRole, RolloutRow, RolloutState};
use crate::rollout::{self, Found, Plan, Report, RolloutAsk};
use crate::settings::DEFAULT_POLICY;

/// Rollouts that are listed, the newest first.
const MOST: i64 = 100;
/// States from which something can still happen.
const OPEN: [RolloutState; 4] =
    [RolloutState::Planned, RolloutState::Running, RolloutState::Paused, RolloutState::Halted];

/// Which part of the fleet to bring up, and how.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRollout {
    /// Only tenants of this edition.
    edition: Option<String>,
    /// Only this tenant.
    tenant: Option<String>,
    /// Only files up to this version.
    target: Option<i64>,
    /// The policy of the settings; `default` when not given.
    policy: Option<String>,
    /// Files below a version that was applied, too, where a tenant lacks them.
    #[serde(default)]
    allow_out_of_order: bool,
    /// Begin it at once.
    #[serde(default)]
    run: bool,
}

/// What was planned.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Planned {
    /// The rollout with its waves and tenants; null when there is nothing to do.
    #[schema(value_type = Option<Object>)]
    rollout: Option<Report>,
    /// Tenants that it leaves out, and why.
    #[schema(value_type = Vec<Object>)]
    left_out: Vec<rollout::LeftOut>,
    /// What keeps a part of the fleet out.
    problems: Vec<String>,
    /// What an operator should know.
    notes: Vec<String>,
    /// The job that carries it out, when it was begun.
    job: Option<JobRow>,
}

/// Some rollouts.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct RolloutList {
    #[schema(value_type = Vec<Object>)]
    rollouts: Vec<RolloutRow>,
}

/// Why.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    /// For those who see it.
    reason: Option<String>,
}

/// How to go on.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    /// Open the gate that halted it, by hand.
    #[serde(default)]
    approve: bool,
}

/// Some tenants of a rollout.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Their names.
    #[serde(default)]
    tenants: Vec<String>,
}

/// List rollouts.
#[utoipa::path(get, path = "/rollouts", tag = "rollouts", responses((status = 200, body = RolloutList)))]
pub(super) async fn list(acting: Acting) -> Result<Json<RolloutList>, Problem> {
    acting.caller.needs_all(OperatorRole::Viewer)?;
    Ok(Json(RolloutList { rollouts: acting.fleet.catalog.rollouts(MOST).await? }))
}

/// Plan a rollout; with `run` begin it as well.
#[utoipa::path(post, path = "/rollouts", tag = "rollouts", request_body = NewRollout, responses(
    (status = 200, body = Planned, description = "There is nothing to do."), (status = 201, body = Planned)))]
pub(super) async fn plan(acting: Acting, Body(new): Body<NewRollout>) -> Result<Response, Problem> {
    let Acting { caller, fleet, jobs, .. } = &acting;
    match &new.tenant {
        Some(slug) => {
            caller.needs(OperatorRole::Operator)?;
            caller.tenant(fleet, slug).await?;
        }
        None => caller.needs_all(OperatorRole::Operator)?,
    }
    let ask = RolloutAsk {
        edition: new.edition,
        tenant: new.tenant,
        target: new.target,
        policy: new.policy.unwrap_or_else(|| DEFAULT_POLICY.to_owned()),
        allow_out_of_order: new.allow_out_of_order,
    };
    let Found { draft, problems, notes } = jobs.plan(fleet, &ask).await?;
    let mut planned = Planned { rollout: None, left_out: draft.left_out.clone(), problems, notes, job: None };
    if draft.is_empty() {
        return Ok(Json(planned).into_response());
    }
    if new.run {
        rollout::refuse_beside_open(fleet, &draft.plan, None).await.map_err(wrong_state)?;
    }
    let row = rollout::store(fleet, &draft).await?;
    let id = row.id;
    if new.run {
        rollout::begin(fleet, &row).await.map_err(wrong_state)?;
        planned.job = Some(carry_out(&acting, id).await?);
    }
    planned.rollout = Some(Report::read(&fleet.catalog, of_id(&acting, id).await?).await?);
    let place = [(LOCATION, format!("/v1/rollouts/{id}"))];
    Ok((StatusCode::CREATED, place, Json(planned)).into_response())
}

/// Show a rollout: its waves, and what became of each tenant.
#[utoipa::path(get, path = "/rollouts/{id}", tag = "rollouts", params(("id" = i64, Path)),
    responses((status = 200, body = Value)))]
pub(super) async fn get(acting: Acting, Path(id): Path<String>) -> Result<Json<Report>, Problem> {
    acting.caller.needs_all(OperatorRole::Viewer)?;
    let row = of_text(&acting, &id).await?;
    Ok(Json(Report::read(&acting.fleet.catalog, row).await?))
}

/// Carry a planned rollout out.
#[utoipa::path(post, path = "/rollouts/{id}/run", tag = "rollouts", params(("id" = i64, Path)),
    request_body(content = Option<Nothing>), responses((status = 202, body = JobRow)))]
pub(super) async fn run(
    acting: Acting,
    Path(id): Path<String>,
    Given(Nothing {}): Given<Nothing>,
) -> Result<Response, Problem> {
    acting.caller.needs_all(OperatorRole::Operator)?;
    let row = of_text(&acting, &id).await?;
    rollout::begin(&acting.fleet, &row).await.map_err(wrong_state)?;
    Ok(answer::accepted(carry_out(&acting, row.id).await?))
}

/// Begin no further tenant until it is resumed.
#[utoipa::path(post, path = "/rollouts/{id}/pause", tag = "rollouts", params(("id" = i64, Path)),
    request_body(content = Option<Why>), responses((status = 200, body = Value)))]
pub(super) async fn pause(
    acting: Acting,
    Path(id): Path<String>,
    Given(why): Given<Why>,
) -> Result<Json<RolloutRow>, Problem> {
    stop(acting, &id, &[RolloutState::Running], RolloutState::Paused, why).await
}

/// Give it up. What was done stays.
#[utoipa::path(post, path = "/rollouts/{id}/abort", tag = "rollouts", params(("id" = i64, Path)),
    request_body(content = Option<Why>), responses((status = 200, body = Value)))]
pub(super) async fn abort(
    acting: Acting,
    Path(id): Path<String>,
    Given(why): Given<Why>,
) -> Result<Json<RolloutRow>, Problem> {
    stop(acting, &id, &OPEN, RolloutState::Aborted, why).await
}

async fn stop(
    acting: Acting,
    id: &str,
    from: &[RolloutState],
    to: RolloutState,
    why: Why,
) -> Result<Json<RolloutRow>, Problem> {
    acting.caller.needs_all(OperatorRole::Operator)?;
    let row = of_text(&acting, id).await?;
    if !acting.fleet.catalog.rollout_move(row.id, from, to, why.reason.as_deref()).await? {
        return Err(in_state(&row));
    }
    Ok(Json(of_id(&acting, row.id).await?))
}

/// Go on with one that was paused or halted, or whose workers are gone.
#[utoipa::path(post, path = "/rollouts/{id}/resume", tag = "rollouts", params(("id" = i64, Path)),
    request_body(content = Option<Resume>), responses((status = 202, body = JobRow)))]
pub(super) async fn resume(
    acting: Acting,
    Path(id): Path<String>,
    Given(how): Given<Resume>,
) -> Result<Response, Problem> {
    acting.caller.needs_all(OperatorRole::Operator)?;
    let row = of_text(&acting, &id).await?;
    if how.approve {
        acting.fleet.catalog.rollout_approve(row.id).await?;
    }
    go_on(&acting, &row).await
}

/// Try again what failed: these tenants, or all of them.
#[utoipa::path(post, path = "/rollouts/{id}/retry", tag = "rollouts", params(("id" = i64, Path)),
    request_body(content = Option<Which>), responses((status = 202, body = JobRow)))]
pub(super) async fn retry(
    acting: Acting,
    Path(id): Path<String>,
    Given(which): Given<Which>,
) -> Result<Response, Problem> {
    acting.caller.needs_all(OperatorRole::Operator)?;
    let fleet = &acting.fleet;
    let row = of_text(&acting, &id).await?;
    if Plan::read(&row)?.has_other_files(&fleet.editions().sound) {
        let detail =
            format!("other files are here than rollout {} was planned with: abort it, and plan anew", row.id);
        return Err(Problem::new(ProblemCode::Files, detail));
    }
    if row.state.is_over() {
        return Err(in_state(&row));
    }
    for slug in &which.tenants {
        fleet.catalog.tenant_quarantine(&acting.caller.tenant(fleet, slug).await?.record.id, false).await?;
    }
    fleet.catalog.steps_retry(row.id, &which.tenants).await?;
    fleet.catalog.wave_reopened(row.id).await?;
    go_on(&acting, &row).await
}

/// Leave tenants out of it.
#[utoipa::path(post, path = "/rollouts/{id}/skip", tag = "rollouts", params(("id" = i64, Path)), request_body = Which,
    responses((status = 200, body = Value)))]
pub(super) async fn skip(
    acting: Acting,
    Path(id): Path<String>,
    Body(which): Body<Which>,
) -> Result<Json<Value>, Problem> {
    acting.caller.needs_all(OperatorRole::Operator)?;
    let row = of_text(&acting, &id).await?;
    let reason = acting.act.reason.as_deref();
    let skipped = acting.fleet.catalog.steps_skip(row.id, &which.tenants, reason).await?;
    Ok(Json(json!({ "rollout": row.id, "skipped": skipped })))
}

async fn go_on(acting: &Acting, row: &RolloutRow) -> Result<Response, Problem> {
    let fleet = &acting.fleet;
    rollout::refuse_unrehearsed(fleet, row).await.map_err(wrong_state)?;
    let from = [RolloutState::Paused, RolloutState::Running, RolloutState::Halted];
    if !fleet.catalog.rollout_move(row.id, &from, RolloutState::Running, None).await? {
        return Err(in_state(row));
    }
    Ok(answer::accepted(carry_out(acting, row.id).await?))
}

async fn carry_out(acting: &Acting, rollout: i64) -> Result<JobRow, Problem> {
    Ok(acting.jobs.begin(acting.act.clone(), None, &Work::Rollout { rollout }).await?.row)
}

async fn of_text(acting: &Acting, id: &str) -> Result<RolloutRow, Problem> {
    match id.parse() {
        Ok(id) => of_id(acting, id).await,
        Err(_) => Err(Problem::not_found("such rollout")),
    }
}

async fn of_id(acting: &Acting, id: i64) -> Result<RolloutRow, Problem> {
    acting.fleet.catalog.rollout(id).await?.ok_or_else(|| Problem::not_found(&format!("rollout {id}")))
}

fn in_state(row: &RolloutRow) -> Problem {
    let detail = format!("rollout {} is {}: it can't be done from there", row.id, row.state.as_str());
    Problem::new(ProblemCode::WrongState, detail)
}

/// What keeps a rollout from beginning is its state or another's, and not what was asked for.
fn wrong_state(error: crate::fleet::FleetError) -> Problem {
    let problem = Problem::from(error);
    match problem.code {
        ProblemCode::Invalid => Problem { code: ProblemCode::WrongState, ..problem },
        _ => problem,
    }
}
