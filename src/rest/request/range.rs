//! Limit and offset: by `limit`, `offset` and the `Range` header.

use http::header::RANGE;
use http::{HeaderMap, Method};

use super::super::error::Error;

/// LIMIT and OFFSET.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rows {
    /// Rows that are skipped.
    pub(crate) offset: i64,
    /// Most rows.
    pub(crate) limit: Option<i64>,
}

impl Rows {
    /// Reads `limit` and `offset`. A value that is no number is ignored, and so is an offset below zero. A number that
    /// is too large becomes the largest.
    pub(super) fn parse(limit: Option<&str>, offset: Option<&str>) -> Self {
        let large = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = |text: Option<&str>| {
            let text = text?.trim();
            text.parse().ok().or_else(|| large(text).then_some(i64::MAX))
        };
        Self { offset: number(offset).unwrap_or(0).max(0), limit: number(limit) }
    }

    /// With the `Range` header, which only GET has (RFC 9110, 14.2). The smaller part wins.
    pub(super) fn with_range_header(self, method: &Method, headers: &HeaderMap) -> Result<Self, Error> {
        if self.limit.is_some_and(|limit| limit < 0) {
            return Err(Error::range("Limit should be greater than or equal to zero."));
        }
        if self.limit == Some(0) {
            return Ok(Self { offset: 0, limit: Some(0) });
        }
        let text = headers.get(RANGE).filter(|_| *method == Method::GET).and_then(|v| v.to_str().ok());
        let Some((first, last)) = text.and_then(boundaries) else { return Ok(self) };
        if last.is_some_and(|last| last < first) {
            let details =
                "The lower boundary must be lower than or equal to the upper boundary in the Range header.";
            return Err(Error::range(details));
        }
        let offset = first.max(self.offset);
        let end = |last: i64| last.saturating_add(1);
        let ends = [last.map(end), self.limit.map(|limit| self.offset.saturating_add(limit))];
        let limit = ends.into_iter().flatten().min().map(|end| end.saturating_sub(offset));
        if limit.is_some_and(|limit| limit < 0) {
            return Err(Error::range("Limit should be greater than or equal to zero."));
        }
        Ok(Self { offset, limit })
    }

    /// With a limit of `most` at most.
    pub(crate) fn at_most(self, most: Option<u64>) -> Self {
        let most = most.map(|most| i64::try_from(most).unwrap_or(i64::MAX));
        Self { limit: self.limit.into_iter().chain(most).min(), ..self }
    }
}

/// Reads `0-9` and `10-`; other forms are ignored.
fn boundaries(text: &str) -> Option<(i64, Option<i64>)> {
    let (first, last) = text.split_once('-')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
    let last = if last.is_empty() { None } else { Some(number(last)?) };
    Some((number(first)?, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::Code;

    fn rows(limit: &str, offset: &str, range: &str) -> Result<(i64, Option<i64>), Code> {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, range.parse().unwrap());
        let some = |text: &'static str| Some(text).filter(|t| !t.is_empty());
        let (limit, offset) = (limit.to_owned().leak(), offset.to_owned().leak());
        let rows = Rows::parse(some(limit), some(offset)).with_range_header(&Method::GET, &headers);
        rows.map(|r| (r.offset, r.limit)).map_err(|e| e.code().clone())
    }

    #[test]
    fn the_smallest_part_wins() {
        assert_eq!(rows("", "", ""), Ok((0, None)));
        assert_eq!(rows("2", "1", ""), Ok((1, Some(2))));
        assert_eq!(rows("", "", "1-2"), Ok((1, Some(2))));
        assert_eq!(rows("", "", "1-"), Ok((1, None)));
        assert_eq!(rows("2", "", "1-9"), Ok((1, Some(1))));
        assert_eq!(rows("0", "5", "1-9"), Ok((0, Some(0))));
        assert_eq!(rows("x", "y", "z"), Ok((0, None)));
        assert_eq!(rows("", "99999999999999999999", ""), Ok((i64::MAX, None)));
        assert_eq!(rows("", "-4", ""), Ok((0, None)));
        assert_eq!(rows("", "", "1-0"), Err(Code::InvalidRange));
        assert_eq!(rows("-1", "", ""), Err(Code::InvalidRange));
    }
}
