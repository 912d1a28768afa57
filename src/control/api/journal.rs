//! `/v1/tenants/{slug}/journal`: what was done to a tenant, when, by whose order, and what became of it.

use axum::Json;
use axum::extract::Path;
use serde::Serialize;

use super::super::Problem;
use super::super::access::Acting;
use crate::catalog::Entry;

/// Most lines of an answer.
const MOST: i64 = 200;

/// Lines of the journal, the newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Journal {
    entries: Vec<Entry>,
}

/// What was done to a tenant.
#[utoipa::path(get, path = "/tenants/{slug}/journal", tag = "journal", params(("slug" = String, Path)),
    responses((status = 200, body = Journal)))]
pub(super) async fn list(acting: Acting, Path(slug): Path<String>) -> Result<Json<Journal>, Problem> {
    let row = acting.caller.tenant(&acting.fleet, &slug).await?;
    Ok(Json(Journal { entries: acting.fleet.catalog.journal(&row.record.id, MOST).await? }))
}
