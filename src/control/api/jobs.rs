//! `/v1/jobs`: long work: where it stands, and as a stream of events until it has ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};

use super::super::access::{Acting, Caller};
use super::super::{Control, Problem, ProblemCode};
use super::read::Asked;
use crate::catalog::{JobRow, OperatorRole};
use crate::fleet::Fleet;
use crate::tenant::TenantId;

/// Most jobs of a page.
const MOST: i64 = 100;
/// How often a job is looked at for those who watch it.
const LOOK: Duration = Duration::from_millis(300);
/// Longest stream. Who still watches comes again.
const LONGEST: Duration = Duration::from_secs(3600);

/// Which jobs to list.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct JobsQuery {
    /// Of this tenant.
    tenant: Option<String>,
    /// Those before the job of this id: `next` of the page before.
    after: Option<String>,
}

/// Some jobs, the newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct JobList {
    jobs: Vec<JobRow>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
}

/// List jobs. One who is for some tenants only names one of these.
#[utoipa::path(get, path = "/jobs", tag = "jobs", params(JobsQuery), responses((status = 200, body = JobList)))]
pub(super) async fn list(acting: Acting, Asked(query): Asked<JobsQuery>) -> Result<Json<JobList>, Problem> {
    let tenant = match &query.tenant {
        Some(slug) => Some(acting.caller.tenant(&acting.fleet, slug).await?.record.id),
        None => {
            acting.caller.needs_all(OperatorRole::Viewer)?;
            None
        }
    };
    let tenant = tenant.as_ref().map(TenantId::as_str);
    let mut jobs = acting.fleet.catalog.jobs(tenant, query.after.as_deref(), MOST + 1).await?;
    let is_last = jobs.len() <= MOST as usize;
    jobs.truncate(MOST as usize);
    let next = jobs.last().filter(|_| !is_last).map(|job| job.id.clone());
    Ok(Json(JobList { jobs, next }))
}

/// Show one job.
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, body = JobRow)))]
pub(super) async fn get(acting: Acting, Path(id): Path<String>) -> Result<Json<JobRow>, Problem> {
    Ok(Json(seen(&acting.caller, &acting.fleet, &id).await?))
}

/// Follow a job: an event `job` whenever it changes, until it has ended.
#[utoipa::path(get, path = "/jobs/{id}/events", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(super) async fn events(
    State(control): State<Arc<Control>>,
    acting: Acting,
    Path(id): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let row = seen(&acting.caller, &acting.fleet, &id).await?;
    let place = Arc::clone(&control.watchers).try_acquire_owned().map_err(|_| {
        Problem::new(ProblemCode::Busy, "too many watch jobs here already; ask for the job itself instead")
    })?;
    let until = tokio::time::Instant::now() + LONGEST;
    let watch = Watch { fleet: acting.fleet, id, told: None, next: Some(row), _place: place };
    let events = stream::unfold(watch, move |mut watch| async move {
        loop {
            if let Some(row) = watch.next.take() {
                let data = serde_json::to_string(&row).unwrap_or_default();
                watch.told = Some(row);
                return Some((Ok(Event::default().event("job").data(data)), watch));
            }
            if watch.told.as_ref().is_some_and(|row| row.state.is_over())
                || tokio::time::Instant::now() > until
            {
                return None;
            }
            tokio::time::sleep(LOOK).await;
            // A catalog that is away for a moment ends nothing.
            let row = watch.fleet.catalog.job(&watch.id).await.unwrap_or_default();
            watch.next = row.filter(|row| watch.told.as_ref() != Some(row));
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

struct Watch {
    fleet: Fleet,
    id: String,
    told: Option<JobRow>,
    next: Option<JobRow>,
    _place: tokio::sync::OwnedSemaphorePermit,
}

/// A job that the caller may see: about one of its tenants, or of its own order.
async fn seen(caller: &Caller, fleet: &Fleet, id: &str) -> Result<JobRow, Problem> {
    let unknown = || Problem::not_found("such job");
    let row = fleet.catalog.job(id).await?.ok_or_else(unknown)?;
    if caller.scopes.is_all() || row.act.operator == caller.name {
        return Ok(row);
    }
    let tenant = row.tenant.as_ref().and_then(|id| id.parse().ok()).ok_or_else(unknown)?;
    let tenant = fleet.catalog.tenant(&tenant).await?.ok_or_else(unknown)?;
    caller.scopes.admits(&tenant).then_some(row).ok_or_else(unknown)
}
