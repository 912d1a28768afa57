//! `/v1/verify`: look whether tenants are kept apart.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::super::access::Acting;
use super::super::jobs::Work;
use super::super::{Problem, answer};
use super::read::Given;
use crate::catalog::{JobRow, OperatorRole};

/// Tenants looked into when nothing is said, and most.
const SAMPLE: usize = 20;
const MOST: usize = 1000;

/// Which tenants to look into; servers are looked at whole in any case.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    /// This one alone.
    tenant: Option<String>,
    /// So many, spread over the fleet: 20 when not given, 1000 at most.
    sample: Option<usize>,
}

/// Verify. Nothing is changed.
#[utoipa::path(post, path = "/verify", tag = "fleet", request_body(content = Option<Verify>), responses(
    (status = 200, body = serde_json::Value, description = "The report."), (status = 202, body = JobRow)))]
pub(super) async fn verify(acting: Acting, Given(which): Given<Verify>) -> Result<Response, Problem> {
    acting.caller.needs_all(OperatorRole::Operator)?;
    if let Some(slug) = &which.tenant {
        acting.caller.tenant(&acting.fleet, slug).await?;
    }
    let sample = which.sample.unwrap_or(SAMPLE).clamp(1, MOST);
    let router = Some(acting.fleet.settings.listen.http.to_string());
    let work = Work::Verify { tenant: which.tenant, sample, all: false, router };
    let begun = acting.jobs.begin(acting.act.clone(), None, &work).await?;
    Ok(match answer::result(&acting, begun).await? {
        Ok(report) => Json(report).into_response(),
        Err(job) => answer::accepted(job),
    })
}
