//! What goes around every request to the control service: its id, headers for browsers, and its line in the journal.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue, header};
use serde_json::json;

use super::access::Caller;
use super::{Control, Problem};
use crate::catalog::Act;
use crate::tenant::TenantId;

/// The id of a request, which its answer and its lines in the journal have.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// Why an operator does it, in their words.
pub(super) static REASON: HeaderName = HeaderName::from_static("x-reason");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest reason, bytes.
const MAX_REASON: usize = 500;

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

/// By whose order a request works.
pub(super) fn act(caller: &Caller, parts: &http::request::Parts) -> Act {
    let reason = parts.headers.get(&REASON).and_then(|reason| reason.to_str().ok());
    Act {
        operator: caller.name.clone(),
        by: caller.by.clone(),
        request: parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default(),
        reason: reason.map(|reason| reason.chars().take(MAX_REASON).collect()),
    }
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
    let act = act(&caller, &parts);
    let matched = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let action = format!("{} {matched}", parts.method);
    let path = parts.uri.path().chars().take(300).collect::<String>();
    let response = next.run(Request::from_parts(parts, body)).await;
    let problem = response.extensions().get::<Problem>();
    let detail = json!({ "path": path, "problem": problem.map(|problem| &problem.detail) });
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
