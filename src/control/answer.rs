//! Answers to requests that change something: at once, or with a job when it takes long or the client says so.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderName, HeaderValue, StatusCode};

use super::Problem;
use super::access::Acting;
use super::jobs::{Begun, Work, outcome};
use super::wanted::etag;
use crate::catalog::{JobRow, TenantRow};
use crate::tenant::TenantId;

static PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// How long a client is kept waiting for work; then it gets the job to ask for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A tenant as an answer.
pub(super) fn tenant(status: StatusCode, row: TenantRow) -> Response {
    let tag = [(ETAG, etag(&row))];
    let place =
        (status == StatusCode::CREATED).then(|| [(LOCATION, format!("/v1/tenants/{}", row.record.slug))]);
    match place {
        Some(place) => (status, tag, place, Json(row)).into_response(),
        None => (status, tag, Json(row)).into_response(),
    }
}

/// The tenant, unless the client has it as it is.
pub(super) fn shown(acting: &Acting, row: TenantRow) -> Response {
    match acting.wanted.knows(&row) {
        true => (StatusCode::NOT_MODIFIED, [(ETAG, etag(&row))]).into_response(),
        false => tenant(StatusCode::OK, row),
    }
}

/// A job as an answer: it goes on.
pub(super) fn accepted(row: JobRow) -> Response {
    let place = [(LOCATION, format!("/v1/jobs/{}", row.id))];
    let applied = [(PREFERENCE_APPLIED.clone(), "respond-async")];
    (StatusCode::ACCEPTED, place, applied, Json(row)).into_response()
}

/// Begins work about a tenant and answers with the tenant when it has ended, or with the job.
pub(super) async fn of_work(
    acting: &Acting,
    row: &TenantRow,
    work: &Work,
    status: StatusCode,
) -> Result<Response, Problem> {
    let about = (&row.record.id, row.record.slug.as_str());
    let begun = acting.jobs.begin(acting.act.clone(), Some(about), work).await?;
    match result(acting, begun).await? {
        Ok(_) => Ok(tenant(status, of_id(acting, &row.record.id).await?)),
        Err(job) => Ok(accepted(job)),
    }
}

/// Waits for a job as long as the client does. Gives its result, or the job that goes on.
pub(super) async fn result(
    acting: &Acting,
    mut begun: Begun,
) -> Result<Result<serde_json::Value, JobRow>, Problem> {
    if acting.wanted.job {
        return Ok(Err(begun.row));
    }
    match begun.ended_within(PATIENCE).await {
        Some(row) => outcome(&row).map(Ok),
        None => Ok(Err(begun.row)),
    }
}

async fn of_id(acting: &Acting, id: &TenantId) -> Result<TenantRow, Problem> {
    let row = acting.fleet.catalog.tenant(id).await?;
    row.ok_or_else(|| Problem::not_found(&format!("tenant of id `{id}`")))
}

/// JSON that was stored, as it was sent.
pub(super) fn stored(status: u16, location: Option<&str>, body: Vec<u8>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
    let mut response = (status, [(CONTENT_TYPE, kind)], body).into_response();
    if let Some(location) = location.and_then(|location| HeaderValue::from_str(location).ok()) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
