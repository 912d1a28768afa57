//! `Problem`: what went wrong with a request to the control service, as RFC 9457 has it, with manybox's codes.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio_postgres::error::SqlState;

use crate::catalog::CatalogError;
use crate::fleet::FleetError;
use crate::pg;
use crate::policy::Invalid;

/// What kind of problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemCode {
    /// Something that no caller could know went wrong; the log says what.
    Internal,
    /// There is no credential, or it does not hold.
    NotSignedIn,
    /// The caller's role or scope does not admit it.
    Forbidden,
    /// There is no such thing, or the caller may not see it.
    NotFound,
    /// The path knows other methods.
    MethodNotAllowed,
    /// The request can't be read.
    Unreadable,
    /// What it asks for is not possible: a value is wrong, or names what is not there.
    Invalid,
    /// The body is too long.
    TooLarge,
    /// The body is not JSON by its type.
    NotJson,
    /// A page of another site sent it, by the caller's cookie.
    CrossSite,
    /// The service is asked under a name that is not its own.
    UnknownHost,
    /// The thing is in a state in which this can't be done.
    WrongState,
    /// A name or a base URL is another tenant's.
    Taken,
    /// Others are at work on it: try again.
    Busy,
    /// It was changed since it was read.
    Changed,
    /// The key of another request.
    KeyReused,
    /// A server of tenants, or the catalog's, does not answer.
    ServerAway,
    /// Its files, its history or its schema hinder it.
    Files,
}

impl ProblemCode {
    /// Every code.
    pub const ALL: [Self; 18] = [
        Self::Internal,
        Self::NotSignedIn,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Unreadable,
        Self::Invalid,
        Self::TooLarge,
        Self::NotJson,
        Self::CrossSite,
        Self::UnknownHost,
        Self::WrongState,
        Self::Taken,
        Self::Busy,
        Self::Changed,
        Self::KeyReused,
        Self::ServerAway,
        Self::Files,
    ];

    /// Its name, status and title.
    pub const fn row(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::Internal => ("MBX600", S::INTERNAL_SERVER_ERROR, "something went wrong inside"),
            Self::NotSignedIn => ("MBX601", S::UNAUTHORIZED, "not signed in"),
            Self::Forbidden => ("MBX602", S::FORBIDDEN, "not for this caller"),
            Self::NotFound => ("MBX603", S::NOT_FOUND, "not there"),
            Self::MethodNotAllowed => ("MBX604", S::METHOD_NOT_ALLOWED, "not by this method"),
            Self::Unreadable => ("MBX605", S::BAD_REQUEST, "the request can't be read"),
            Self::Invalid => ("MBX606", S::UNPROCESSABLE_ENTITY, "not possible as asked for"),
            Self::TooLarge => ("MBX607", S::PAYLOAD_TOO_LARGE, "the body is too long"),
            Self::NotJson => ("MBX608", S::UNSUPPORTED_MEDIA_TYPE, "the body is not JSON"),
            Self::CrossSite => ("MBX609", S::FORBIDDEN, "sent by another site"),
            Self::UnknownHost => ("MBX610", S::MISDIRECTED_REQUEST, "not under this name"),
            Self::WrongState => ("MBX611", S::CONFLICT, "not in this state"),
            Self::Taken => ("MBX612", S::CONFLICT, "taken"),
            Self::Busy => ("MBX613", S::CONFLICT, "others are at work on it"),
            Self::Changed => ("MBX614", S::PRECONDITION_FAILED, "changed meanwhile"),
            Self::KeyReused => ("MBX615", S::UNPROCESSABLE_ENTITY, "the key of another request"),
            Self::ServerAway => ("MBX616", S::SERVICE_UNAVAILABLE, "a server does not answer"),
            Self::Files => ("MBX617", S::CONFLICT, "files or history hinder it"),
        }
    }
}

/// What went wrong with a request.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Its kind.
    pub code: ProblemCode,
    /// What exactly, where, and what to do next.
    pub detail: String,
}

/// A problem as it is sent.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// Its kind, as a name that is nobody else's.
    r#type: String,
    /// Its kind, in words.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// Its kind: `MBX601`.
    code: &'static str,
    /// What exactly, where, and what to do next.
    detail: String,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// There is nothing, or nothing that the caller may see.
    pub fn not_found(what: &str) -> Self {
        Self::new(ProblemCode::NotFound, format!("there is no {what}"))
    }

    /// As a job keeps it.
    pub(super) fn stored(&self) -> serde_json::Value {
        serde_json::json!({ "code": self.code.row().0, "detail": self.detail })
    }

    /// As a job kept it.
    pub(super) fn read(stored: &serde_json::Value) -> Self {
        let text = |key: &str| stored.get(key).and_then(|value| value.as_str()).unwrap_or_default();
        let code = ProblemCode::ALL.into_iter().find(|code| code.row().0 == text("code"));
        Self::new(code.unwrap_or(ProblemCode::Internal), text("detail"))
    }

    pub(super) fn body(&self) -> ProblemBody {
        let (code, status, title) = self.code.row();
        ProblemBody {
            r#type: format!("urn:manybox:problem:{code}"),
            title,
            status: status.as_u16(),
            code,
            detail: self.detail.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (code, status, _) = self.code.row();
        if self.code == ProblemCode::Internal {
            tracing::error!(code, error = self.detail, "a request to the control service failed");
        }
        let mut response = (status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.code {
            ProblemCode::NotSignedIn => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            ProblemCode::ServerAway | ProblemCode::Busy => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        // For the journal.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Invalid> for Problem {
    fn from(error: Invalid) -> Self {
        Self::new(ProblemCode::Invalid, error.0)
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        let code = match &error {
            CatalogError::Server(error) => of_server(error),
            CatalogError::Row(_) => ProblemCode::Internal,
            CatalogError::Outdated => ProblemCode::ServerAway,
        };
        Self::new(code, error.to_string())
    }
}

impl From<FleetError> for Problem {
    fn from(error: FleetError) -> Self {
        use FleetError as E;
        let code = match &error {
            E::Catalog(_) => {
                let E::Catalog(error) = error else { return Self::new(ProblemCode::Internal, "") };
                return error.into();
            }
            E::Server { source, .. } => of_server(source),
            E::Unknown(_) | E::UnknownNear { .. } => ProblemCode::NotFound,
            E::State { .. } | E::Kept { .. } | E::Adopted(..) => ProblemCode::WrongState,
            E::Settings(_) => ProblemCode::Invalid,
            E::Foreign { .. } => ProblemCode::Taken,
            E::Busy(_) | E::Interrupted(_) => ProblemCode::Busy,
            E::Migrate { .. }
            | E::Contradiction(_)
            | E::PerTenant { .. }
            | E::History { .. }
            | E::Schema { .. }
            | E::Fingerprint { .. }
            | E::Baseline { .. }
            | E::Squash(_)
            | E::Edition(_) => ProblemCode::Files,
            E::Secret(_) | E::Key(_) | E::File(_) => ProblemCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// What a server's refusal comes to.
fn of_server(error: &pg::Error) -> ProblemCode {
    match error.code() {
        Some(code) if *code == SqlState::UNIQUE_VIOLATION => ProblemCode::Taken,
        Some(code) if *code == SqlState::CHARACTER_NOT_IN_REPERTOIRE => ProblemCode::Invalid,
        code if pg::is_outage(code) => ProblemCode::ServerAway,
        _ => ProblemCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_code() {
        let page = include_str!("../../docs/control-api.md");
        for code in ProblemCode::ALL {
            let (name, status, title) = code.row();
            let row = format!("| {name} | {} | {title} |", status.as_u16());
            assert!(page.contains(&row), "docs/control-api.md lacks `{row}`");
        }
    }

    #[test]
    fn a_job_keeps_its_problem() {
        let problem = Problem::new(ProblemCode::Files, "V3__x.sql:7");
        let read = Problem::read(&problem.stored());
        assert_eq!((read.code, read.detail), (problem.code, problem.detail));
        assert_eq!(Problem::read(&serde_json::Value::Null).code, ProblemCode::Internal);
    }
}
