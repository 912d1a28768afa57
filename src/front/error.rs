//! Refusals of the router itself, in the shape of the REST API's errors.

use std::time::Duration;

use axum::body::Body;
use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderValue, Response, Version};

use crate::directory::Refusal;
use crate::rest::{self, Code};

/// Why the router answered a request itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RouterError {
    AmbiguousUrl(&'static str),
    UnknownBaseUrl,
    TenantSuspended,
    /// The tenant's version is not one that is served.
    VersionRefused,
    NotReady,
    /// A newer manybox made the catalog, and this one can't read it.
    CatalogTooNew,
    RequestTimeout,
    Panic,
    /// The tenant's clients have all the connections that they may have; by which version this one was made.
    TooManyClients(Version),
    /// The tenant's requests a second are used up for so long.
    RateLimited(Duration),
}

impl From<Refusal> for RouterError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Ambiguous(why) => Self::AmbiguousUrl(why),
            Refusal::Unknown => Self::UnknownBaseUrl,
            Refusal::NotYet => Self::NotReady,
        }
    }
}

impl RouterError {
    pub(super) fn into_response(self) -> Response<Body> {
        let (code, message, hint) = match self {
            Self::AmbiguousUrl(why) => (
                Code::AmbiguousUrl,
                format!("The request's URL is ambiguous: {why}"),
                "Send one Host header and a path without encoded separators",
            ),
            // The same words whether there never was such a tenant, or it is retired, purged or being made.
            Self::UnknownBaseUrl => (
                Code::UnknownBaseUrl,
                "There is nothing at this base URL".into(),
                "Check host and path prefix",
            ),
            Self::TenantSuspended => (
                Code::TenantSuspended,
                "This tenant is suspended".into(),
                "Ask whoever runs the service; nothing has been lost",
            ),
            Self::VersionRefused => (
                Code::SchemaVersionRefused,
                "The database of this tenant waits for its migration".into(),
                "Try again later; nothing has been lost",
            ),
            Self::CatalogTooNew => (
                Code::CatalogTooNew,
                "The router can't read its catalog".into(),
                "Try again later; nothing has been lost",
            ),
            Self::NotReady => (
                Code::RouterNotReady,
                "The router has not read its catalog yet".into(),
                "Try again in a second",
            ),
            Self::RequestTimeout => (
                Code::RequestTimeout,
                "The request took longer than this tenant's request timeout".into(),
                "Ask for less at once",
            ),
            Self::Panic => (
                Code::RouterPanic,
                "The router failed on this request".into(),
                "Report it with the x-request-id of this answer",
            ),
            Self::TooManyClients(_) => (
                Code::TooManyClients,
                "Too many clients of this tenant are connected".into(),
                "Keep fewer connections, and send several requests over each",
            ),
            Self::RateLimited(_) => (
                Code::RateLimited,
                "Too many requests of this tenant in this second".into(),
                "Send fewer, or ask for a higher tier",
            ),
        };
        let mut error = rest::Error::new(code, message).with_hint(hint);
        if self == Self::VersionRefused {
            error = error.with_header(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if let Self::RateLimited(wait) = self {
            error = error.with_header(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
        }
        if let Self::TooManyClients(Version::HTTP_10 | Version::HTTP_11) = self {
            error = error.with_header(CONNECTION, HeaderValue::from_static("close"));
        }
        error.into_response().map(Body::from)
    }
}
