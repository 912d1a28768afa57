//! `Error`: status, code, message, details, hint, and how an error becomes a response.

use std::fmt;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use tokio_postgres::error::{DbError, SqlState};

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
    details: Option<String>,
    hint: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.0.code)?;
        self.0.details.iter().chain(&self.0.hint).try_for_each(|more| write!(f, "; {more}"))
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
        let (code, message) = (code.into(), message.into());
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
        response.headers_mut().extend(headers);
        response.extensions_mut().insert(Code(code));
        response
    }

    /// What a failed statement means to the caller; `anonymous` decides between 401 and 403.
    pub(crate) fn from_postgres(error: &tokio_postgres::Error, anonymous: bool) -> Self {
        let Some(db) = error.as_db_error() else {
            // The connection's own words could name hosts, so they stay out of the answer.
            let message = "The connection to the database broke while the request ran";
            let hint = "try again; whether a write took effect is unknown if it was being committed";
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, "MBX202", message, None, Some(hint.into()))
                .with_header(RETRY_AFTER, HeaderValue::from_static("1"));
        };
        let status = status(db, anonymous);
        let mut answer = Self::new(
            status,
            db.code().code(),
            db.message(),
            db.detail().map(str::to_owned),
            db.hint().map(str::to_owned),
        );
        if status == StatusCode::UNAUTHORIZED {
            answer = answer.with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer = answer.with_header(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

/// PostgREST, "Errors", table "HTTP Status Codes". One difference: 57014, a statement stopped by
/// `statement_timeout`, is 504, because the limit is the gateway's and not a fault of the server.
fn status(db: &DbError, anonymous: bool) -> StatusCode {
    let (code, message) = (db.code().code(), db.message());
    match code {
        "23503" | "23505" => StatusCode::CONFLICT,
        "25006" => StatusCode::METHOD_NOT_ALLOWED,
        "21000" if message.ends_with("requires a WHERE clause") => StatusCode::BAD_REQUEST,
        "22023" if message.starts_with("role") && message.ends_with("does not exist") => {
            StatusCode::UNAUTHORIZED
        }
        "42501" if anonymous => StatusCode::UNAUTHORIZED,
        "42501" => StatusCode::FORBIDDEN,
        "42883" | "42P01" => StatusCode::NOT_FOUND,
        "21000" | "42P17" | "53400" => StatusCode::INTERNAL_SERVER_ERROR,
        "57014" => StatusCode::GATEWAY_TIMEOUT,
        "57P01" | "57P02" | "57P03" | "57P05" => StatusCode::SERVICE_UNAVAILABLE,
        "P0001" => StatusCode::BAD_REQUEST,
        _ => match (&code[..2], &code[2..]) {
            ("PT", number) => chosen(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            ("08" | "53", _) => StatusCode::SERVICE_UNAVAILABLE,
            ("0L" | "0P" | "28", _) => StatusCode::FORBIDDEN,
            (
                "09" | "25" | "2D" | "38" | "39" | "3B" | "40" | "54" | "55" | "57" | "58" | "F0" | "HV"
                | "P0" | "XX",
                _,
            ) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        },
    }
}

/// The status in `RAISE SQLSTATE 'PT402'`. 1xx would end the exchange before the answer.
fn chosen(number: &str) -> Option<StatusCode> {
    let status = StatusCode::from_u16(number.parse().ok()?).ok()?;
    (!status.is_informational()).then_some(status)
}

/// Whether the statement may have failed because the schema we planned with is not the database's any more.
pub(super) fn is_stale(code: Option<&SqlState>) -> bool {
    code.is_some_and(|code| {
        [
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::INVALID_SQL_STATEMENT_NAME,
            SqlState::UNDEFINED_COLUMN,
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_FUNCTION,
            SqlState::DATATYPE_MISMATCH,
        ]
        .contains(code)
    })
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
