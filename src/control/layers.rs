//! What goes around every request to the control service: its id, headers for browsers, and its line in the journal.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderValue, header};
use serde_json::json;

use super::access::{Caller, masked};
use super::request_id::{REQUEST_ID, RequestId};
use super::{Control, Problem};
use crate::tenant::TenantId;

/// Gives the request an id, and its answer the headers that keep browsers from doing more with it than they should.
pub(super) async fn request_id(mut request: Request, next: Next) -> Response {
    // As random and as short as a tenant's.
    let id = TenantId::random().map_or_else(|_| "unknown".to_owned(), |id| id.to_string());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(&REQUEST_ID, id);
    }
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in fixed {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Writes a line about every request that would change something: what was asked for, by whom, and what became of it.
/// Those of nobody in particular are in the log alone, or strangers could fill the journal.
pub(super) async fn journal(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().cloned();
    let Some(caller) = caller.filter(|_| !request.method().is_safe() && request.uri().path() != "/theme")
    else {
        return next.run(request).await;
    };
    let (parts, body) = request.into_parts();
    let act = caller.act(&parts);
    let matched = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let action = format!("{} {matched}", parts.method);
    let path = masked(parts.uri.path()).chars().take(300).collect::<String>();
    let response = next.run(Request::from_parts(parts, body)).await;
    let problem = response.extensions().get::<Problem>();
    let detail = json!({ "path": path, "problem": problem.map(|problem| masked(&problem.detail)) });
    let outcome = match problem {
        Some(problem) => format!("{} {}", response.status().as_u16(), problem.code.row().0),
        None => response.status().as_u16().to_string(),
    };
    let catalog = control.fleet.catalog.acting(&act);
    if let Err(error) = catalog.note_outcome(None, &action, &detail, &outcome).await {
        tracing::error!(%error, action, path, operator = act.operator, outcome, "the journal misses the outcome of a request");
    }
    response
}
