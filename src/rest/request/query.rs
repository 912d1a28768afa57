//! The query string: select, filters, order, ranges and arguments.

use std::borrow::Cow;
use std::collections::BTreeSet;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::super::error::Error;
use super::filter::{self, AtPath, Compare, Filter, Parameter};
use super::grammar::{char, lexeme, list, name, path, read};
use super::order::{self, Term};
use super::range::Rows;
use super::select::{self, Item};

/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The query string.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Query {
    /// `select=`; `*` where there is none.
    pub(crate) select: Vec<Item>,
    /// Filters.
    pub(crate) filters: Vec<AtPath<Compare>>,
    /// `and=`, `or=`
    pub(crate) logic: Vec<AtPath<Filter>>,
    /// `order=`
    pub(crate) order: Vec<AtPath<Vec<Term>>>,
    /// `limit=` and `offset=` of the top level.
    pub(crate) rows: Rows,
    /// `limit=` and `offset=` of embeds.
    pub(crate) ranges: Vec<AtPath<Rows>>,
    /// `columns=`: the keys of the payload that are used.
    pub(crate) columns: Option<BTreeSet<String>>,
    /// `on_conflict=`
    pub(crate) on_conflict: Option<Vec<String>>,
    /// Arguments of a function that is called by GET.
    pub(crate) arguments: Vec<(String, String)>,
    /// The keys of filters, as the caller wrote them.
    pub(crate) filtered: BTreeSet<String>,
    /// The whole query string, sorted by key.
    pub(crate) canonical: String,
}

impl Query {
    /// Reads a query string. `call`: a function is called by GET, so a value that is no filter is an argument.
    pub(super) fn parse(text: &str, call: bool) -> Result<Self, Error> {
        let pairs = pairs(text)?;
        let mut query = Self { canonical: canonical(&pairs), ..Self::default() };
        let with_value = || pairs.iter().filter_map(|(key, value)| Some((&**key, value.as_deref()?)));
        let first = |name: &str| with_value().find(|(key, _)| *key == name).map(|(_, value)| value);
        query.select = match first("select") {
            Some(text) => select::select(text)?,
            None => select::star(),
        };
        let names = |what: &str, text: &str| -> Result<Vec<String>, Error> {
            read(what, text, list(1, name, lexeme(char(','))))
        };
        let columns = first("columns").map(|text| names("columns parameter", text)).transpose()?;
        query.columns = columns.map(|names| names.into_iter().collect());
        query.on_conflict =
            first("on_conflict").map(|text| names("on_conflict parameter", text)).transpose()?;
        let mut ranges: Vec<(&str, Option<&str>, Option<&str>)> = Vec::new();
        for (key, value) in with_value() {
            let (before, last) = key.rsplit_once('.').unwrap_or(("", key));
            match last {
                "limit" | "offset" => {
                    let at = match ranges.iter().position(|(name, ..)| *name == before) {
                        Some(at) => at,
                        None => {
                            refuse_many(ranges.len(), "limits")?;
                            ranges.push((before, None, None));
                            ranges.len() - 1
                        }
                    };
                    let (_, limit, offset) = &mut ranges[at];
                    *(if last == "limit" { limit } else { offset }) = Some(value);
                }
                "order" => {
                    let order = order::order(key, value)?;
                    // Of several for one level the first is taken.
                    if !query.order.iter().any(|(path, _)| *path == order.0) {
                        refuse_many(query.order.len(), "orders")?;
                        query.order.push(order);
                    }
                }
                "and" | "or" => query.logic.push(filter::logic(key, value)?),
                _ if matches!(key, "select" | "columns" | "on_conflict") => {}
                _ => {
                    query.filtered.insert(key.to_owned());
                    match filter::parameter(key, value, call)? {
                        Parameter::Filter(filter) => query.filters.push(filter),
                        Parameter::Argument(name) => query.arguments.push((name, value.to_owned())),
                    }
                }
            }
        }
        for (level, limit, offset) in ranges {
            let rows = Rows::parse(limit, offset);
            if level.is_empty() {
                query.rows = rows;
            } else {
                query.ranges.push((read("tree path", level, path)?, rows));
            }
        }
        Ok(query)
    }
}

/// Refuses one more of what there is once for each level: each is compared with those before it.
fn refuse_many(present: usize, what: &str) -> Result<(), Error> {
    let most = select::MAX_EMBEDS + 1;
    if present < most {
        return Ok(());
    }
    let details = format!("it has {what} for more than {most} levels");
    Err(Error::query("\"failed to parse query string\"", details))
}

/// A key, and its value if it has one.
type Pair<'a> = (Cow<'a, str>, Option<Cow<'a, str>>);

/// Keys and values; a key without `=` has no value. Bytes that are not UTF-8 are refused: the replacement character of
/// a lossy conversion would match values that hold it.
fn pairs(text: &str) -> Result<Vec<Pair<'_>>, Error> {
    fn decode(text: &str) -> Result<Cow<'_, str>, Error> {
        let refused = |_| {
            let message = format!("\"failed to parse query string ({})\"", text.replace('+', " "));
            Error::query(message, "percent-encoded bytes that are not UTF-8")
        };
        if text.contains('+') {
            let spaced = text.replace('+', " ");
            let decoded = percent_decode_str(&spaced).decode_utf8().map_err(refused)?;
            return Ok(Cow::Owned(decoded.into_owned()));
        }
        percent_decode_str(text).decode_utf8().map_err(refused)
    }
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((decode(key)?, Some(decode(value)?))),
            None => Ok((decode(pair)?, None)),
        })
        .collect()
}

fn canonical(pairs: &[Pair<'_>]) -> String {
    let mut sorted: Vec<_> = pairs.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut canonical = String::new();
    for (key, value) in sorted {
        canonical.push_str(if canonical.is_empty() { "" } else { "&" });
        canonical.extend(utf8_percent_encode(key, RESERVED));
        canonical.push('=');
        canonical.extend(utf8_percent_encode(value.as_deref().unwrap_or_default(), RESERVED));
    }
    canonical
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::Code;

    #[test]
    fn every_parameter_finds_its_place() {
        let query = Query::parse(
            "select=a,b(c)&b.limit=3&limit=2&b.order=c&order=a.desc&a=eq.1&b.c=gt.2&b.or=(c.eq.1)&x&on_conflict=a",
            false,
        )
        .unwrap();
        assert_eq!((query.select.len(), query.rows.limit, query.ranges[0].1.limit), (2, Some(2), Some(3)));
        assert_eq!((query.filters.len(), query.filters[1].0.clone()), (2, vec!["b".to_owned()]));
        assert_eq!((query.logic.len(), query.order.len()), (1, 2));
        assert_eq!(Query::parse("b=eq.%20&a", false).unwrap().canonical, "a=&b=eq.%20");
        let call = Query::parse("a=1&b=eq.2&a=3", true).unwrap();
        assert_eq!((call.arguments.len(), call.filters.len()), (2, 1));
    }

    #[test]
    fn nothing_is_taken_for_less_than_it_is() {
        let code = |query: &str| Query::parse(query, false).map_err(|error| error.code().clone());
        for wrong in [
            "select=id,",
            "select=id,,a",
            "select=a::int[]",
            "select=a::numeric(1,2)",
            "select=a.foo()",
            "select=a.sum",
            "select=count(id)",
            "select=b:",
            "select=a->",
            "select=\"a",
            "select=a(b,)",
            "order=a,",
            "order=a.up",
            "columns=a,",
            "on_conflict=a,",
            "or=(a.eq.1,)",
            "and=(a.eq.1,b)",
            "a=eq.%ff",
            "%ff=eq.1",
        ] {
            assert_eq!(code(wrong).map(|_| ()), Err(Code::QueryParamError), "{wrong}");
        }
        for right in ["select=", "select=a(*),b", "select=*,c:count()", "or=(a.eq.,b.eq.1)", "a=in.(1,)"] {
            assert!(code(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let code = |query: String| Query::parse(&query, false).map_err(|error| error.code().clone());
        for (most, text) in [(select::MAX_ITEMS, "a"), (select::MAX_EMBEDS, "a(b)")] {
            assert!(
                code(format!("select={}", vec![text; most / (1 + text.len() / 4)].join(","))).is_ok(),
                "{text}"
            );
            assert_eq!(
                code(format!("select={}", vec![text; most + 1].join(","))).map(|_| ()),
                Err(Code::QueryParamError)
            );
        }
        for kind in ["limit=1", "offset=1", "order=a"] {
            let levels = |count: usize| {
                (0..count).map(|level| format!("e{level}.{kind}")).collect::<Vec<_>>().join("&")
            };
            assert!(code(levels(select::MAX_EMBEDS + 1)).is_ok(), "{kind}");
            assert_eq!(
                code(levels(select::MAX_EMBEDS + 2)).map(|_| ()),
                Err(Code::QueryParamError),
                "{kind}"
            );
        }
        assert!(code(format!("select=a{}", "->b".repeat(100))).is_ok());
        assert_eq!(code(format!("select=a{}", "->b".repeat(101))).map(|_| ()), Err(Code::QueryParamError));
        assert_eq!(code(format!("a{}=eq.1", "->b".repeat(101))).map(|_| ()), Err(Code::QueryParamError));
    }

    #[test]
    fn errors_are_worded_as_postgrest_does() {
        let error = |query: &str| Query::parse(query, false).unwrap_err().to_string();
        insta::assert_snapshot!(error("columns="), @r#""failed to parse columns parameter ()" (line 1, column 1) (PGRST100); unexpected end of input expecting field name (* or [a..z0..9_$])"#);
        insta::assert_snapshot!(error("select=data->(!@%23$%25^%26*_d->>!@%23$%25^%26*_e::integer"), @r#""failed to parse select parameter (data->(!@#$%^&*_d->>!@#$%^&*_e::integer)" (line 1, column 7) (PGRST100); unexpected "(" expecting "-", digit or any non reserved character different from: .,>()"#);
        insta::assert_snapshot!(error("select=data->>--34"), @r#""failed to parse select parameter (data->>--34)" (line 1, column 9) (PGRST100); unexpected "-" expecting digit"#);
    }
}
