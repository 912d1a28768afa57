//! `/v1/tenants/{slug}/drift`: whether a tenant's schema is what its files make.

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::super::access::Acting;
use super::super::jobs::Work;
use super::super::{Problem, answer};
use super::read::Given;
use crate::catalog::{JobRow, OperatorRole};

/// What to do about it.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Drift {
    /// Accept what is found, until the schema differs in something else too. Takes a reason (`X-Reason`).
    #[serde(default)]
    accept: bool,
}

/// Compare a tenant's schema with its edition's: `equal`, `drifted`, `accepted` or `unknown`, and the differences in sentences.
#[utoipa::path(post, path = "/tenants/{slug}/drift", tag = "tenants", params(("slug" = String, Path)),
    request_body(content = Option<Drift>), responses(
        (status = 200, body = serde_json::Value, description = "How it compares."), (status = 202, body = JobRow)))]
pub(super) async fn drift(
    acting: Acting,
    Path(slug): Path<String>,
    Given(how): Given<Drift>,
) -> Result<Response, Problem> {
    acting.caller.needs(OperatorRole::Operator)?;
    if how.accept {
        acting.needs_reason()?;
    }
    let row = acting.caller.tenant(&acting.fleet, &slug).await?;
    let accept = acting.act.reason.clone().filter(|_| how.accept);
    let work = Work::Drift { tenant: row.record.id.to_string(), accept };
    let begun = acting.jobs.begin(acting.act.clone(), Some((&row.record.id, &slug)), &work).await?;
    Ok(match answer::result(&acting, begun).await? {
        Ok(found) => Json(found).into_response(),
        Err(job) => answer::accepted(job),
    })
}
