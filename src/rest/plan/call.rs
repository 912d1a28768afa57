//! Function calls: which overload the arguments mean.

use http::StatusCode;

use super::super::error::Error;
use super::super::request::filter::Filter;
use super::super::request::payload::{Payload, Shape as Json};
use super::super::request::{Arguments, Request};
use super::{Plan, suggest};
use crate::schema::{Argument, Mode, Routine, Schema, Shape};

/// Where a call's arguments come from.
#[derive(Debug, PartialEq)]
pub(crate) enum Source<'a> {
    /// Keys of a JSON object.
    Object(&'a Payload, Vec<&'a Argument>),
    /// The whole body is the only, unnamed argument.
    Whole(&'a Payload, &'a Argument),
    /// Query parameters; a variadic one may come several times.
    Query(Vec<(&'a Argument, Vec<&'a str>)>),
}

pub(super) fn plan<'a>(
    request: &'a Request,
    schema: &'a Schema,
    name: &str,
    arguments: &'a Arguments,
) -> Result<Plan<'a>, Error> {
    let routines = schema.routines(&request.schema, name);
    let (given, rest_may_filter): (Vec<&str>, bool) = match arguments {
        Arguments::Body(payload) => (payload.keys.iter().map(String::as_str).collect(), false),
        Arguments::Query => (request.query.pairs.iter().map(|(key, _)| key.as_str()).collect(), true),
    };
    let object = match arguments {
        Arguments::Body(payload) => payload.shape == Json::Object,
        Arguments::Query => true,
    };
    let mut fitting: Vec<_> =
        routines.iter().filter(|r| object && fits(r, &given, rest_may_filter)).collect();
    if rest_may_filter && fitting.len() > 1 {
        // What could be a filter or an argument is an argument: the overload that takes most of them is meant.
        let taken = |r: &Routine| r.inputs().filter(|a| given.contains(&a.name.as_str())).count();
        let most = fitting.iter().map(|r| taken(r)).max();
        fitting.retain(|r| Some(taken(r)) == most);
    }
    match (fitting[..].as_ref(), arguments) {
        ([routine], Arguments::Body(payload)) => {
            let used = routine.inputs().filter(|a| payload.keys.contains(&a.name)).collect();
            Ok(Plan::Call {
                routine,
                source: Source::Object(payload, used),
                filters: request.query.filters.clone(),
            })
        }
        ([routine], Arguments::Query) => {
            let mut used = Vec::new();
            for argument in routine.inputs() {
                let pairs = request.query.pairs.iter().filter(|(key, _)| *key == argument.name);
                let values: Vec<_> = pairs.map(|(_, value)| value.as_str()).collect();
                if !values.is_empty() {
                    used.push((argument, values));
                }
            }
            let mut filters = request.query.filters.clone();
            for (key, value) in &request.query.pairs {
                if !used.iter().any(|(argument, _)| argument.name == *key) {
                    filters.push(Filter::parse(key, value)?);
                }
            }
            Ok(Plan::Call { routine, source: Source::Query(used), filters })
        }
        ([], Arguments::Body(payload)) => {
            let whole = routines.iter().find_map(|r| Some((r, unnamed_json(r)?)));
            let (routine, argument) = whole.ok_or_else(|| unknown(schema, &request.schema, name, &given))?;
            let filters = request.query.filters.clone();
            Ok(Plan::Call { routine, source: Source::Whole(payload, argument), filters })
        }
        ([], Arguments::Query) => Err(unknown(schema, &request.schema, name, &given)),
        (several, _) => Err(ambiguous(several)),
    }
}

/// Whether every given name is an argument (or can be a filter) and every needed argument is given.
fn fits(routine: &Routine, given: &[&str], rest_may_filter: bool) -> bool {
    let known = |name: &&str| !name.is_empty() && routine.inputs().any(|a| a.name == **name);
    let filterable = rest_may_filter && routine.returns.shape == Shape::Composite;
    (filterable || given.iter().all(known))
        && routine.inputs().all(|a| {
            a.has_default
                || a.mode == Mode::Variadic
                || (!a.name.is_empty() && given.contains(&a.name.as_str()))
        })
}

fn unnamed_json(routine: &Routine) -> Option<&Argument> {
    let mut inputs = routine.inputs();
    let only = inputs.next().filter(|a| a.name.is_empty() && matches!(&*a.type_name, "json" | "jsonb"))?;
    inputs.next().is_none().then_some(only)
}

/// 404 PGRST202.
pub(super) fn unknown(schema: &Schema, namespace: &str, name: &str, given: &[&str]) -> Error {
    let (with, searched) = if given.is_empty() {
        (" without parameters".to_owned(), " without parameters".to_owned())
    } else {
        let plural = if given.len() > 1 { "s" } else { "" };
        (format!("({})", given.join(", ")), format!(" with parameter{plural} {}", given.join(", ")))
    };
    let message = format!("Could not find the function {namespace}.{name}{with} in the schema cache");
    let details = format!(
        "Searched for the function {namespace}.{name}{searched}, but no matches were found in the schema cache."
    );
    let overloads = schema.routines(namespace, name);
    let hint = match overloads.first() {
        Some(routine) => {
            let names: Vec<_> = routine.inputs().map(|a| a.name.as_str()).collect();
            Some(format!("Perhaps you meant to call the function {namespace}.{name}({})", names.join(", ")))
        }
        None => {
            let names = schema.routines.get(namespace).into_iter().flat_map(|named| named.keys());
            suggest::nearest(name, names.map(String::as_str))
                .map(|near| format!("Perhaps you meant to call the function {namespace}.{near}"))
        }
    };
    Error::new(StatusCode::NOT_FOUND, "PGRST202", message, Some(details), hint)
}

fn ambiguous(routines: &[&Routine]) -> Error {
    let signature = |r: &&Routine| {
        let arguments: Vec<_> = r.inputs().map(|a| format!("{} => {}", a.name, a.type_name)).collect();
        format!("{}.{}({})", r.schema, r.name, arguments.join(", "))
    };
    let all: Vec<_> = routines.iter().map(signature).collect();
    let message = format!("Could not choose the best candidate function between: {}", all.join(", "));
    let hint = "Try renaming the parameters or the function itself in the database so function overloading can be resolved";
    Error::new(StatusCode::MULTIPLE_CHOICES, "PGRST203", message, None, Some(hint.into()))
}
