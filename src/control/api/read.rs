//! What handlers read of a request: query and body, or a problem that says what of them is wrong.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use http::header::CONTENT_TYPE;
use http::request::Parts;
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
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let detail = "expected Content-Type: application/json";
            return Err(Problem::new(ProblemCode::NotJson, detail));
        }
        let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), MAX_BODY)).await;
        let bytes = read
            .map_err(|_| Problem::new(ProblemCode::Unreadable, "the body did not come in time"))?
            .map_err(|error| {
                let detail = format!("the body can't be read, or is longer than {MAX_BODY} bytes: {error}");
                Problem::new(ProblemCode::TooLarge, detail)
            })?;
        match serde_json::from_slice(&bytes) {
            Ok(body) => Ok(Self(body)),
            Err(error) if error.is_data() => {
                Err(Problem::new(ProblemCode::Invalid, format!("body: {error}")))
            }
            Err(error) => Err(Problem::new(ProblemCode::Unreadable, format!("body: {error}"))),
        }
    }
}
