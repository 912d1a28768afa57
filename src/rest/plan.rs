//! Stage 2: `Request` and `Schema` become a `Plan`: which relation or function, which columns. Pure.

mod call;
mod suggest;

pub(super) use call::Source;

use http::StatusCode;

use super::error::Error;
use super::request::filter::Filter;
use super::request::payload::{Payload, Shape};
use super::request::prefer::Resolution;
use super::request::{Action, Request};
use crate::schema::{Column, Relation, Routine, Schema, Volatility};

/// What will be done, with everything found in the schema.
#[derive(Debug, PartialEq)]
pub(super) enum Plan<'a> {
    /// The OpenAPI document of what the role may see.
    Document,
    /// OPTIONS: the methods that make sense.
    Options(String),
    /// SELECT
    Read(&'a Relation),
    /// INSERT
    Insert {
        /// Into it.
        relation: &'a Relation,
        /// The rows.
        payload: &'a Payload,
        /// The keys of the payload that are used.
        columns: Vec<&'a Column>,
        /// ON CONFLICT: the key, and what to do.
        conflict: Option<(Vec<&'a Column>, Resolution)>,
    },
    /// UPDATE
    Update {
        /// What is changed.
        relation: &'a Relation,
        /// The new values.
        payload: &'a Payload,
        /// The keys of the payload that are used.
        columns: Vec<&'a Column>,
    },
    /// DELETE
    Delete(&'a Relation),
    /// A function call.
    Call {
        /// The overload that fits the arguments.
        routine: &'a Routine,
        /// Its arguments.
        source: Source<'a>,
        /// Filters on its rows.
        filters: Vec<Filter>,
    },
}

impl<'a> Plan<'a> {
    /// Finds what the request names.
    ///
    /// # Errors
    /// 404 PGRST202 and PGRST205 with the nearest name as hint, 400 PGRST204, 300 PGRST203, 400 PGRST102.
    pub(super) fn new(request: &'a Request, schema: &'a Schema) -> Result<Self, Error> {
        let relation = |name: &str| {
            schema
                .relation(&request.schema, name)
                .ok_or_else(|| unknown_relation(schema, &request.schema, name))
        };
        Ok(match &request.action {
            Action::Document => Self::Document,
            Action::Options(None) => Self::Options("OPTIONS,GET,HEAD".into()),
            Action::Options(Some(name)) => Self::Options(methods(relation(name)?)),
            Action::OptionsCall(name) => {
                let routines = schema.routines(&request.schema, name);
                let Some(first) = routines.first() else {
                    return Err(call::unknown(schema, &request.schema, name, &[]));
                };
                let reads = first.volatility != Volatility::Volatile;
                Self::Options(if reads { "OPTIONS,GET,HEAD,POST" } else { "OPTIONS,POST" }.into())
            }
            Action::Read(name) => Self::Read(relation(name)?),
            Action::Delete(name) => Self::Delete(relation(name)?),
            Action::Insert(name, payload) => {
                let relation = relation(name)?;
                let columns = columns(request, relation, payload)?;
                let conflict = match request.prefer.resolution {
                    Some(resolution) => {
                        let key = request.query.on_conflict.as_ref().unwrap_or(&relation.primary_key);
                        let key: Vec<_> =
                            key.iter().map(|name| column(relation, name)).collect::<Result<_, _>>()?;
                        (!key.is_empty()).then_some((key, resolution))
                    }
                    None => None,
                };
                Self::Insert { relation, payload, columns, conflict }
            }
            Action::Update(name, payload) => {
                let relation = relation(name)?;
                if !matches!(payload.shape, Shape::Object | Shape::Objects(0 | 1)) {
                    return Err(Error::body(
                        "PATCH takes one JSON object; it is applied to every matching row",
                    ));
                }
                Self::Update { relation, payload, columns: columns(request, relation, payload)? }
            }
            Action::Call(name, arguments) => call::plan(request, schema, name, arguments)?,
        })
    }
}

impl Plan<'_> {
    /// Whether the answer is one value whatever happens, so that its rows need no counting.
    pub(super) fn gives_one_value(&self) -> bool {
        matches!(self, Self::Call { routine, .. } if !routine.returns.set)
    }
}

/// The columns that the payload fills, in the order of its keys.
fn columns<'a>(
    request: &Request,
    relation: &'a Relation,
    payload: &Payload,
) -> Result<Vec<&'a Column>, Error> {
    if payload.shape == Shape::Other {
        return Err(Error::body("The body must be a JSON object or an array of objects"));
    }
    match &request.query.columns {
        Some(names) => names.iter().map(|name| column(relation, name)).collect(),
        None if !payload.uniform => Err(Error::body("All object keys must match")),
        None => payload.keys.iter().map(|name| column(relation, name)).collect(),
    }
}

fn column<'a>(relation: &'a Relation, name: &str) -> Result<&'a Column, Error> {
    relation.column(name).ok_or_else(|| {
        let message =
            format!("Could not find the '{name}' column of '{}' in the schema cache", relation.name);
        let hint = suggest::nearest(name, relation.columns.iter().map(|c| c.name.as_str()))
            .map(|near| format!("Perhaps you meant the column '{near}'"));
        Error::new(StatusCode::BAD_REQUEST, "PGRST204", message, None, hint)
    })
}

fn unknown_relation(schema: &Schema, namespace: &str, name: &str) -> Error {
    let names = schema.relations.get(namespace).into_iter().flat_map(|named| named.keys());
    let hint = suggest::nearest(name, names.map(String::as_str))
        .map(|near| format!("Perhaps you meant the table '{namespace}.{near}'"));
    let message = format!("Could not find the table '{namespace}.{name}' in the schema cache");
    Error::new(StatusCode::NOT_FOUND, "PGRST205", message, None, hint)
}

fn methods(relation: &Relation) -> String {
    let mut methods = String::from("OPTIONS,GET,HEAD");
    for (able, method) in
        [(relation.insertable, ",POST"), (relation.updatable, ",PATCH"), (relation.deletable, ",DELETE")]
    {
        if able {
            methods.push_str(method);
        }
    }
    methods
}
