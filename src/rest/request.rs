//! Stage 1: HTTP parts become a `Request`. Needs no schema and no connection.

pub(crate) mod filter;
pub(crate) mod order;
pub(crate) mod payload;
pub(crate) mod prefer;
pub(crate) mod select;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Method, StatusCode};

use self::filter::Filter;
use self::order::{Rows, Term};
use self::payload::Payload;
use self::prefer::Prefer;
use self::select::{Item, unquote};
use super::error::Error;
use crate::tenant::Api;

/// What is asked, in our words.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// What to do, and with what.
    pub(super) action: Action,
    /// One of the tenant's exposed schemas.
    pub(super) schema: String,
    /// The schema was named by a header, so the answer names it too.
    pub(super) profile: bool,
    /// `select=`, `order=`, `limit=` and so on.
    pub(super) query: Query,
    /// `Prefer`.
    pub(super) prefer: Prefer,
    /// `Accept`.
    pub(super) accept: Accept,
    /// HEAD: as GET, without the body.
    pub(super) head: bool,
}

/// What to do, and with what.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// GET / or HEAD /
    Document,
    /// GET or HEAD of a relation.
    Read(String),
    /// POST to a relation.
    Insert(String, Payload),
    /// PATCH of a relation.
    Update(String, Payload),
    /// DELETE of a relation.
    Delete(String),
    /// A function, with arguments from the body or from the query string.
    Call(String, Arguments),
    /// OPTIONS of a relation; `None` for the root.
    Options(Option<String>),
    /// OPTIONS of a function.
    OptionsCall(String),
}

/// Where a call's arguments come from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Arguments {
    /// GET or HEAD: read-only.
    Query,
    /// POST.
    Body(Payload),
}

/// The query string, read as far as that is possible without a schema.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Query {
    pub(super) select: Option<Vec<Item>>,
    pub(super) filters: Vec<Filter>,
    pub(super) order: Vec<Term>,
    pub(super) rows: Rows,
    /// `columns=`: the keys of the payload that count.
    pub(super) columns: Option<Vec<String>>,
    /// `on_conflict=`
    pub(super) on_conflict: Option<Vec<String>>,
    /// For calls by GET: pairs that may be arguments or filters, which only the function can tell.
    pub(super) pairs: Vec<(String, String)>,
}

/// What the answer's body should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accept {
    /// An array, or what a function returns.
    Json,
    /// Exactly one row, without the array.
    Object,
    /// The document at the root.
    OpenApi,
}

impl Request {
    /// Reads a request whose path starts after the tenant's base URL and `/rest/v1`.
    ///
    /// # Errors
    /// 400, 404, 405, 406, 416 with PostgREST's codes.
    pub(super) fn parse(parts: &http::request::Parts, body: Bytes, api: &Api) -> Result<Self, Error> {
        let path = Path::parse(parts.uri.path())?;
        let reads = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let header = if reads { "accept-profile" } else { "content-profile" };
        let (schema, profile) = schema(parts.headers.get(header), api)?;
        let by_query = matches!(path, Path::Function(_)) && reads;
        let mut query = Query::parse(parts.uri.query().unwrap_or_default(), by_query)?;
        if matches!(parts.method, Method::GET | Method::HEAD) {
            query.rows = query.rows.within(&parts.headers)?;
        }
        let allowed =
            |message: &str, allow| Error::method("PGRST117", format!("{message}: {}", parts.method), allow);
        let json = |body| payload(&parts.headers, body);
        let action = match (path, &parts.method) {
            (Path::Root, &Method::GET | &Method::HEAD) => Action::Document,
            (Path::Root, &Method::OPTIONS) => Action::Options(None),
            (Path::Root, _) => return Err(allowed("Unsupported HTTP method", "OPTIONS,GET,HEAD")),
            (Path::Relation(name), &Method::GET | &Method::HEAD) => Action::Read(name),
            (Path::Relation(name), &Method::POST) => Action::Insert(name, json(body)?),
            (Path::Relation(name), &Method::PATCH) => Action::Update(name, json(body)?),
            (Path::Relation(name), &Method::DELETE) => Action::Delete(name),
            (Path::Relation(name), &Method::OPTIONS) => Action::Options(Some(name)),
            (Path::Relation(_), _) => {
                return Err(allowed("Unsupported HTTP method", "OPTIONS,GET,HEAD,POST,PATCH,DELETE"));
            }
            (Path::Function(name), &Method::GET | &Method::HEAD) => Action::Call(name, Arguments::Query),
            (Path::Function(name), &Method::POST) => {
                // A call without a body is a call without arguments.
                let arguments = if body.is_empty() { Payload::empty() } else { json(body)? };
                Action::Call(name, Arguments::Body(arguments))
            }
            (Path::Function(name), &Method::OPTIONS) => Action::OptionsCall(name),
            (Path::Function(_), method) => {
                let message = format!("Cannot use the {method} method on RPC");
                return Err(Error::method("PGRST101", message, "OPTIONS,GET,HEAD,POST"));
            }
        };
        let accept = accept(&parts.headers, action == Action::Document)?;
        let head = parts.method == Method::HEAD;
        let prefer = Prefer::parse(&parts.headers)?;
        Ok(Self { action, schema, profile, query, prefer, accept, head })
    }
}

enum Path {
    Root,
    Relation(String),
    Function(String),
}

impl Path {
    fn parse(path: &str) -> Result<Self, Error> {
        let not_found = || {
            Error::new(StatusCode::NOT_FOUND, "PGRST125", "Invalid path specified in request URL", None, None)
        };
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        let segments: Vec<_> = path.split('/').collect();
        let decode = |segment: &str| {
            let name =
                percent_encoding::percent_decode_str(segment).decode_utf8().map_err(|_| not_found())?;
            if name.is_empty() { Err(not_found()) } else { Ok(name.into_owned()) }
        };
        match segments[..] {
            [""] => Ok(Self::Root),
            [name] => Ok(Self::Relation(decode(name)?)),
            ["rpc", name] => Ok(Self::Function(decode(name)?)),
            _ => Err(not_found()),
        }
    }
}

fn schema(header: Option<&http::HeaderValue>, api: &Api) -> Result<(String, bool), Error> {
    let Some(value) = header else {
        let first = api.db_schemas.first().cloned();
        let missing = || Error::internal("this tenant's API exposes no schema");
        return Ok((first.ok_or_else(missing)?, false));
    };
    let name = value.to_str().unwrap_or_default();
    if api.db_schemas.iter().any(|schema| schema == name) {
        return Ok((name.to_owned(), true));
    }
    let hint = format!("Only the following schemas are exposed: {}", api.db_schemas.join(", "));
    let message = format!("Invalid schema: {name}");
    Err(Error::new(StatusCode::NOT_ACCEPTABLE, "PGRST106", message, None, Some(hint)))
}

fn payload(headers: &HeaderMap, body: Bytes) -> Result<Payload, Error> {
    let kind = headers.get(CONTENT_TYPE).map_or("application/json", |v| v.to_str().unwrap_or("?"));
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.is_empty() || kind.eq_ignore_ascii_case("application/json") {
        return Payload::parse(body);
    }
    Err(Error::body(format!("Content-Type not acceptable: {kind}; send application/json")))
}

fn accept(headers: &HeaderMap, document: bool) -> Result<Accept, Error> {
    let texts: Vec<_> = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    if texts.is_empty() {
        return Ok(Accept::Json);
    }
    let mut ranges: Vec<(u16, &str)> = texts.iter().flat_map(|text| text.split(',')).map(weigh).collect();
    // Stable: of equal weights the first named wins.
    ranges.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    for (weight, range) in ranges {
        match range.to_ascii_lowercase().as_str() {
            _ if weight == 0 => {}
            "application/openapi+json" if document => return Ok(Accept::OpenApi),
            "*/*"
            | "application/*"
            | "application/json"
            | "application/vnd.pgrst.array+json"
            | "application/vnd.pgrst.array" => return Ok(Accept::Json),
            "application/vnd.pgrst.object+json" | "application/vnd.pgrst.object" if !document => {
                return Ok(Accept::Object);
            }
            _ => {}
        }
    }
    let message = format!("None of these media types are available: {}", texts.join(", "));
    Err(Error::new(StatusCode::NOT_ACCEPTABLE, "PGRST107", message, None, None))
}

/// RFC 9110, 12.4.2: weights have three digits; without one it is 1.
fn weigh(range: &str) -> (u16, &str) {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let weight = parts.find_map(|p| p.strip_prefix("q=")).and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000 before")]
    let weight = (weight * 1000.0).clamp(0.0, 1000.0) as u16;
    (weight, kind)
}

impl Query {
    fn parse(text: &str, call: bool) -> Result<Self, Error> {
        let mut query = Self::default();
        let (mut limit, mut offset) = (None, None);
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*key {
                "select" => query.select = Some(Item::parse_list(&value)?),
                "order" => query.order = Term::parse_list(&value)?,
                "limit" => limit = Some(value.into_owned()),
                "offset" => offset = Some(value.into_owned()),
                "columns" => query.columns = Some(names("columns", &value)?),
                "on_conflict" => query.on_conflict = Some(names("on_conflict", &value)?),
                _ if call => query.pairs.push((key.into_owned(), value.into_owned())),
                _ => query.filters.push(Filter::parse(&key, &value)?),
            }
        }
        query.rows = Rows::parse(limit.as_deref(), offset.as_deref())?;
        Ok(query)
    }
}

fn names(parameter: &str, text: &str) -> Result<Vec<String>, Error> {
    let bad = |reason| Error::query(format!("failed to parse {parameter} parameter ({text})"), reason);
    let names: Vec<_> = split(text, ",").map_err(bad)?.into_iter().map(|name| unquote(name.trim())).collect();
    if names.iter().any(String::is_empty) {
        return Err(bad("expected names of columns, with commas between them".into()));
    }
    Ok(names)
}

/// Splits at a separator outside double quotes and brackets.
pub(super) fn split<'a>(text: &'a str, separator: &str) -> Result<Vec<&'a str>, String> {
    let (mut parts, mut start, mut depth, mut quoted, mut escaped) = (Vec::new(), 0, 0_usize, false, false);
    let mut index = 0;
    while let Some(c) = text[index..].chars().next() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth = depth.saturating_sub(1),
            _ if depth == 0 && text[index..].starts_with(separator) => {
                parts.push(&text[start..index]);
                index += separator.len();
                start = index;
                continue;
            }
            _ => {}
        }
        index += c.len_utf8();
    }
    if quoted {
        return Err("a double quote is not closed".into());
    }
    parts.push(&text[start..]);
    Ok(parts)
}
