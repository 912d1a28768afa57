//! Stage 5: `Outcome` becomes status, headers and body.

mod applied;
mod chosen;
pub(super) mod openapi;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, LOCATION, VARY, WARNING};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::Error;
use super::execute::{Answered, Outcome};
use super::head::may_have_content;
use super::plan::tree::Read;
use super::plan::{Query, Source};
use super::request::media::Media;
use super::request::prefer::{Count, Resolution};
use super::request::{Action, Change, Request};
use super::root::BasePath;

/// Longest `Content-Location`, in bytes. A list in a URL takes three times its length when it is encoded, and proxies
/// and clients refuse answers with such a header.
const MAX_CONTENT_LOCATION: usize = 8 * 1024;

/// What an answer depends on besides its URL and its token, unless a function says otherwise.
const VARIES: &str = "Accept, Prefer, Range";

/// Longest `Warning`, in bytes. Names in it are as long as the caller's URL.
const MAX_WARNING: usize = 2 * 1024;

/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The answer to OPTIONS. Which pages may read it, and any other answer, the front says.
///
/// # Errors
/// Never: methods are ASCII.
pub(super) fn info(methods: &str) -> Result<Response<Answered>, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(ALLOW, value(methods)?);
    Ok(answer(StatusCode::OK, headers, Answered::Nothing))
}

/// The document at the root; without one to HEAD.
///
/// # Errors
/// Never in practice: schemas have names that a header can hold.
pub(super) fn document(request: &Request, document: Option<Bytes>) -> Result<Response<Answered>, Error> {
    let mut headers = HeaderMap::new();
    set_content_type(request, &Media::OpenApi, &mut headers)?;
    Ok(answer(StatusCode::OK, headers, document.map_or(Answered::Nothing, Answered::Whole)))
}

/// The answer to a query.
///
/// # Errors
/// 416 when the range starts after the last row, 500 when a function left nonsense in `response.headers` or
/// `response.status`.
pub(super) fn build(
    query: &Query<'_>,
    request: &Request,
    mut outcome: Outcome,
    max_rows: Option<u64>,
) -> Result<Response<Answered>, Error> {
    let mut headers = HeaderMap::new();
    let body = std::mem::take(&mut outcome.body);
    if matches!(query.media, Media::Plan(_)) {
        set_content_type(request, &query.media, &mut headers)?;
        return Ok(answer(StatusCode::OK, headers, body));
    }
    let counted = request.prefer.count.is_some_and(|c| c != Count::Planned).then_some(outcome.rows);
    let whole = request.prefer.wants_rows();
    let (status, shown) = match &query.source {
        Source::Read => {
            let status =
                set_content_range(request, &outcome, total(request, &outcome, max_rows), &mut headers)?;
            if let Action::Read(name) = &request.action {
                let here = url(&request.base, name, &request.query.canonical);
                if here.len() <= MAX_CONTENT_LOCATION {
                    headers.insert(CONTENT_LOCATION, value(&here)?);
                }
            }
            (status, true)
        }
        Source::Call(_, routine) => {
            let status = set_content_range(request, &outcome, outcome.total, &mut headers)?;
            if routine.returns_void() { (StatusCode::NO_CONTENT, false) } else { (status, true) }
        }
        Source::Change(change) => match &request.action {
            Action::Change(_, Change::Insert) => {
                headers.insert(CONTENT_RANGE, value(&content_range(1, 0, counted))?);
                if !outcome.location.is_empty() {
                    headers.insert(
                        LOCATION,
                        value(&location(&request.base, change.relation.name, &outcome.location))?,
                    );
                }
                let replaced = query.merges
                    && outcome.inserted.unwrap_or_default() <= 0
                    && request.prefer.resolution == Some(Resolution::Merge);
                (if replaced { StatusCode::OK } else { StatusCode::CREATED }, whole)
            }
            Action::Change(_, Change::Put) => {
                let made = outcome.inserted.is_some_and(|made| made > 0);
                let status = if made { StatusCode::CREATED } else { StatusCode::OK };
                (if whole { status } else { StatusCode::NO_CONTENT }, whole)
            }
            action => {
                let updates = matches!(action, Action::Change(_, Change::Update));
                let (first, last) = if updates { (0, outcome.rows - 1) } else { (1, 0) };
                headers.insert(CONTENT_RANGE, value(&content_range(first, last, counted))?);
                (if whole { StatusCode::OK } else { StatusCode::NO_CONTENT }, whole)
            }
        },
    };
    if let Some(applied) = applied::applied(query, request) {
        headers.insert("preference-applied", value(&applied)?);
    }
    if let Some(warning) = warning(&query.read) {
        headers.insert(WARNING, warning);
    }
    if shown {
        set_content_type(request, &query.media, &mut headers)?;
    }
    chosen::headers(&mut headers, outcome.headers.as_deref())?;
    let status = chosen::status(outcome.status.as_deref())?.unwrap_or(status);
    let body = if shown && may_have_content(status) { body } else { Answered::Nothing };
    Ok(answer(status, headers, body))
}

fn answer(status: StatusCode, mut headers: HeaderMap, body: Answered) -> Response<Answered> {
    headers.entry(VARY).or_insert(HeaderValue::from_static(VARIES));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// PostgREST's own words, for clients that look for them (RFC 7234, 5.5: warn-code, warn-agent, warn-text).
fn warning(read: &Read<'_>) -> Option<HeaderValue> {
    let names = read.named_by_target();
    if names.is_empty() {
        return None;
    }
    let pair = |(target, alias): &(&str, &str)| format!("`{target}` to `{alias}`");
    let updates =
        names.iter().map(pair).collect::<Vec<_>>().join(", ").replace('\\', "\\\\").replace('"', "\\\"");
    let warning = |update: &str| {
        format!(
            "299 PostgRESTv16.2 \"Embedded resource was referenced by relation name even though it has an alias. This is \
             deprecated and will stop working in a future release. Update {update} in query string filters, orders or \
             limits.\""
        )
    };
    let named = HeaderValue::try_from(warning(&updates)).ok().filter(|named| named.len() <= MAX_WARNING);
    named.or_else(|| HeaderValue::try_from(warning("its name to the alias")).ok())
}

fn value(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_| Error::internal("a header of the answer has a line break in it"))
}

fn set_content_type(request: &Request, media: &Media, headers: &mut HeaderMap) -> Result<(), Error> {
    headers.insert(CONTENT_TYPE, value(&media.content_type())?);
    if request.profile {
        headers.insert("content-profile", value(&request.schema)?);
    }
    Ok(())
}

/// The number of all rows, counted as the caller prefers.
fn total(request: &Request, outcome: &Outcome, max_rows: Option<u64>) -> Option<i64> {
    match request.prefer.count? {
        Count::Exact => outcome.total,
        Count::Planned => outcome.planned,
        Count::Estimated => {
            let most = max_rows.map(|most| i64::try_from(most).unwrap_or(i64::MAX));
            if outcome.total > most && most.is_some() {
                outcome.total.max(outcome.planned)
            } else {
                outcome.total
            }
        }
    }
}

fn set_content_range(
    request: &Request,
    outcome: &Outcome,
    total: Option<i64>,
    headers: &mut HeaderMap,
) -> Result<StatusCode, Error> {
    let first = request.rows.offset;
    let last = first.saturating_add(outcome.rows) - 1;
    let range = value(&content_range(first, last, total))?;
    match total {
        Some(total) if first > total => {
            let details = format!("An offset of {first} was requested, but there are only {total} rows.");
            Err(Error::range(details).with_header(CONTENT_RANGE, range))
        }
        Some(total) if outcome.rows < total => {
            headers.insert(CONTENT_RANGE, range);
            Ok(StatusCode::PARTIAL_CONTENT)
        }
        _ => {
            headers.insert(CONTENT_RANGE, range);
            Ok(StatusCode::OK)
        }
    }
}

/// `0-9/100`; `*` for no rows or an unknown total.
fn content_range(first: i64, last: i64, total: Option<i64>) -> String {
    let rows = if total == Some(0) || first > last { "*".into() } else { format!("{first}-{last}") };
    total.map_or_else(|| format!("{rows}/*"), |total| format!("{rows}/{total}"))
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// The relation's URL, without scheme and host: a client resolves it against the URL that it asked.
fn url(base: &BasePath, relation: &str, canonical: &str) -> String {
    let separator = if canonical.is_empty() { "" } else { "?" };
    format!("{}/{}{separator}{canonical}", base.0, encode(relation))
}

/// `/table?id=eq.1` behind the API's base path.
fn location(base: &BasePath, relation: &str, pairs: &[String]) -> String {
    let pair = |pair: &String| {
        let (column, test) = pair.split_once('=').unwrap_or((pair, ""));
        format!("{}={}", encode(column), encode(test))
    };
    url(base, relation, &pairs.iter().map(pair).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_places() {
        assert_eq!(content_range(0, 9, Some(100)), "0-9/100");
        assert_eq!(content_range(0, -1, None), "*/*");
        assert_eq!(content_range(0, 3, Some(0)), "*/0");
        let (host, prefix) = (BasePath::default(), BasePath("/acme/rest/v1".into()));
        assert_eq!(
            location(&host, "a b", &["id=eq.x=y".into(), "k=is.null".into()]),
            "/a%20b?id=eq.x%3Dy&k=is.null"
        );
        assert_eq!(location(&prefix, "a", &["id=eq.1".into()]), "/acme/rest/v1/a?id=eq.1");
        assert_eq!((url(&host, "a", ""), url(&prefix, "a", "")), ("/a".into(), "/acme/rest/v1/a".into()));
    }
}
