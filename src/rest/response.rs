//! Stage 5: `Outcome` becomes status, headers and body.

mod openapi;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName,
    LOCATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::error::Error;
use super::execute::Outcome;
use super::plan::Plan;
use super::request::prefer::Return;
use super::request::{Accept, Request};
use crate::schema::{Relation, Schema, Shape};

/// The answer to what the database did.
///
/// # Errors
/// 416 when the range starts after the last row, 500 when a function left nonsense in `response.headers` or
/// `response.status`.
pub(super) fn build(
    plan: &Plan<'_>,
    request: &Request,
    outcome: Outcome,
    schema: &Schema,
) -> Result<Response<Bytes>, Error> {
    let mut headers = HeaderMap::new();
    let prefer = &request.prefer;
    let whole = prefer.returns == Some(Return::Representation);
    let (writes, inserts) = match plan {
        Plan::Insert { .. } => (true, true),
        Plan::Update { .. } | Plan::Delete(_) => (true, false),
        _ => (false, false),
    };
    let status = match plan {
        Plan::Options(methods) => {
            headers.insert(ALLOW, value(methods)?);
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            return Ok(answer(StatusCode::OK, headers, Bytes::new()));
        }
        Plan::Document => {
            let body = openapi::document(request, schema, outcome.body.as_deref().unwrap_or_default())?;
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/openapi+json; charset=utf-8"));
            profile(request, &mut headers)?;
            let body = if request.head { Bytes::new() } else { body };
            return Ok(answer(StatusCode::OK, headers, body));
        }
        Plan::Read(_) => ranged(request, &outcome, &mut headers)?,
        Plan::Call { routine, .. } => {
            let status = ranged(request, &outcome, &mut headers)?;
            if routine.returns.shape == Shape::Void { StatusCode::NO_CONTENT } else { status }
        }
        Plan::Insert { relation, .. } => {
            headers.insert(CONTENT_RANGE, value(&content_range(1, 0, outcome.total))?);
            if let Some(location) = location(relation, outcome.location.as_deref()) {
                headers.insert(LOCATION, value(&location)?);
            }
            StatusCode::CREATED
        }
        Plan::Update { .. } => {
            headers.insert(CONTENT_RANGE, value(&content_range(0, outcome.rows - 1, outcome.total))?);
            if whole { StatusCode::OK } else { StatusCode::NO_CONTENT }
        }
        Plan::Delete(_) => {
            headers.insert(CONTENT_RANGE, value(&content_range(1, 0, outcome.total))?);
            if whole { StatusCode::OK } else { StatusCode::NO_CONTENT }
        }
    };
    if let Some(applied) = prefer.applied(writes, inserts) {
        headers.insert("preference-applied", value(&applied)?);
    }
    if status != StatusCode::NO_CONTENT && (!writes || whole) {
        let kind = match request.accept {
            Accept::Object => "application/vnd.pgrst.object+json; charset=utf-8",
            Accept::Json | Accept::OpenApi => "application/json; charset=utf-8",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        profile(request, &mut headers)?;
    }
    chosen_headers(&mut headers, outcome.headers.as_deref())?;
    let status = chosen_status(outcome.status.as_deref())?.unwrap_or(status);
    Ok(answer(status, headers, outcome.body.unwrap_or_default()))
}

fn answer(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn value(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_| Error::internal("a header of the answer has a line break in it"))
}

fn profile(request: &Request, headers: &mut HeaderMap) -> Result<(), Error> {
    if request.profile {
        headers.insert("content-profile", value(&request.schema)?);
    }
    Ok(())
}

fn ranged(request: &Request, outcome: &Outcome, headers: &mut HeaderMap) -> Result<StatusCode, Error> {
    let first = request.query.rows.offset;
    let last = first.saturating_add(outcome.rows) - 1;
    let range = value(&content_range(first, last, outcome.total))?;
    match outcome.total {
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

/// `/table?id=eq.1`, below the API's base URL.
fn location(relation: &Relation, key: Option<&str>) -> Option<String> {
    let values: Vec<Option<String>> = serde_json::from_str(key?).ok()?;
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs: Option<Vec<_>> = relation
        .primary_key
        .iter()
        .zip(values)
        .map(|(name, value)| Some(format!("{}=eq.{}", encode(name), encode(&value?))))
        .collect();
    Some(format!("/{}?{}", encode(&relation.name), pairs?.join("&")))
}

fn chosen_status(text: Option<&str>) -> Result<Option<StatusCode>, Error> {
    let Some(text) = text else { return Ok(None) };
    let status = text.trim().parse().ok().and_then(|number| StatusCode::from_u16(number).ok());
    match status.filter(|s| !s.is_informational()) {
        Some(status) => Ok(Some(status)),
        None => {
            let message = "response.status guc must be a valid status code";
            Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, "PGRST112", message, None, None))
        }
    }
}

/// Headers a function set with `set_config('response.headers', …)`. They replace ours, except those that frame the
/// message: with them a function could make the client read two answers where there is one.
fn chosen_headers(headers: &mut HeaderMap, text: Option<&str>) -> Result<(), Error> {
    const FRAMING: [HeaderName; 6] = [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    let Some(text) = text else { return Ok(()) };
    let bad = || {
        let message = "response.headers guc must be a JSON array composed of objects with a single key and a string value";
        Error::new(StatusCode::INTERNAL_SERVER_ERROR, "PGRST111", message, None, None)
    };
    let list: Vec<Map<String, Value>> = serde_json::from_str(text).map_err(|_| bad())?;
    let mut chosen = HeaderMap::new();
    for object in list {
        let mut pairs = object.into_iter();
        let (Some((name, Value::String(text))), None) = (pairs.next(), pairs.next()) else {
            return Err(bad());
        };
        let name: HeaderName = name.parse().map_err(|_| bad())?;
        if !FRAMING.contains(&name) {
            chosen.append(name, HeaderValue::from_str(&text).map_err(|_| bad())?);
        }
    }
    // extend() replaces what was there and keeps several of one name.
    headers.extend(chosen);
    Ok(())
}
