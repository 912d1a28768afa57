//! Function calls: the overload that fits the arguments.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::error::{Code, Error};
use super::super::request::Request;
use super::super::request::media::Media;
use super::super::request::payload::Payload;
use super::listed;
use super::suggest::{self, LOOSE_SIMILARITY, STRICT_SIMILARITY};
use super::tree::{ArgumentValue, Arguments, Call, Name, ResultShape, Target};
use crate::schema::{Argument, Mode, Routine, Schema, Shape};

/// Most arguments of all functions of one name together. To choose among more would take longer than the call of one.
const MAX_ARGUMENTS: usize = 100_000;

/// What a request has for choosing an overload.
struct Invocation<'a> {
    /// The names of its arguments.
    names: BTreeSet<&'a str>,
    media: &'a Media,
    post: bool,
}

impl Invocation<'_> {
    /// Whether the body has a type that only a function with one unnamed argument takes.
    fn has_raw_body(&self) -> bool {
        self.post && matches!(self.media, Media::Plain | Media::Xml | Media::Octets)
    }
}

/// Finds the function, by its name and its arguments.
pub(super) fn find<'a>(
    request: &'a Request,
    schema: &'a Schema,
    name: &str,
    post: bool,
) -> Result<&'a Routine, Error> {
    let names = if post {
        request.columns.iter().map(String::as_str).collect()
    } else {
        request.query.arguments.iter().map(|(name, _)| name.as_str()).collect()
    };
    let invocation = Invocation { names, media: &request.content_type, post };
    let routines = schema.routines(&request.schema, name);
    if routines.iter().map(|routine| routine.arguments.len()).sum::<usize>() > MAX_ARGUMENTS {
        return Err(ambiguous(&routines.iter().collect::<Vec<_>>()));
    }
    let (named, others): (Vec<_>, Vec<_>) = routines.iter().partition(|routine| fits(routine, &invocation));
    let raw: Vec<_> = others.into_iter().filter(|routine| takes_raw_body(routine, &invocation)).collect();
    match (&named[..], &raw[..]) {
        ([routine], _) | ([], [routine]) => Ok(routine),
        ([], []) => Err(not_found(schema, &request.schema, name, &invocation)),
        ([], several) | (several, _) => Err(ambiguous(several)),
    }
}

fn fits(routine: &Routine, invocation: &Invocation<'_>) -> bool {
    let inputs: Vec<&Argument> = routine.inputs().collect();
    if inputs.is_empty() {
        return invocation.names.is_empty() && !invocation.has_raw_body();
    }
    if invocation.names.len() > inputs.len() {
        return false;
    }
    // An input has a name of its own, or none. So the request has no other names when it has as many as were found.
    let (mut found, mut unnamed) = (0, false);
    for argument in &inputs {
        match invocation.names.contains(argument.name.as_str()) {
            true if argument.name.is_empty() => unnamed = true,
            true => found += 1,
            false if argument.is_required() => return false,
            false => {}
        }
    }
    found + usize::from(unnamed) == invocation.names.len()
}

/// Whether the function has one unnamed argument, which takes the whole body.
fn takes_raw_body(routine: &Routine, invocation: &Invocation<'_>) -> bool {
    let inputs: Vec<&Argument> = routine.inputs().collect();
    let [only] = inputs[..] else { return false };
    let fits = match invocation.media {
        Media::Json => matches!(only.type_name.as_str(), "json" | "jsonb"),
        Media::Plain => only.type_name == "text",
        Media::Xml => only.type_name == "xml",
        Media::Octets => only.type_name == "bytea",
        _ => false,
    };
    invocation.post && only.name.is_empty() && fits
}

/// The call of this function with the request's arguments. `returning`: the columns of its rows that are read.
pub(super) fn plan<'a>(
    request: &'a Request,
    routine: &'a Routine,
    returning: Vec<&'a str>,
) -> Result<Call<'a>, Error> {
    let inputs: Vec<&Argument> = routine.inputs().collect();
    let names: HashSet<&str> = request.query.arguments.iter().map(|(name, _)| name.as_str()).collect();
    let is_supplied = |argument: &&Argument| {
        request.columns.contains(&argument.name) || names.contains(argument.name.as_str())
    };
    let supplied: Vec<&Argument> = inputs.iter().copied().filter(is_supplied).collect();
    let arguments = match &request.payload {
        Some(payload) if inputs.len() == 1 && inputs[0].name.is_empty() => {
            let body = match payload {
                Payload::Json(json) => json.text.clone(),
                Payload::Raw(body) => body.clone(),
                Payload::Form(_) => return Err(Error::internal("a form has no argument without a name")),
            };
            Arguments::Whole(body, Name::from(&inputs[0].cast))
        }
        Some(Payload::Json(json)) => {
            let target = |argument: &&'a Argument| {
                let (name, cast) = (argument.name.as_str(), Name::from(&argument.cast));
                (Target { name, cast, convert: None, default: None }, argument.mode == Mode::Variadic)
            };
            Arguments::Json(json, supplied.iter().map(target).collect())
        }
        Some(Payload::Form(fields)) => Arguments::Texts(texts(&supplied, fields)),
        Some(Payload::Raw(_)) | None => Arguments::Texts(texts(&supplied, &request.query.arguments)),
    };
    let function = Name { schema: &routine.schema, name: &routine.name };
    Ok(Call { function, arguments, result: result_shape(routine), returning })
}

fn texts<'a>(
    supplied: &[&'a Argument],
    pairs: &'a [(String, String)],
) -> Vec<(&'a str, Name<'a>, ArgumentValue<'a>)> {
    let mut given: HashMap<&str, Vec<&'a str>> =
        supplied.iter().map(|argument| (argument.name.as_str(), Vec::new())).collect();
    for (name, value) in pairs {
        if let Some(values) = given.get_mut(name.as_str()) {
            values.push(value);
        }
    }
    let text = |argument: &&'a Argument| {
        let mut values = given.remove(argument.name.as_str()).unwrap_or_default();
        let supplied = if argument.mode == Mode::Variadic {
            ArgumentValue::Variadic(values)
        } else {
            // Of several values for one argument the last is taken.
            ArgumentValue::Single(values.pop().unwrap_or_default())
        };
        (argument.name.as_str(), Name::from(&argument.cast), supplied)
    };
    supplied.iter().map(text).collect()
}

fn result_shape(routine: &Routine) -> ResultShape {
    match (routine.returns.set, routine.returns.shape) {
        (false, Shape::Composite) => ResultShape::Row,
        (true, Shape::Composite) => ResultShape::Rows,
        (false, Shape::Scalar | Shape::Void) => ResultShape::Scalar,
        (true, Shape::Scalar | Shape::Void) => ResultShape::Scalars,
    }
}

/// 404 PGRST202, with a hint when a similar name exists.
fn not_found(schema: &Schema, namespace: &str, name: &str, invocation: &Invocation<'_>) -> Error {
    let names = &invocation.names;
    let list = listed(names);
    let without = " without parameters".to_owned();
    let (with, mut searched) = match names.len() {
        0 => (without.clone(), without),
        1 => (format!("({list})"), format!(" with parameter {list}")),
        _ => (format!("({list})"), format!(" with parameters {list}")),
    };
    let with = if invocation.has_raw_body() { String::new() } else { with };
    match invocation.media {
        Media::Plain if invocation.post => searched = " with a single unnamed text parameter".into(),
        Media::Xml if invocation.post => searched = " with a single unnamed xml parameter".into(),
        Media::Octets if invocation.post => searched = " with a single unnamed bytea parameter".into(),
        Media::Json if invocation.post => searched.push_str(" or with a single unnamed json/jsonb parameter"),
        _ => {}
    }
    let message = format!("Could not find the function {namespace}.{name}{with} in the schema cache");
    let details = format!(
        "Searched for the function {namespace}.{name}{searched}, but no matches were found in the schema cache."
    );
    let hint = hint(schema, namespace, name, &list).filter(|_| !invocation.has_raw_body());
    let hint = hint.map(|near| format!("Perhaps you meant to call the function {namespace}.{near}"));
    Error::new(Code::NoRpc, message).with_details(details).with_hint(hint)
}

fn hint(schema: &Schema, namespace: &str, name: &str, supplied: &str) -> Option<String> {
    let overloads = schema.routines(namespace, name);
    if overloads.is_empty() {
        return suggest::nearest(name, super::names(schema.routines.get(namespace)), STRICT_SIMILARITY)
            .map(str::to_owned);
    }
    let signatures = overloads.iter().map(|routine| {
        let mut names: Vec<&str> = routine.inputs().map(|a| a.name.as_str()).collect();
        names.sort_unstable();
        format!("({})", names.join(", "))
    });
    let near = suggest::nearest(&format!("({supplied})"), signatures, LOOSE_SIMILARITY)?;
    Some(format!("{name}{near}"))
}

fn ambiguous(routines: &[&Routine]) -> Error {
    let signature = |r: &&Routine| {
        let arguments: Vec<_> = r.inputs().map(|a| format!("{} => {}", a.name, a.type_name)).collect();
        format!("{}.{}({})", r.schema, r.name, arguments.join(", "))
    };
    let all = listed(routines.iter().map(signature));
    let message = format!("Could not choose the best candidate function between: {all}");
    let hint = "Try renaming the parameters or the function itself in the database so function overloading can be resolved";
    Error::new(Code::AmbiguousRpc, message).with_hint(hint)
}
