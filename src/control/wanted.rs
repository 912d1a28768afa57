//! `Wanted`: what a request wants of its answer: when, and only if what the client knows of a thing still holds.

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName};
use ring::digest::{SHA256, digest};

use super::{Problem, ProblemCode};
use crate::catalog::TenantRow;

static PREFER: HeaderName = HeaderName::from_static("prefer");

/// What a request wants of its answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// A job at once, instead of what comes of it.
    pub(super) job: bool,
    if_match: Option<String>,
    if_none_match: Option<String>,
}

impl Wanted {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let prefers = headers.get_all(&PREFER).iter().filter_map(|value| value.to_str().ok());
        Self {
            job: prefers.flat_map(|value| value.split(',')).any(|one| one.trim() == "respond-async"),
            if_match: text(&IF_MATCH).map(str::to_owned),
            if_none_match: text(&IF_NONE_MATCH).map(str::to_owned),
        }
    }

    /// Refuses a change of what is no longer as the client knows it.
    pub(super) fn check(&self, row: &TenantRow) -> Result<(), Problem> {
        match &self.if_match {
            Some(known) if !names(known, &etag(row)) => {
                let detail =
                    format!("tenant `{}` was changed since it was read; read it again", row.record.slug);
                Err(Problem::new(ProblemCode::Changed, detail))
            }
            _ => Ok(()),
        }
    }

    /// Whether the client has the tenant as it is.
    pub(super) fn knows(&self, row: &TenantRow) -> bool {
        self.if_none_match.as_ref().is_some_and(|known| names(known, &etag(row)))
    }
}

/// Whether a list of tags has this one.
fn names(list: &str, tag: &str) -> bool {
    list.trim() == "*" || list.split(',').any(|one| one.trim() == tag)
}

/// What a tenant is like, in a few characters.
pub(super) fn etag(row: &TenantRow) -> String {
    // It always has a form; without one, no two would be the same.
    let form = serde_json::to_vec(row).unwrap_or_default();
    let tag: String =
        digest(&SHA256, &form).as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{tag}\"")
}
