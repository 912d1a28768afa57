//! The `Prefer` header (RFC 7240).

use http::HeaderMap;

/// What the answer to a change has of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Return {
    /// `return=representation`
    Representation,
    /// `return=minimal`
    Minimal,
    /// `return=headers-only`
    HeadersOnly,
}

/// What an INSERT does with a row whose key exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// `resolution=merge-duplicates`
    Merge,
    /// `resolution=ignore-duplicates`
    Ignore,
}

/// How rows are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// `count=exact`: all of them.
    Exact,
    /// `count=planned`: the planner's estimate.
    Planned,
    /// `count=estimated`: exact up to `max_rows`, above it the estimate.
    Estimated,
}

/// The known preferences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    /// `return=…`
    pub(crate) returns: Option<Return>,
    /// `count=…`
    pub(crate) count: Option<Count>,
    /// `resolution=…`
    pub(crate) resolution: Option<Resolution>,
    /// `missing=default` (true), or `missing=null`
    pub(crate) missing_default: Option<bool>,
    /// `tx=rollback` (true), or `tx=commit`
    pub(crate) rollback: Option<bool>,
    /// `handling=strict` (true), or `handling=lenient`
    pub(crate) strict: Option<bool>,
    /// `timezone=…`; PostgreSQL knows whether there is such a zone.
    pub(crate) timezone: Option<String>,
    /// `max-affected=n`; counts with `handling=strict` only.
    pub(crate) max_affected: Option<i64>,
    /// The unknown ones in their order.
    pub(crate) unknown: Vec<String>,
}

impl Prefer {
    /// Reads all `Prefer` headers; of two that exclude each other the first counts.
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        fn first<T>(place: &mut Option<T>, value: T) {
            place.get_or_insert(value);
        }
        let mut prefer = Self::default();
        let texts = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        for token in texts.flat_map(|text| text.split(',')).map(str::trim) {
            let (name, value) = token.split_once('=').unwrap_or((token, ""));
            match (name, value) {
                ("return", "representation") => first(&mut prefer.returns, Return::Representation),
                ("return", "minimal") => first(&mut prefer.returns, Return::Minimal),
                ("return", "headers-only") => first(&mut prefer.returns, Return::HeadersOnly),
                ("count", "exact") => first(&mut prefer.count, Count::Exact),
                ("count", "planned") => first(&mut prefer.count, Count::Planned),
                ("count", "estimated") => first(&mut prefer.count, Count::Estimated),
                ("resolution", "merge-duplicates") => first(&mut prefer.resolution, Resolution::Merge),
                ("resolution", "ignore-duplicates") => first(&mut prefer.resolution, Resolution::Ignore),
                ("missing", "default") => first(&mut prefer.missing_default, true),
                ("missing", "null") => first(&mut prefer.missing_default, false),
                ("tx", "rollback") => first(&mut prefer.rollback, true),
                ("tx", "commit") => first(&mut prefer.rollback, false),
                ("handling", "strict") => first(&mut prefer.strict, true),
                ("handling", "lenient") => first(&mut prefer.strict, false),
                ("max-affected", number) => {
                    if let Ok(most) = number.parse() {
                        first(&mut prefer.max_affected, most);
                    }
                }
                ("timezone", zone) => first(&mut prefer.timezone, zone.to_owned()),
                ("", _) => {}
                _ => prefer.unknown.push(token.to_owned()),
            }
        }
        prefer
    }

    /// `return=representation`: the answer has the changed rows.
    pub(crate) fn wants_rows(&self) -> bool {
        self.returns == Some(Return::Representation)
    }

    /// The most rows that may be changed.
    pub(crate) fn at_most(&self) -> Option<i64> {
        self.max_affected.filter(|_| self.strict == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_counts() {
        let mut headers = HeaderMap::new();
        headers.append("prefer", "return=minimal, count=exact,nonsense, timezone=UTC".parse().unwrap());
        headers.append("prefer", "return=representation , max-affected=3, handling=strict".parse().unwrap());
        let prefer = Prefer::parse(&headers);
        assert_eq!((prefer.returns, prefer.count), (Some(Return::Minimal), Some(Count::Exact)));
        assert_eq!(prefer.unknown, ["nonsense"]);
        assert_eq!(prefer.at_most(), Some(3));
    }
}
