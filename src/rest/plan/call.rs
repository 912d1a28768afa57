//! Function calls: which overload the arguments mean.

use std::collections::BTreeSet;

use super::super::error::{Code, Error};
use super::super::request::Request;
use super::super::request::media::Media;
use super::super::request::payload::Payload;
use super::suggest::{self, LOOSE, NEAR};
use super::tree::{Arguments, Call, Given, Gives, Name, Target};
use crate::schema::{Argument, Mode, Routine, Schema, Shape};

/// What a function is asked with.
struct Asked<'a> {
    /// Names of arguments.
    names: BTreeSet<&'a str>,
    media: &'a Media,
    post: bool,
}

impl Asked<'_> {
    /// The body can only be taken whole.
    fn whole(&self) -> bool {
        self.post && matches!(self.media, Media::Plain | Media::Xml | Media::Octets)
    }
}

/// The function that is meant.
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
    let asked = Asked { names, media: &request.content, post };
    let routines = schema.routines(&request.schema, name);
    let named: Vec<_> = routines.iter().filter(|routine| fits(routine, &asked)).collect();
    let whole: Vec<_> = routines.iter().filter(|r| !fits(r, &asked) && takes_whole(r, &asked)).collect();
    match (&named[..], &whole[..]) {
        ([routine], _) | ([], [routine]) => Ok(routine),
        ([], []) => Err(unknown(schema, &request.schema, name, &asked)),
        ([], several) | (several, _) => Err(ambiguous(several)),
    }
}

fn fits(routine: &Routine, asked: &Asked<'_>) -> bool {
    let inputs: Vec<&Argument> = routine.inputs().collect();
    if inputs.is_empty() {
        return asked.names.is_empty() && !asked.whole();
    }
    let known = |name: &&str| inputs.iter().any(|a| a.name == *name);
    asked.names.iter().all(known)
        && inputs.iter().all(|a| !a.is_required() || asked.names.contains(a.name.as_str()))
}

/// A function of one argument without a name may take the whole body.
fn takes_whole(routine: &Routine, asked: &Asked<'_>) -> bool {
    let inputs: Vec<&Argument> = routine.inputs().collect();
    let [only] = inputs[..] else { return false };
    let fits = match asked.media {
        Media::Json => matches!(only.type_name.as_str(), "json" | "jsonb"),
        Media::Plain => only.type_name == "text",
        Media::Xml => only.type_name == "xml",
        Media::Octets => only.type_name == "bytea",
        _ => false,
    };
    asked.post && only.name.is_empty() && fits
}

/// The call of this function with what the request gives it. `returning`: what is read of its rows.
pub(super) fn plan<'a>(
    request: &'a Request,
    routine: &'a Routine,
    returning: Vec<&'a str>,
) -> Result<Call<'a>, Error> {
    let inputs: Vec<&Argument> = routine.inputs().collect();
    let given: Vec<&Argument> =
        inputs.iter().copied().filter(|argument| request_names(request, &argument.name)).collect();
    let arguments = match &request.payload {
        Some(payload) if inputs.len() == 1 && inputs[0].name.is_empty() => {
            let body = match payload {
                Payload::Json(json) => json.text.clone(),
                Payload::Whole(body) => body.clone(),
                Payload::Form(_) => return Err(Error::internal("a form has no argument without a name")),
            };
            Arguments::Whole(body, &inputs[0].type_name)
        }
        Some(Payload::Json(json)) => {
            let target = |argument: &&'a Argument| {
                let (name, kind) = (argument.name.as_str(), argument.cast_type());
                (Target { name, kind, convert: None, default: None }, argument.mode == Mode::Variadic)
            };
            Arguments::Json(json, given.iter().map(target).collect())
        }
        Some(Payload::Form(fields)) => Arguments::Texts(texts(&given, fields)),
        Some(Payload::Whole(_)) | None => Arguments::Texts(texts(&given, &request.query.arguments)),
    };
    let function = Name { schema: &routine.schema, name: &routine.name };
    Ok(Call { function, arguments, gives: gives(routine), returning })
}

fn request_names(request: &Request, name: &str) -> bool {
    request.columns.contains(name) || request.query.arguments.iter().any(|(given, _)| given == name)
}

fn texts<'a>(given: &[&'a Argument], pairs: &'a [(String, String)]) -> Vec<(&'a str, &'a str, Given<'a>)> {
    let text = |argument: &&'a Argument| {
        let values = pairs.iter().filter(|(name, _)| *name == argument.name);
        let mut values: Vec<&'a str> = values.map(|(_, value)| value.as_str()).collect();
        let given = if argument.mode == Mode::Variadic {
            Given::Many(values)
        } else {
            // Of two for one argument the last counts.
            Given::One(values.pop().unwrap_or_default())
        };
        (argument.name.as_str(), argument.cast_type(), given)
    };
    given.iter().map(text).collect()
}

fn gives(routine: &Routine) -> Gives {
    match (routine.returns.set, routine.returns.shape) {
        (false, Shape::Composite) => Gives::Row,
        (true, Shape::Composite) => Gives::Rows,
        (false, Shape::Scalar | Shape::Void) => Gives::Value,
        (true, Shape::Scalar | Shape::Void) => Gives::Values,
    }
}

/// 404 PGRST202.
fn unknown(schema: &Schema, namespace: &str, name: &str, asked: &Asked<'_>) -> Error {
    let names: Vec<&str> = asked.names.iter().copied().collect();
    let list = names.join(", ");
    let without = " without parameters".to_owned();
    let (with, mut searched) = match names.len() {
        0 => (without.clone(), without),
        1 => (format!("({list})"), format!(" with parameter {list}")),
        _ => (format!("({list})"), format!(" with parameters {list}")),
    };
    let with = if asked.whole() { String::new() } else { with };
    match asked.media {
        Media::Plain if asked.post => searched = " with a single unnamed text parameter".into(),
        Media::Xml if asked.post => searched = " with a single unnamed xml parameter".into(),
        Media::Octets if asked.post => searched = " with a single unnamed bytea parameter".into(),
        Media::Json if asked.post => searched.push_str(" or with a single unnamed json/jsonb parameter"),
        _ => {}
    }
    let message = format!("Could not find the function {namespace}.{name}{with} in the schema cache");
    let details = format!(
        "Searched for the function {namespace}.{name}{searched}, but no matches were found in the schema cache."
    );
    let hint = hint(schema, namespace, name, &list).filter(|_| !asked.whole());
    let hint = hint.map(|near| format!("Perhaps you meant to call the function {namespace}.{near}"));
    Error::new(Code::NoRpc, message).with_details(details).with_hint(hint)
}

fn hint(schema: &Schema, namespace: &str, name: &str, given: &str) -> Option<String> {
    let overloads = schema.routines(namespace, name);
    if overloads.is_empty() {
        return suggest::nearest(name, super::names(schema.routines.get(namespace)), NEAR).map(str::to_owned);
    }
    let signatures: Vec<String> = overloads
        .iter()
        .map(|routine| {
            let mut names: Vec<&str> = routine.inputs().map(|a| a.name.as_str()).collect();
            names.sort_unstable();
            format!("({})", names.join(", "))
        })
        .collect();
    let near = suggest::nearest(&format!("({given})"), signatures.iter().map(String::as_str), LOOSE)?;
    Some(format!("{name}{near}"))
}

fn ambiguous(routines: &[&Routine]) -> Error {
    let signature = |r: &&Routine| {
        let arguments: Vec<_> = r.inputs().map(|a| format!("{} => {}", a.name, a.type_name)).collect();
        format!("{}.{}({})", r.schema, r.name, arguments.join(", "))
    };
    let all: Vec<_> = routines.iter().map(signature).collect();
    let message = format!("Could not choose the best candidate function between: {}", all.join(", "));
    let hint = "Try renaming the parameters or the function itself in the database so function overloading can be resolved";
    Error::new(Code::AmbiguousRpc, message).with_hint(hint)
}
