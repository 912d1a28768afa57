//! Stage 1: HTTP parts become a `Request`. Needs no schema and no connection.

pub(crate) mod filter;
mod grammar;
pub(crate) mod media;
pub(crate) mod order;
pub(crate) mod payload;
pub(crate) mod prefer;
pub(crate) mod query;
pub(crate) mod range;
pub(crate) mod select;

pub(crate) use grammar::{Field, Key, Step};

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Method;

use self::media::Media;
use self::payload::Payload;
use self::prefer::Prefer;
use self::query::Query;
use self::range::Rows;
use super::error::{Code, Error};
use super::root::{BasePath, Root};
use crate::policy::{Api, OpenApiMode};

/// A request of the REST API, read without a schema.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// What to do.
    pub(super) action: Action,
    /// One of the tenant's exposed schemas.
    pub(super) schema: String,
    /// The answer names the schema: a header chose it, or there are several.
    pub(super) profile: bool,
    /// The query string.
    pub(super) query: Query,
    /// `limit`, `offset` and the `Range` header together.
    pub(super) rows: Rows,
    /// The keys of the payload that are used.
    pub(super) columns: BTreeSet<String>,
    /// The body, of actions that have one.
    pub(super) payload: Option<Payload>,
    /// `Content-Type`
    pub(super) content_type: Media,
    /// `Prefer`
    pub(super) prefer: Prefer,
    /// `Accept`, the most preferred first.
    pub(super) accept: Vec<Media>,
    /// HEAD: the answer has no body.
    pub(super) head: bool,
    /// The URL of the API's root, where the root was asked for.
    pub(super) root: Option<Root>,
    /// What the request's path came behind.
    pub(super) base: BasePath,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// GET or HEAD of the root: the OpenAPI document.
    Document,
    /// GET or HEAD of a relation.
    Read(String),
    /// A change of a relation.
    Change(String, Change),
    /// A function; `true` by GET or HEAD, which only read, `false` by POST.
    Call(String, bool),
    /// OPTIONS of the root.
    DocumentInfo,
    /// OPTIONS of a relation.
    RelationInfo(String),
    /// OPTIONS of a function.
    CallInfo(String),
}

/// How to change a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// POST
    Insert,
    /// PATCH
    Update,
    /// PUT: one row is inserted or replaced.
    Put,
    /// DELETE
    Delete,
}

impl Request {
    /// Looks at what can be wrong in a request whatever its body: path, schema, method.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub(super) fn check(parts: &http::request::Parts, api: &Api) -> Result<(), Error> {
        let resource = Resource::parse(parts.uri.path(), api)?;
        schema(parts, api)?;
        action(resource, &parts.method).map(drop)
    }

    /// Reads a request whose path starts after the tenant's base URL and `/rest/v1`.
    ///
    /// # Errors
    /// 400, 404, 405, 406, 416 with PostgREST's codes.
    pub(super) fn parse(parts: &http::request::Parts, body: Bytes, api: &Api) -> Result<Self, Error> {
        let resource = Resource::parse(parts.uri.path(), api)?;
        let (schema, profile) = schema(parts, api)?;
        let action = action(resource, &parts.method)?;
        let by_query = matches!(action, Action::Call(_, true));
        let mut query = Query::parse(parts.uri.query().unwrap_or_default(), by_query)?;
        let rows = query.rows.with_range_header(&parts.method, &parts.headers)?;
        let put = matches!(action, Action::Change(_, Change::Put));
        if put && rows != Rows::default() {
            let message = "limit/offset querystring parameters are not allowed for PUT";
            return Err(Error::new(Code::PutLimitNotAllowed, message));
        }
        let call = matches!(action, Action::Call(..));
        let takes_columns =
            matches!(action, Action::Change(_, Change::Insert | Change::Update) | Action::Call(_, false));
        if !takes_columns {
            query.columns = None;
        }
        let content_type = media::content_type(&parts.headers);
        let mut payload = match action {
            Action::Change(_, Change::Insert | Change::Update | Change::Put) | Action::Call(_, false) => {
                Some(Payload::parse(body, &content_type, query.columns.is_some(), call)?)
            }
            _ => None,
        };
        let columns = match (&payload, &query.columns) {
            (Some(Payload::Json(_)), Some(columns)) if content_type == Media::Json => columns.clone(),
            (Some(Payload::Json(json)), _) => json.keys.clone(),
            (Some(Payload::Form(fields)), _) => fields.iter().map(|(key, _)| key.clone()).collect(),
            _ => BTreeSet::new(),
        };
        let mut prefer = Prefer::parse(&parts.headers);
        if let (Some(true), Some(columns), Some(Payload::Json(json))) =
            (prefer.missing_default, &query.columns, &mut payload)
            && !call
        {
            json.find_lacking(columns);
        }
        if !api.db_tx_end.allows_override() {
            prefer.rollback = None;
        }
        let accept = media::accept(&parts.headers);
        let head = parts.method == Method::HEAD;
        let root = parts.extensions.get::<Root>().cloned();
        let base = parts.extensions.get::<BasePath>().cloned().unwrap_or_default();
        Ok(Self {
            action,
            schema,
            profile,
            query,
            rows,
            columns,
            payload,
            content_type,
            prefer,
            accept,
            head,
            root,
            base,
        })
    }
}

enum Resource {
    Root,
    Relation(String),
    Function(String),
}

impl Resource {
    fn parse(path: &str, api: &Api) -> Result<Self, Error> {
        let invalid = || Error::new(Code::InvalidResourcePath, "Invalid path specified in request URL");
        let path = path.strip_prefix('/').unwrap_or(path);
        let segments: Vec<_> = path.split('/').collect();
        let decode = |segment: &str| {
            let name = percent_encoding::percent_decode_str(segment).decode_utf8().map_err(|_| invalid())?;
            if name.is_empty() { Err(invalid()) } else { Ok(name.into_owned()) }
        };
        match segments[..] {
            [""] if api.openapi_mode == OpenApiMode::Disabled => {
                Err(Error::new(Code::OpenApiDisabled, "Root endpoint metadata is disabled"))
            }
            [""] => Ok(match &api.db_root_spec {
                Some(function) => Self::Function(function.name.clone()),
                None => Self::Root,
            }),
            [name] => Ok(Self::Relation(decode(name)?)),
            ["rpc", name] => Ok(Self::Function(decode(name)?)),
            _ => Err(invalid()),
        }
    }
}

fn action(resource: Resource, method: &Method) -> Result<Action, Error> {
    let unsupported = |allow| {
        Err(Error::method(Code::UnsupportedMethod, format!("Unsupported HTTP method: {method}"), allow))
    };
    Ok(match (resource, method) {
        (Resource::Function(name), &Method::GET | &Method::HEAD) => Action::Call(name, true),
        (Resource::Function(name), &Method::POST) => Action::Call(name, false),
        (Resource::Function(name), &Method::OPTIONS) => Action::CallInfo(name),
        (Resource::Function(_), _) => {
            let message = format!("Cannot use the {method} method on RPC");
            return Err(Error::method(Code::InvalidRpcMethod, message, "OPTIONS,GET,HEAD,POST"));
        }
        (Resource::Relation(name), &Method::GET | &Method::HEAD) => Action::Read(name),
        (Resource::Relation(name), &Method::POST) => Action::Change(name, Change::Insert),
        (Resource::Relation(name), &Method::PATCH) => Action::Change(name, Change::Update),
        (Resource::Relation(name), &Method::PUT) => Action::Change(name, Change::Put),
        (Resource::Relation(name), &Method::DELETE) => Action::Change(name, Change::Delete),
        (Resource::Relation(name), &Method::OPTIONS) => Action::RelationInfo(name),
        (Resource::Relation(_), _) => return unsupported("OPTIONS,GET,HEAD,POST,PUT,PATCH,DELETE"),
        (Resource::Root, &Method::GET | &Method::HEAD) => Action::Document,
        (Resource::Root, &Method::OPTIONS) => Action::DocumentInfo,
        (Resource::Root, _) => return unsupported("OPTIONS,GET,HEAD"),
    })
}

fn schema(parts: &http::request::Parts, api: &Api) -> Result<(String, bool), Error> {
    let writes = matches!(parts.method, Method::POST | Method::PATCH | Method::PUT | Method::DELETE);
    let header = if writes { "content-profile" } else { "accept-profile" };
    let Some(value) = parts.headers.get(header) else {
        let missing = || Error::internal("this tenant's API exposes no schema");
        let first = api.db_schemas.first().cloned().ok_or_else(missing)?;
        return Ok((first, api.db_schemas.len() != 1));
    };
    let name = String::from_utf8_lossy(value.as_bytes()).into_owned();
    if api.db_schemas.contains(&name) {
        return Ok((name, true));
    }
    let hint = format!("Only the following schemas are exposed: {}", api.db_schemas.join(", "));
    let message = format!("Invalid schema: {name}");
    Err(Error::new(Code::UnacceptableSchema, message).with_hint(hint))
}
