//! Errors of routing as HTTP, in the shape of the REST API's.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

use crate::directory::Refusal;
use crate::rest;

/// Why a request was answered before it reached a tenant's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Error {
    Ambiguous(&'static str),
    Unknown,
    Suspended,
    NotReady,
    TooLarge(usize),
    BodyLost,
    Timeout,
    Panic,
    /// The tenant's requests a second are used up for so long.
    TooMany(Duration),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Ambiguous(why) => Self::Ambiguous(why),
            Refusal::Unknown => Self::Unknown,
        }
    }
}

impl Error {
    pub(super) fn into_response(self) -> Response<Body> {
        let (status, code, message, hint) = match self {
            Self::Ambiguous(why) => (
                StatusCode::BAD_REQUEST,
                "MBX101",
                format!("The request's URL is ambiguous: {why}"),
                "Send one Host header and a path without encoded separators",
            ),
            // The same words whether there never was such a tenant, or it is retired, purged or being made.
            Self::Unknown => (
                StatusCode::NOT_FOUND,
                "MBX102",
                "There is nothing at this base URL".into(),
                "Check host and path prefix",
            ),
            Self::Suspended => (
                StatusCode::FORBIDDEN,
                "MBX103",
                "This tenant is suspended".into(),
                "Ask whoever runs the service; nothing has been lost",
            ),
            Self::NotReady => (
                StatusCode::SERVICE_UNAVAILABLE,
                "MBX104",
                "The router has not read its catalog yet".into(),
                "Try again in a second",
            ),
            Self::TooLarge(most) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "MBX105",
                format!("The request's body is larger than {most} bytes"),
                "Send it in smaller parts",
            ),
            Self::BodyLost => (
                StatusCode::BAD_REQUEST,
                "MBX106",
                "The request's body ended before its announced end".into(),
                "Send the request again",
            ),
            Self::Timeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "MBX107",
                "The request took longer than this tenant's request timeout".into(),
                "Ask for less at once",
            ),
            Self::Panic => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "MBX108",
                "The router failed on this request".into(),
                "Report it with the x-request-id of this answer",
            ),
            Self::TooMany(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "MBX109",
                "Too many requests of this tenant in this second".into(),
                "Send fewer, or ask for a higher tier",
            ),
        };
        let wait = match self {
            Self::TooMany(wait) => Some(wait.as_secs() + 1),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => Some(1),
            _ => None,
        };
        let mut response = rest::Error::new(status, code, message, None, Some(hint.to_owned()))
            .into_response()
            .map(Body::from);
        if let Some(wait) = wait {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
        }
        response
    }
}
