//! `order=`, and the range of rows: `limit=`, `offset=` and the `Range` header.

use http::HeaderMap;
use http::header::RANGE;

use super::super::error::Error;
use super::select::Field;
use super::split;

/// One term of `order=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    /// What is ordered by.
    pub(crate) field: Field,
    /// `ASC`, `DESC` or nothing.
    pub(crate) direction: &'static str,
    /// `NULLS FIRST`, `NULLS LAST` or nothing.
    pub(crate) nulls: &'static str,
}

impl Term {
    /// Reads the whole parameter.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Self>, Error> {
        let bad = |details: &str| Error::query(format!("failed to parse order ({text})"), details);
        let mut terms = Vec::new();
        for term in split(text, ",").map_err(|reason| bad(&reason))? {
            let mut parts = split(term.trim(), ".").map_err(|reason| bad(&reason))?.into_iter();
            let field = Field::parse(parts.next().unwrap_or_default())?;
            let (mut direction, mut nulls) = ("", "");
            for part in parts {
                match part {
                    "asc" if direction.is_empty() && nulls.is_empty() => direction = " ASC",
                    "desc" if direction.is_empty() && nulls.is_empty() => direction = " DESC",
                    "nullsfirst" if nulls.is_empty() => nulls = " NULLS FIRST",
                    "nullslast" if nulls.is_empty() => nulls = " NULLS LAST",
                    _ => return Err(bad("expected column[.asc|.desc][.nullsfirst|.nullslast]")),
                }
            }
            terms.push(Self { field, direction, nulls });
        }
        Ok(terms)
    }
}

/// Which rows of the whole result are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Rows to skip.
    pub(crate) offset: i64,
    /// Most rows to give; `None` for all.
    pub(crate) limit: Option<i64>,
}

impl Rows {
    /// Reads `limit=` and `offset=`.
    pub(crate) fn parse(limit: Option<&str>, offset: Option<&str>) -> Result<Self, Error> {
        let number = |name: &str, text: Option<&str>| match text {
            None => Ok(None),
            Some(text) => match text.parse::<i64>() {
                Ok(number) if number >= 0 => Ok(Some(number)),
                Ok(_) => Err(Error::range(format!("{name} should be greater than or equal to zero."))),
                Err(_) => Err(Error::query(format!("failed to parse {name} ({text})"), "expected a number")),
            },
        };
        Ok(Self { offset: number("Offset", offset)?.unwrap_or(0), limit: number("Limit", limit)? })
    }

    /// Narrows to the `Range` header: `0-9`, `5-`, in rows. Another unit or form is ignored (RFC 9110, 14.2).
    pub(crate) fn within(self, headers: &HeaderMap) -> Result<Self, Error> {
        let Some(range) = headers.get(RANGE).and_then(|v| v.to_str().ok()) else { return Ok(self) };
        let range = range.strip_prefix("items=").unwrap_or(range);
        let Some((first, last)) = range.split_once('-') else { return Ok(self) };
        let Ok(first) = first.parse::<i64>() else { return Ok(self) };
        let last = match last {
            "" => None,
            digits => match digits.parse::<i64>() {
                Ok(last) => Some(last),
                Err(_) => return Ok(self),
            },
        };
        if last.is_some_and(|last| last < first) {
            let details =
                "The lower boundary must be lower than or equal to the upper boundary in the Range header.";
            return Err(Error::range(details));
        }
        let end = |offset: i64, limit: Option<i64>| limit.map(|limit| offset.saturating_add(limit));
        let ends = [end(self.offset, self.limit), last.map(|last| last.saturating_add(1))];
        let offset = self.offset.max(first);
        let limit = ends.into_iter().flatten().min().map(|end| end.saturating_sub(offset).max(0));
        Ok(Self { offset, limit })
    }

    /// At most `max` rows.
    pub(crate) fn at_most(self, max: Option<u64>) -> Self {
        let max = max.map(|max| i64::try_from(max).unwrap_or(i64::MAX));
        Self { limit: self.limit.into_iter().chain(max).min(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(limit: Option<&str>, offset: Option<&str>, range: &str) -> Result<(i64, Option<i64>), String> {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, range.parse().unwrap());
        let rows = Rows::parse(limit, offset).and_then(|rows| rows.within(&headers));
        rows.map(|r| (r.offset, r.limit)).map_err(|e| e.code().to_owned())
    }

    #[test]
    fn ranges_narrow() {
        assert_eq!(rows(None, None, "0-9"), Ok((0, Some(10))));
        assert_eq!(rows(None, None, "5-"), Ok((5, None)));
        assert_eq!(rows(Some("3"), Some("2"), "4-100"), Ok((4, Some(1))));
        assert_eq!(rows(Some("3"), None, "bytes"), Ok((0, Some(3))));
        assert_eq!(rows(None, None, "9-0"), Err("PGRST103".into()));
        assert_eq!(rows(Some("-1"), None, "0-"), Err("PGRST103".into()));
        assert_eq!(rows(Some("x"), None, "0-"), Err("PGRST100".into()));
        assert_eq!(rows(Some("9223372036854775807"), Some("9"), "8-"), Ok((9, Some(i64::MAX - 9))));
    }
}
