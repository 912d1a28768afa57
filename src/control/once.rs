//! Once: a POST that is sent again with its Idempotency-Key is answered as it was, and not carried out again.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::LOCATION;
use http::{HeaderName, HeaderValue, Method};
use http_body::Body as _;
use ring::digest::{Context, SHA256};

use super::access::Caller;
use super::{Control, MAX_BODY, Problem, ProblemCode, answer};
use crate::catalog::{Keyed, StoredAnswer};

static KEY: HeaderName = HeaderName::from_static("idempotency-key");
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key.
const MAX_KEY: usize = 200;
/// Longest answer that is kept whole, bytes.
const MAX_KEPT: u64 = 256 * 1024;
/// What is answered with a secret, which nobody keeps.
const SECRETS: [&str; 2] = ["/token", "/webhooks"];

/// Carries a request with a key out, unless it was before.
pub(super) async fn once(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().cloned();
    let key = request.headers().get(&KEY).cloned();
    let (Some(caller), Some(key), true) = (caller, key, *request.method() == Method::POST) else {
        return next.run(request).await;
    };
    if SECRETS.iter().any(|secret| request.uri().path().ends_with(secret)) {
        return next.run(request).await;
    }
    match keyed(&control, &caller, &key, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn keyed(
    control: &Control,
    caller: &Caller,
    key: &HeaderValue,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let catalog = &control.fleet.catalog;
    let key = key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= MAX_KEY);
    let key = key.ok_or_else(|| {
        let detail = format!("Idempotency-Key: expected 1 to {MAX_KEY} printable characters");
        Problem::new(ProblemCode::Unreadable, detail)
    })?;
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.map_err(|error| {
        Problem::new(
            ProblemCode::TooLarge,
            format!("the body can't be read, or is longer than {MAX_BODY} bytes: {error}"),
        )
    })?;
    let mut fingerprint = Context::new(&SHA256);
    // Of the token as well: another one of the same operator may see less than the answer has.
    for part in
        [caller.by.as_bytes(), parts.method.as_str().as_bytes(), parts.uri.to_string().as_bytes(), &body]
    {
        fingerprint.update(&part.len().to_be_bytes());
        fingerprint.update(part);
    }
    let fingerprint = fingerprint.finish();
    match catalog.key_take(&caller.name, key, fingerprint.as_ref(), control.jobs.seat().await?).await? {
        Keyed::Yours => {}
        Keyed::Answered(StoredAnswer { status, location, body }) => {
            let mut response = answer::stored(status, location.as_deref(), body);
            response.headers_mut().insert(&REPLAYED, HeaderValue::from_static("true"));
            return Ok(response);
        }
        Keyed::UnderWay => {
            let detail =
                "the request with this Idempotency-Key is being carried out; send it again for its answer";
            return Err(Problem::new(ProblemCode::Busy, detail));
        }
        Keyed::Other => {
            let detail = "this Idempotency-Key was another request's: give each request a key of its own";
            return Err(Problem::new(ProblemCode::KeyReused, detail));
        }
    }
    let (catalog, operator, key) = (catalog.clone(), caller.name.clone(), key.to_owned());
    // To its end also when the client goes away: the key would stay taken.
    let carried_out = tokio::spawn(async move {
        let response = next.run(Request::from_parts(parts, Body::from(body))).await;
        let status = response.status();
        let location =
            response.headers().get(LOCATION).and_then(|place| place.to_str().ok()).map(str::to_owned);
        let (parts, body) = response.into_parts();
        // A longer one is kept without its body: the work is done, and Location says where it can be seen.
        let is_long = body.size_hint().exact().is_none_or(|length| length > MAX_KEPT);
        let (kept, body) = if is_long {
            (Vec::new(), body)
        } else {
            let read = to_bytes(body, MAX_BODY).await;
            let read = read.map_err(|error| Problem::new(ProblemCode::Internal, error.to_string()))?;
            (read.to_vec(), Body::from(read))
        };
        // What failed here or was refused for the moment may go well the next time.
        let is_final = !status.is_server_error() && ![401, 403, 409, 429].contains(&status.as_u16());
        let kept = StoredAnswer { status: status.as_u16(), location, body: kept };
        if let Err(error) = catalog.key_answered(&operator, &key, is_final.then_some(&kept)).await {
            tracing::error!(%error, "the answer to a request with an Idempotency-Key can't be kept");
        }
        Ok(Response::from_parts(parts, body))
    });
    carried_out.await.map_err(|error| Problem::new(ProblemCode::Internal, error.to_string()))?
}
