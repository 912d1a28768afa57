//! `Error`: status, code, message, details, hint, and how an error becomes a response.

mod postgres;

pub(super) use postgres::{is_stale, within_function};

use std::fmt;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::Value;

use crate::pool::{self, Wait};

/// A refusal in the shape that PostgREST made known: `{code, message, details, hint}`.
///
/// Codes: `PGRST…` where PostgREST has one, the SQLSTATE for errors of the database, `MBX…` for manybox's own.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

/// A refusal's code, among the extensions of its response: for whoever counts refusals without reading bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code(pub String);

#[derive(Debug, Clone)]
struct Inner {
    status: StatusCode,
    code: String,
    message: String,
    details: Option<Value>,
    hint: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.0.code)?;
        let details = self.0.details.as_ref().map(|details| match details {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        details.iter().chain(&self.0.hint).try_for_each(|more| write!(f, "; {more}"))
    }
}

impl std::error::Error for Error {}

impl Error {
    /// An error with everything that a caller sees.
    pub fn new(
        status: StatusCode,
        code: impl Into<String>,
        message: impl Into<String>,
        details: Option<String>,
        hint: Option<String>,
    ) -> Self {
        let (code, message, details) = (code.into(), message.into(), details.map(Value::String));
        Self(Box::new(Inner { status, code, message, details, hint, headers: Vec::new() }))
    }

    /// 400 PGRST100: the query string can't be read.
    pub(crate) fn query(message: impl Into<String>, details: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "PGRST100", message, Some(details.into()), None)
    }

    /// 400 PGRST102: the body can't be read.
    pub(crate) fn body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "PGRST102", message, None, None)
    }

    /// 416 PGRST103: the range asks for what can't be.
    pub(crate) fn range(details: impl Into<String>) -> Self {
        let message = "Requested range not satisfiable";
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "PGRST103", message, Some(details.into()), None)
    }

    /// 405 with the methods that would do.
    pub(crate) fn method(code: &str, message: String, allow: &'static str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, code, message, None, None)
            .with_header(ALLOW, HeaderValue::from_static(allow))
    }

    /// 500 MBX500: what can only be a mistake of manybox.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let hint = "this is a defect of manybox; please report it with the request that caused it";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "MBX500", message, None, Some(hint.into()))
    }

    /// With details that are more than a sentence.
    #[must_use]
    pub(crate) fn with_details(mut self, details: Value) -> Self {
        self.0.details = Some(details);
        self
    }

    /// With another sentence.
    #[must_use]
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// The response's status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The code; stable, never reused for something else.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// Whether it is about a name that the schema does not have.
    pub(crate) fn is_of_an_unknown_name(&self) -> bool {
        matches!(self.code(), "PGRST200" | "PGRST202" | "PGRST204" | "PGRST205")
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The response, JSON with all four keys always there, as PostgREST's clients expect.
    pub fn into_response(self) -> Response<Bytes> {
        let Inner { status, code, message, details, hint, headers } = *self.0;
        let body = serde_json::json!({ "code": code, "details": details, "hint": hint, "message": message })
            .to_string();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        // RFC 9209, as PostgREST sends it: the code for those who can't read a body, of a HEAD for instance.
        if let Ok(value) = HeaderValue::from_str(&format!("PostgREST; error={code}")) {
            response.headers_mut().insert("proxy-status", value);
        }
        for (name, value) in headers {
            response.headers_mut().append(name, value);
        }
        response.extensions_mut().insert(Code(code));
        response
    }
}

impl From<pool::Error> for Error {
    /// Which server, and what it said, is the operator's business and in the log.
    fn from(error: pool::Error) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let free = "No database connection became free in time";
        let (status, code, message, hint, wait) = match &error {
            pool::Error::Wait { wait: Wait::Tenant, .. } => {
                (unavailable, "MBX201", free, "too many requests of this tenant run at once; try again", "1")
            }
            pool::Error::Wait { wait: Wait::Budget, .. } => {
                (unavailable, "MBX204", free, "too many tenants are busy at once; try again", "1")
            }
            pool::Error::Wait { wait: Wait::Connect, .. } => (
                unavailable,
                "MBX205",
                free,
                "its database server is slow to open connections; try again",
                "1",
            ),
            pool::Error::Wait { wait: Wait::Full, .. } => {
                (unavailable, "MBX206", free, "its database server has no connections left; try again", "1")
            }
            pool::Error::Queue { .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                "MBX207",
                "Too many requests of this tenant wait for a database connection",
                "send fewer at once; try again",
                "1",
            ),
            pool::Error::Fenced { .. } => {
                let message = "The tenant's database does not accept its login";
                (unavailable, "MBX203", message, "the tenant was suspended or moved a moment ago", "5")
            }
            pool::Error::Server { .. } | pool::Error::Connect(_) => {
                let hint = "its database server can't be reached now; try again";
                (unavailable, "MBX202", "The database is not available", hint, "1")
            }
        };
        Self::new(status, code, message, None, Some(hint.into()))
            .with_header(RETRY_AFTER, HeaderValue::from_static(wait))
    }
}
