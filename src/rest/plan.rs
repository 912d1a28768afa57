//! Stage 2: `Request` and `Schema` become a `Plan`: which relations and functions, joined by what. Pure.

mod call;
mod change;
mod join;
mod media;
mod read;
mod suggest;
pub(super) mod tree;

use std::collections::BTreeMap;

use super::error::{Code, Error};
use super::request::media::Media;
use super::request::prefer::{Resolution, Return};
use super::request::{Action, Change as Method, Request};
use crate::policy::{Api, Limits};
use crate::schema::{Relation, Routine, Schema, Volatility};
use read::Context;
use tree::{Call, Change, From, Gives, Handler, Name, Read};

/// The name of the rows that a change or a call gave.
pub(super) const SOURCE: &str = "_mb_source";

/// What will be done, with everything found in the schema.
#[derive(Debug, PartialEq)]
pub(super) enum Plan<'a> {
    /// The OpenAPI document.
    Document,
    /// OPTIONS: the methods that make sense.
    Info(String),
    /// A question to the database.
    Query(Box<Query<'a>>),
}

/// A question to the database.
#[derive(Debug, PartialEq)]
pub(super) struct Query<'a> {
    /// Where the rows come from.
    pub(super) source: Source<'a>,
    /// What is read of them.
    pub(super) read: Read<'a>,
    /// Who writes the body.
    pub(super) handler: Handler<'a>,
    /// What it is.
    pub(super) media: Media,
    /// Whether the transaction may write.
    pub(super) writes: bool,
    /// `return=`
    pub(super) returns: Option<Return>,
    /// Rows that are there already are replaced, and it must be told how many.
    pub(super) merges: bool,
    /// `timezone=`, where there is such a zone.
    pub(super) timezone: Option<&'a str>,
}

/// Where rows come from.
#[derive(Debug, PartialEq)]
pub(super) enum Source<'a> {
    /// Out of relations.
    Read,
    /// Out of a change.
    Change(Change<'a>),
    /// Out of a function.
    Call(Call<'a>, &'a Routine),
}

impl Query<'_> {
    /// What the rows are.
    pub(super) fn gives(&self) -> Gives {
        match &self.source {
            Source::Call(call, _) => call.gives,
            _ => Gives::Rows,
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
            max_rows: api.max_rows(limits),
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
            Action::Read(name) => reading(request, api, &context, relation(name)?)?,
            Action::Change(name, method) => changing(request, api, &context, relation(name)?, *method)?,
            Action::Call(name, by_query) => calling(request, api, &context, name, !by_query)?,
        };
        Ok(Self::Query(Box::new(query)))
    }
}

fn reading<'a>(
    request: &'a Request,
    api: &Api,
    context: &Context<'a>,
    relation: &'a Relation,
) -> Result<Query<'a>, Error> {
    let name = Name { schema: &relation.schema, name: &relation.name };
    let read = read::plan(context, &request.query, request.rows, From::Relation(name), name)?;
    let (handler, media) = media::negotiate(request, api, context.schema, Some(name), &read)?;
    strict(request, context.schema)?;
    let handler = if request.head { Handler::None } else { handler };
    Ok(query(request, context.schema, Source::Read, read, handler, media))
}

fn changing<'a>(
    request: &'a Request,
    api: &Api,
    context: &Context<'a>,
    relation: &'a Relation,
    method: Method,
) -> Result<Query<'a>, Error> {
    let name = Name { schema: &relation.schema, name: &relation.name };
    let read = read::plan(context, &request.query, request.rows, From::Source, name)?;
    let change = change::plan(request, context.schema, relation, method, &read)?;
    strict(request, context.schema)?;
    let (handler, media) = media::negotiate(request, api, context.schema, Some(name), &read)?;
    let handler = if request.prefer.wants_rows() { handler } else { Handler::None };
    let mut query = query(request, context.schema, Source::Change(change), read, handler, media);
    query.writes = true;
    query.merges = method == Method::Put
        || (method == Method::Insert && request.prefer.resolution == Some(Resolution::Merge));
    Ok(query)
}

fn calling<'a>(
    request: &'a Request,
    api: &Api,
    context: &Context<'a>,
    name: &str,
    post: bool,
) -> Result<Query<'a>, Error> {
    let routine = call::find(request, context.schema, name, post)?;
    let of = routine.returns.row_of.as_ref().map(Name::from);
    // A function's rows are spoken of by their relation's name, where they have one.
    let origin = of.unwrap_or(Name { schema: &routine.schema, name: &routine.name });
    let read = read::plan(context, &request.query, request.rows, From::Source, origin)?;
    let mut needed = read::needed(&read, &[]);
    if !needed.is_empty() && needed != ["*"] {
        needed.extend(read::named(&read));
        needed.sort_unstable();
        needed.dedup();
    }
    let call = call::plan(request, routine, needed)?;
    let (handler, media) = media::negotiate(request, api, context.schema, Some(origin), &read)?;
    strict(request, context.schema)?;
    if request.prefer.at_most().is_some() && !routine.returns.set {
        let message =
            "Function must return SETOF or TABLE when max-affected preference is used with handling=strict";
        return Err(Error::new(Code::MaxAffectedRpcViolation, message));
    }
    let handler = if request.head { Handler::None } else { handler };
    let mut query = query(request, context.schema, Source::Call(call, routine), read, handler, media);
    query.writes = post && routine.volatility == Volatility::Volatile;
    Ok(query)
}

fn query<'a>(
    request: &'a Request,
    schema: &Schema,
    source: Source<'a>,
    read: Read<'a>,
    handler: Handler<'a>,
    media: Media,
) -> Query<'a> {
    let timezone = request.prefer.timezone.as_deref().filter(|zone| schema.time_zones.contains(*zone));
    Query {
        source,
        read,
        handler,
        media,
        writes: false,
        returns: request.prefer.returns,
        merges: false,
        timezone,
    }
}

/// With `handling=strict` there may be no preference that we do not know.
fn strict(request: &Request, schema: &Schema) -> Result<(), Error> {
    let prefer = &request.prefer;
    let zone = prefer.timezone.as_deref().filter(|zone| schema.time_zones.contains(*zone));
    let known = zone.map(|zone| format!("timezone={zone}"));
    let unknown: Vec<&str> =
        prefer.unknown.iter().filter(|u| known.as_ref() != Some(u)).map(String::as_str).collect();
    if prefer.strict != Some(true) || unknown.is_empty() {
        return Ok(());
    }
    let details = format!("Invalid preferences: {}", unknown.join(", "));
    let message = "Invalid preferences given with handling=strict";
    Err(Error::new(Code::InvalidPreferences, message).with_details(details))
}

fn unknown_relation(schema: &Schema, namespace: &str, name: &str) -> Error {
    let hint = suggest::nearest(name, names(schema.relations.get(namespace)), suggest::NEAR)
        .map(|near| format!("Perhaps you meant the table '{namespace}.{near}'"));
    let message = format!("Could not find the table '{namespace}.{name}' in the schema cache");
    Error::new(Code::TableNotFound, message).with_hint(hint)
}

/// The names in a map, or none.
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
