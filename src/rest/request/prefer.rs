//! `Prefer` (RFC 7240): what the caller would like, and which of it was applied.

use http::{HeaderMap, StatusCode};

use super::super::error::Error;

/// How much of a changed row comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Return {
    /// `return=representation`
    Representation,
    /// `return=minimal`
    Minimal,
    /// `return=headers-only`
    HeadersOnly,
}

/// What an INSERT does with a row that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// `resolution=merge-duplicates`
    Merge,
    /// `resolution=ignore-duplicates`
    Ignore,
}

/// The preferences we know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    /// `return=…`
    pub(crate) returns: Option<Return>,
    /// `count=exact`
    pub(crate) count: bool,
    /// `resolution=…`
    pub(crate) resolution: Option<Resolution>,
    /// `max-affected=n`; counts with `handling=strict` only.
    pub(crate) max_affected: Option<i64>,
    /// `handling=strict`
    strict: bool,
}

impl Prefer {
    /// Reads all `Prefer` headers; of two that exclude each other the first counts.
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Self, Error> {
        let (mut prefer, mut unknown) = (Self::default(), Vec::new());
        let texts = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        for token in texts.flat_map(|text| text.split(',')).map(str::trim).filter(|t| !t.is_empty()) {
            match token {
                "return=representation" => prefer.returns = prefer.returns.or(Some(Return::Representation)),
                "return=minimal" => prefer.returns = prefer.returns.or(Some(Return::Minimal)),
                "return=headers-only" => prefer.returns = prefer.returns.or(Some(Return::HeadersOnly)),
                "count=exact" => prefer.count = true,
                "resolution=merge-duplicates" => {
                    prefer.resolution = prefer.resolution.or(Some(Resolution::Merge))
                }
                "resolution=ignore-duplicates" => {
                    prefer.resolution = prefer.resolution.or(Some(Resolution::Ignore));
                }
                "handling=strict" => prefer.strict = true,
                "missing=null" | "handling=lenient" | "tx=commit" => {}
                _ => match token.strip_prefix("max-affected=").map(str::parse) {
                    Some(Ok(most)) => prefer.max_affected = Some(most),
                    _ => unknown.push(token),
                },
            }
        }
        if prefer.strict && !unknown.is_empty() {
            let details = format!("Invalid preferences: {}", unknown.join(", "));
            let message = "Invalid preferences given with handling=strict";
            return Err(Error::new(StatusCode::BAD_REQUEST, "PGRST122", message, Some(details), None));
        }
        if !prefer.strict {
            prefer.max_affected = None;
        }
        Ok(prefer)
    }

    /// `Preference-Applied`; `None` when nothing was. `writes` for INSERT, UPDATE and DELETE, `inserts` for the
    /// first only.
    pub(crate) fn applied(&self, writes: bool, inserts: bool) -> Option<String> {
        let mut applied = Vec::new();
        match self.resolution {
            Some(Resolution::Merge) if inserts => applied.push("resolution=merge-duplicates".to_owned()),
            Some(Resolution::Ignore) if inserts => applied.push("resolution=ignore-duplicates".to_owned()),
            _ => {}
        }
        match self.returns {
            Some(Return::Representation) if writes => applied.push("return=representation".into()),
            Some(Return::Minimal) if writes => applied.push("return=minimal".into()),
            Some(Return::HeadersOnly) if writes => applied.push("return=headers-only".into()),
            _ => {}
        }
        if self.count {
            applied.push("count=exact".into());
        }
        if self.strict {
            applied.push("handling=strict".into());
        }
        if let Some(most) = self.max_affected.filter(|_| writes) {
            applied.push(format!("max-affected={most}"));
        }
        (!applied.is_empty()).then(|| applied.join(", "))
    }
}
