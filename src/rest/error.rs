//! `Error`: status, code, message, details, hint, and how an error becomes a response.

mod code;
mod postgres;

pub use code::{Code, Documentation};
pub(super) use postgres::is_stale;

use std::fmt;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::head::may_have_content;
use crate::pg;
use crate::policy::Verbosity;
use crate::pool::{self, Wait};
use crate::telemetry::Cause;

/// A refusal in the shape that PostgREST made known: `{code, message, details, hint}`.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: Code,
    message: String,
    details: Value,
    hint: Value,
    verbosity: Verbosity,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For the log alone.
    cause: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.0.code)?;
        [&self.0.details, &self.0.hint].into_iter().try_for_each(|more| match more {
            Value::Null => Ok(()),
            Value::String(text) => write!(f, "; {text}"),
            other => write!(f, "; {other}"),
        })
    }
}

impl std::error::Error for Error {}

impl Error {
    /// A refusal with this code, whose status the response gets, and a sentence for whoever reads it.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (message, details, hint) = (message.into(), Value::Null, Value::Null);
        let (verbosity, headers) = (Verbosity::Verbose, Vec::new());
        Self(Box::new(Inner { code, message, details, hint, verbosity, headers, cause: None }))
    }

    /// 400 PGRST100: the query string can't be read.
    pub(crate) fn query(message: impl Into<String>, details: impl Into<String>) -> Self {
        Self::new(Code::QueryParamError, message).with_details(details.into())
    }

    /// 400 PGRST102: the body can't be read.
    pub(crate) fn body(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidBody, message)
    }

    /// 416 PGRST103: the range asks for what can't be.
    pub(crate) fn range(details: impl Into<String>) -> Self {
        Self::new(Code::InvalidRange, "Requested range not satisfiable").with_details(details.into())
    }

    /// 405 with the methods that would do.
    pub(crate) fn method(code: Code, message: String, allow: &'static str) -> Self {
        Self::new(code, message).with_header(ALLOW, HeaderValue::from_static(allow))
    }

    /// 500 MBX500: what can only be a mistake of manybox.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
            .with_hint("this is a defect of manybox; please report it with the request that caused it")
    }

    /// Sets the details: a text, or for PGRST201 a list. None by default.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<Value>) -> Self {
        self.0.details = details.into();
        self
    }

    /// Sets the hint, a text: what to do about it. None by default.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Value>) -> Self {
        self.0.hint = hint.into();
        self
    }

    /// Replaces the message.
    #[must_use]
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// Sets what the response's JSON has. What is logged stays whole.
    #[must_use]
    pub(crate) fn with_verbosity(mut self, verbosity: Verbosity) -> Self {
        self.0.verbosity = verbosity;
        self
    }

    /// Sets what the log says of it and the answer doesn't.
    #[must_use]
    pub(crate) fn with_cause(mut self, cause: impl fmt::Display) -> Self {
        self.0.cause = Some(cause.to_string());
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
        self.0.code.status()
    }

    /// Why the request was refused.
    pub fn code(&self) -> &Code {
        &self.0.code
    }

    /// Whether the schema lacks what the request names.
    pub(crate) fn is_missing_from_schema(&self) -> bool {
        matches!(self.code(), Code::NoRelBetween | Code::NoRpc | Code::ColumnNotFound | Code::TableNotFound)
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The response: JSON that has all four keys, as PostgREST's clients expect, unless a tenant wants less. A 401 has a challenge and a 503
    /// a `Retry-After`, also where the error brings none. The [`Code`] and the [`Cause`] are among the response's extensions,
    /// for whoever counts refusals and logs them.
    pub fn into_response(self) -> Response<Bytes> {
        let Inner { code, message, details, hint, verbosity, headers: own, cause } = *self.0;
        let text = code.as_str();
        let body = match verbosity {
            Verbosity::Verbose => {
                json!({ "code": text, "details": details, "hint": hint, "message": message })
            }
            Verbosity::Minimal => json!({ "code": text, "message": message }),
        };
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = code.status();
        if may_have_content(code.status()) {
            *response.body_mut() = Bytes::from(body.to_string());
            let kind = HeaderValue::from_static("application/json; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        let headers = response.headers_mut();
        // RFC 9209, as PostgREST sends it: the code for those who can't read a body, of a HEAD for instance.
        if let Ok(value) = HeaderValue::from_str(&format!("PostgREST; error={text}")) {
            headers.insert("proxy-status", value);
        }
        for (name, value) in own {
            headers.append(name, value);
        }
        match code.status() {
            StatusCode::UNAUTHORIZED => {
                headers.entry(WWW_AUTHENTICATE).or_insert(HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.entry(RETRY_AFTER).or_insert(HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response.extensions_mut().insert(code);
        if let Some(cause) = cause {
            response.extensions_mut().insert(Cause(cause));
        }
        response
    }
}

impl From<pool::Error> for Error {
    /// Which server, and what it said, is the operator's business and in the log; so are routers' addresses.
    fn from(error: pool::Error) -> Self {
        let no_connection = "No database connection became free in time";
        let (code, message, hint) = match &error {
            pool::Error::Wait { wait: Wait::Tenant, .. } => (
                Code::TenantConnectionsBusy,
                no_connection,
                "too many requests of this tenant run at once; try again",
            ),
            pool::Error::Wait { wait: Wait::Budget, .. } => {
                (Code::BudgetBusy, no_connection, "too many tenants are busy at once; try again")
            }
            pool::Error::Wait { wait: Wait::Connect, .. } => (
                Code::ConnectTooSlow,
                no_connection,
                "its database server is slow to open connections; try again",
            ),
            pool::Error::Wait { wait: Wait::Full, .. } => {
                (Code::ServerFull, no_connection, "its database server has no connections left; try again")
            }
            pool::Error::Queue { .. } => (
                Code::QueueFull,
                "Too many requests of this tenant wait for a database connection",
                "send fewer at once; try again",
            ),
            pool::Error::Fenced { .. } => (
                Code::LoginRefused,
                "The tenant's database does not accept its login",
                "the tenant was suspended or moved a moment ago",
            ),
            pool::Error::Connect(source) if matches!(**source, pg::Error::UnknownServer { .. }) => (
                Code::ServerNotInSettings,
                "The database is not available",
                "the settings of the router lack its database server",
            ),
            pool::Error::Connect(source) if source.is_failed_login() => (
                Code::LoginRefused,
                "The router can't log in to the tenant's database",
                "whoever runs the service must look at its login: the log says what is amiss",
            ),
            pool::Error::WrongKey { .. } => (
                Code::WrongMasterKey,
                "The router can't log in to the tenant's database",
                "the router lacks a key; whoever runs the service must give it the right one",
            ),
            pool::Error::Server { .. } | pool::Error::Connect(_) => (
                Code::ServerUnreachable,
                "The database is not available",
                "its database server can't be reached now; try again",
            ),
        };
        let wait = if matches!(code, Code::LoginRefused | Code::WrongMasterKey) { "5" } else { "1" };
        let holders = match &error {
            pool::Error::Wait { lease: Some(lease), .. } => Value::String(lease.told()),
            _ => Value::Null,
        };
        Self::new(code, message)
            .with_cause(&error)
            .with_details(holders)
            .with_hint(hint)
            .with_header(RETRY_AFTER, HeaderValue::from_static(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_says_when_to_try_again_and_how_to_sign_in() {
        let header = |error: Error, name| error.into_response().headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header(Error::new(Code::RouterNotReady, "x"), RETRY_AFTER), "1");
        let later =
            Error::new(Code::LoginRefused, "x").with_header(RETRY_AFTER, HeaderValue::from_static("5"));
        assert_eq!(header(later, RETRY_AFTER), "5");
        assert_eq!(header(Error::new(Code::JwtTokenRequired, "x"), WWW_AUTHENTICATE), "Bearer");
    }
}
