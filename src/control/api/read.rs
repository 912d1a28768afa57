//! What handlers read of a request: query and body, or a problem that says what of them is wrong.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::{MAX_BODY, Problem, ProblemCode};

/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// The query, read.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        let Query(asked) = query.map_err(|error| Problem::new(ProblemCode::Unreadable, error.body_text()))?;
        Ok(Self(asked))
    }
}

/// The body, read as JSON.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = bytes(request).await?;
        read(is_json, &bytes).map(Self)
    }
}

/// The body, read as JSON; the default where there is none.
pub(super) struct Given<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Given<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = bytes(request).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        Ok(Self(read::<Option<T>>(is_json, &bytes)?.unwrap_or_default()))
    }
}

/// Nothing: the request takes no body.
// One that is sent is refused: its sender believes that it does something.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

async fn bytes(request: Request) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), MAX_BODY)).await;
    read.map_err(|_| Problem::new(ProblemCode::Unreadable, "the body did not come in time"))?.map_err(
        |error| {
            let detail = format!("the body can't be read, or is longer than {MAX_BODY} bytes: {error}");
            Problem::new(ProblemCode::TooLarge, detail)
        },
    )
}

fn read<T: DeserializeOwned>(is_json: bool, bytes: &[u8]) -> Result<T, Problem> {
    if !is_json {
        return Err(Problem::new(ProblemCode::NotJson, "expected Content-Type: application/json"));
    }
    // PostgreSQL has no such character.
    if has_nul(bytes) {
        return Err(Problem::new(ProblemCode::Invalid, "body: the character U+0000 can't be stored"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let code = if error.is_data() { ProblemCode::Invalid } else { ProblemCode::Unreadable };
        Problem::new(code, format!("body: {error}"))
    })
}

/// Whether a JSON text has U+0000 in it, which only its escape can bring in.
fn has_nul(json: &[u8]) -> bool {
    json.windows(6).any(|part| part == br"\u0000")
}
