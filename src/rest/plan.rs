//! Stage 2: `Request` and `Schema` become a `Plan`, in which every name is found in the schema. Pure.

mod call;
mod change;
mod columns;
mod join;
mod media;
mod read;
mod suggest;
pub(super) mod tree;
mod work;

use std::collections::BTreeMap;

use super::error::{Code, Error};
use super::request::media::Media;
use super::request::prefer::{Resolution, Return};
use super::request::{Action, Change as Method, Request};
use crate::policy::{Api, Limits};
use crate::schema::{Relation, Routine, Schema, Volatility};
use read::Context;
use tree::{Call, Change, FromItem, Handler, Name, Read, ResultShape};
use work::Work;

/// The common table expression with the rows that a change or a call returned.
pub(super) const SOURCE: &str = "_mb_source";

/// What a request may name, in bytes, and how much of the schema may stand against that, for a plan of some tenths of a
/// millisecond.
const SHORT: usize = 8 * 1024;

/// Whether to make the plan may take longer than other requests should wait for.
pub(super) fn is_long(request: &Request, schema: &Schema) -> bool {
    let compared = match &request.action {
        Action::Call(name, _) | Action::CallInfo(name) => {
            schema.routines(&request.schema, name).iter().map(|routine| routine.arguments.len()).sum()
        }
        Action::Read(name) | Action::Change(name, _) if request.query.select.len() > 1 => {
            let columns = schema.relation(&request.schema, name).map_or(0, |relation| relation.columns.len());
            let relationships = schema.relationships(&request.schema, name).len();
            request.query.select.len() * (columns + relationships)
        }
        _ => 0,
    };
    request.query.canonical.len() + request.columns.len() > SHORT || compared > SHORT
}

/// What to do, with every name found in the schema.
#[derive(Debug, PartialEq)]
pub(super) enum Plan<'a> {
    /// The OpenAPI document.
    Document,
    /// OPTIONS: the methods that the resource allows.
    Info(String),
    /// A query of the database.
    Query(Box<Query<'a>>),
}

/// A query of the database.
#[derive(Debug, PartialEq)]
pub(super) struct Query<'a> {
    /// Where the rows come from.
    pub(super) source: Source<'a>,
    /// The read of those rows.
    pub(super) read: Read<'a>,
    /// What makes the body.
    pub(super) handler: Handler<'a>,
    /// The body's media type.
    pub(super) media: Media,
    /// Whether the transaction may write.
    pub(super) writes: bool,
    /// `return=`
    pub(super) returns: Option<Return>,
    /// Existing rows are replaced, and the answer depends on how many were.
    pub(super) merges: bool,
    /// `timezone=`.
    pub(super) timezone: Option<&'a str>,
}

/// Where rows come from.
#[derive(Debug, PartialEq)]
pub(super) enum Source<'a> {
    /// Relations.
    Read,
    /// A change returns them.
    Change(Change<'a>),
    /// A function returns them.
    Call(Call<'a>, &'a Routine),
}

impl Query<'_> {
    /// What it returns.
    pub(super) fn result_shape(&self) -> ResultShape {
        match &self.source {
            Source::Call(call, _) => call.result,
            _ => ResultShape::Rows,
        }
    }
}

impl<'a> Plan<'a> {
    /// Finds what the request names.
    ///
    /// # Errors
    /// PostgREST's codes of group 2 (not in the schema, or more than once), and those of group 1 that need a schema.
    pub(super) fn new(
        request: &'a Request,
        schema: &'a Schema,
        api: &Api,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let relation = |name: &str| {
            let found = schema.relation(&request.schema, name);
            found.ok_or_else(|| unknown_relation(schema, &request.schema, name))
        };
        let context = Context {
            schema,
            aggregates: api.db_aggregates_enabled,
            legacy_target_names: api.url_use_legacy_target_names,
            max_rows: api.max_rows(limits),
            work: Work::default(),
            change: matches!(request.action, Action::Change(..)),
        };
        let query = match &request.action {
            Action::Document => {
                media::document(request)?;
                return Ok(Self::Document);
            }
            Action::DocumentInfo => return Ok(Self::Info("OPTIONS,GET,HEAD".into())),
            Action::RelationInfo(name) => return Ok(Self::Info(methods(relation(name)?))),
            Action::CallInfo(name) => {
                let routine = call::find(request, schema, name, false)?;
                let reads = routine.volatility != Volatility::Volatile;
                return Ok(Self::Info(if reads { "OPTIONS,GET,HEAD,POST" } else { "OPTIONS,POST" }.into()));
            }
            Action::Read(name) => plan_read(request, api, &context, relation(name)?)?,
            Action::Change(name, method) => plan_change(request, api, &context, relation(name)?, *method)?,
            Action::Call(name, by_query) => plan_call(request, api, &context, name, !by_query)?,
        };
        Ok(Self::Query(Box::new(query)))
    }
}

fn plan_read<'a>(
    request: &'a Request,
    api: &Api,
    context: &Context<'a>,
    relation: &'a Relation,
) -> Result<Query<'a>, Error> {
    let name = Name { schema: &relation.schema, name: &relation.name };
    let read = read::plan(context, &request.query, request.rows, FromItem::Relation(name), name)?;
    let (handler, media) = media::negotiate(request, api, context.schema, Some(name), &read)?;
    refuse_unknown_preferences(request)?;
    let handler = if request.head { Handler::None } else { handler };
    Ok(query(request, Source::Read, read, handler, media))
}

fn plan_change<'a>(
    request: &'a Request,
    api: &Api,
    context: &Context<'a>,
    relation: &'a Relation,
    method: Method,
) -> Result<Query<'a>, Error> {
    let name = Name { schema: &relation.schema, name: &relation.name };
    let read = read::plan(context, &request.query, request.rows, FromItem::Cte, name)?;
    let change = change::plan(request, context.schema, relation, method, &read)?;
    refuse_unknown_preferences(request)?;
    let (handler, media) = media::negotiate(request, api, context.schema, Some(name), &read)?;
    let handler = if request.prefer.wants_rows() { handler } else { Handler::None };
    let mut query = query(request, Source::Change(change), read, handler, media);
    query.writes = true;
    query.merges = method == Method::Put
        || (method == Method::Insert && request.prefer.resolution == Some(Resolution::Merge));
    Ok(query)
}

fn plan_call<'a>(
    request: &'a Request,
    api: &Api,
    context: &Context<'a>,
    name: &str,
    post: bool,
) -> Result<Query<'a>, Error> {
    let routine = call::find(request, context.schema, name, post)?;
    let row_type = routine.returns.row_of.as_ref().map(Name::from);
    // Rows of a relation's type have that relation's columns and relationships.
    let origin = row_type.unwrap_or(Name { schema: &routine.schema, name: &routine.name });
    let read = read::plan(context, &request.query, request.rows, FromItem::Cte, origin)?;
    let mut needed = read::needed(&read, &[]);
    if !needed.is_empty() && needed != ["*"] {
        needed.extend(read::named(&read));
        needed.sort_unstable();
        needed.dedup();
    }
    let call = call::plan(request, routine, needed)?;
    let (handler, media) = media::negotiate(request, api, context.schema, Some(origin), &read)?;
    refuse_unknown_preferences(request)?;
    if request.prefer.at_most().is_some() && !routine.returns.set {
        let message =
            "Function must return SETOF or TABLE when max-affected preference is used with handling=strict";
        return Err(Error::new(Code::MaxAffectedRpcViolation, message));
    }
    let handler = if request.head { Handler::None } else { handler };
    let mut query = query(request, Source::Call(call, routine), read, handler, media);
    query.writes = post && routine.volatility == Volatility::Volatile;
    Ok(query)
}

fn query<'a>(
    request: &'a Request,
    source: Source<'a>,
    read: Read<'a>,
    handler: Handler<'a>,
    media: Media,
) -> Query<'a> {
    Query {
        source,
        read,
        handler,
        media,
        writes: false,
        returns: request.prefer.returns,
        merges: false,
        timezone: request.prefer.timezone.as_deref(),
    }
}

/// Refuses unknown preferences under `handling=strict`.
fn refuse_unknown_preferences(request: &Request) -> Result<(), Error> {
    let prefer = &request.prefer;
    if prefer.strict != Some(true) || prefer.unknown.is_empty() {
        return Ok(());
    }
    let details = format!("Invalid preferences: {}", listed(&prefer.unknown));
    let message = "Invalid preferences given with handling=strict";
    Err(Error::new(Code::InvalidPreferences, message).with_details(details))
}

fn unknown_relation(schema: &Schema, namespace: &str, name: &str) -> Error {
    let hint = suggest::nearest(name, names(schema.relations.get(namespace)), suggest::STRICT_SIMILARITY)
        .map(|near| format!("Perhaps you meant the table '{namespace}.{near}'"));
    let message = format!("Could not find the table '{namespace}.{name}' in the schema cache");
    Error::new(Code::TableNotFound, message).with_hint(hint)
}

/// Longest list in an error, in bytes. The caller, or the schema's owner, chooses how many names there are.
const MAX_LISTED: usize = 4 * 1024;

/// These with commas between; of a long list the beginning.
fn listed(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut list = String::new();
    for (index, item) in items.into_iter().enumerate() {
        list.push_str(if index == 0 { "" } else { ", " });
        if list.len() > MAX_LISTED {
            list.push('…');
            break;
        }
        list.push_str(item.as_ref());
    }
    list
}

/// The keys of a map that may be missing.
fn names<T>(map: Option<&BTreeMap<String, T>>) -> impl Iterator<Item = &str> {
    map.into_iter().flat_map(|map| map.keys().map(String::as_str))
}

fn methods(relation: &Relation) -> String {
    let keyed = !relation.primary_key.is_empty();
    let mut methods = String::from("OPTIONS,GET,HEAD");
    for (able, method) in [
        (relation.insertable, ",POST"),
        (relation.insertable && relation.updatable && keyed, ",PUT"),
        (relation.updatable, ",PATCH"),
        (relation.deletable, ",DELETE"),
    ] {
        methods.push_str(if able { method } else { "" });
    }
    methods
}
