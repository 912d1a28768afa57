//! The document at the root: OpenAPI 2.0, as PostgREST's tools expect it, with its order of keys.
//!
//! `definitions` describes rows, `parameters` filters and preferences, and `paths` the operations that use them.

mod definitions;
mod parameters;
mod paths;

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::root::Root;
use crate::schema::{Argument, Column, Relation, Routine, Schema};

/// PostgREST's version whose API this is: what its tools look for in `info`.
const VERSION: &str = "14.17";
const JSON: &str = "application/json";
const OBJECT: &str = "application/vnd.pgrst.object+json";
const OBJECT_STRIPPED: &str = "application/vnd.pgrst.object+json;nulls=stripped";

/// What a document is made of.
pub(in crate::rest) struct Facts<'a> {
    pub(in crate::rest) schema: &'a Schema,
    /// The database's schema that is described.
    pub(in crate::rest) namespace: &'a str,
    /// What the caller may use of it; `None` for everything.
    pub(in crate::rest) usable: Option<&'a Usable>,
    /// The API's URL; `None` if it is not known.
    pub(in crate::rest) root: Option<&'a Root>,
    /// Whether the document asks for a token.
    pub(in crate::rest) secured: bool,
}

/// What the request's role may use: the body of [`privileges`](super::super::sql::document::privileges).
#[derive(Debug, Default, Deserialize)]
pub(in crate::rest) struct Usable {
    relations: HashSet<String>,
    /// By their number in the database.
    types: HashMap<u32, TypeNames>,
    routines: Vec<Executable>,
}

/// How a type is called.
#[derive(Debug, Deserialize)]
struct TypeNames {
    /// In the schema.
    known: String,
    /// In the document.
    shown: String,
}

/// A function that may be executed.
#[derive(Debug, Deserialize)]
struct Executable {
    name: String,
    /// Of its input arguments.
    types: Vec<u32>,
}

impl Usable {
    /// What the types of a function's input arguments are called.
    fn types<'a>(&'a self, function: &'a Executable) -> impl Iterator<Item = Option<&'a TypeNames>> {
        function.types.iter().map(|number| self.types.get(number))
    }
}

/// A function in the document.
struct Function<'a> {
    routine: &'a Routine,
    /// The input arguments, each with its type as it is shown.
    arguments: Vec<(&'a Argument, &'a str)>,
}

/// About how long the document will be, in bytes: counted before any of it is made, for that takes several times as much.
pub(in crate::rest) fn length(facts: &Facts<'_>) -> usize {
    let comment = |comment: &Option<String>| comment.as_ref().map_or(0, String::len);
    let column = |relation: &Relation, column: &Column| {
        // A property, a filter, and three references to that.
        let named = 6 * column.name.len() + 4 * relation.name.len() + 2 * comment(&column.comment);
        let kind = column.base_type.len() + column.default.as_ref().map_or(0, String::len);
        let labels = column.enum_values.iter().map(|label| label.len() + 3).sum::<usize>();
        named + kind + labels + 350
    };
    let relation = |relation: &&Relation| {
        let columns = relation.columns.iter().map(|c| column(relation, c)).sum::<usize>();
        columns + 15 * relation.name.len() + 5 * comment(&relation.comment) + 1500
    };
    let function = |function: &Function<'_>| {
        let argument =
            |(argument, shown): &(&Argument, &str)| 3 * argument.name.len() + 2 * shown.len() + 150;
        let arguments = function.arguments.iter().map(argument).sum::<usize>();
        arguments + 3 * function.routine.name.len() + 3 * comment(&function.routine.comment) + 600
    };
    relations(facts).iter().map(relation).sum::<usize>()
        + functions(facts).iter().map(function).sum::<usize>()
}

/// The document.
pub(in crate::rest) fn document(facts: &Facts<'_>) -> Value {
    let (relations, functions) = (relations(facts), functions(facts));
    let media = json!([JSON, OBJECT_STRIPPED, OBJECT, "text/csv"]);
    let description = "Add the token prepending \"Bearer \" (without quotes) to it";
    let security = json!({
        "JWT": { "in": "header", "name": "Authorization", "type": "apiKey", "description": description }
    });
    let secured = |value| if facts.secured { value } else { Value::Null };
    let root = |part: fn(&Root) -> Value| facts.root.map_or(Value::Null, part);
    object([
        ("swagger", "2.0".into()),
        ("info", info(facts.schema.comments.get(facts.namespace).map(String::as_str))),
        ("host", root(|root| root.host.clone().into())),
        ("basePath", root(|root| root.path.clone().into())),
        ("schemes", root(|root| json!([root.scheme]))),
        ("consumes", media.clone()),
        ("produces", media),
        ("paths", paths::paths(&relations, &functions)),
        ("definitions", definitions::definitions(facts.schema, &relations)),
        ("parameters", parameters::parameters(&relations)),
        ("securityDefinitions", secured(security)),
        ("security", secured(json!([{ "JWT": [] }]))),
        (
            "externalDocs",
            json!({
                "description": "PostgREST Documentation",
                "url": "https://postgrest.org/en/v16/references/api.html",
            }),
        ),
    ])
}

fn info(comment: Option<&str>) -> Value {
    let (title, description) = comment.map_or(
        ("PostgREST API", "A REST API made from the database's schema, as PostgREST makes it"),
        summary,
    );
    json!({ "description": description, "title": title, "version": VERSION })
}

/// By name.
fn relations<'a>(facts: &Facts<'a>) -> Vec<&'a Relation> {
    let all = facts.schema.relations.get(facts.namespace).into_iter().flat_map(|named| named.values());
    all.filter(|r| facts.usable.is_none_or(|usable| usable.relations.contains(&r.name))).collect()
}

/// By name, one of each: a path can be described once, and PostgREST shows the overload with most arguments.
fn functions<'a>(facts: &Facts<'a>) -> Vec<Function<'a>> {
    let Some(named) = facts.schema.routines.get(facts.namespace) else { return Vec::new() };
    let mut executable: HashMap<&str, Vec<&Executable>> = HashMap::new();
    for function in facts.usable.into_iter().flat_map(|usable| &usable.routines) {
        executable.entry(&function.name).or_default().push(function);
    }
    let function = |routine: &'a Routine| {
        let Some(usable) = facts.usable else {
            let arguments = routine.inputs().map(|argument| (argument, argument.type_name.as_str()));
            return Some(Function { routine, arguments: arguments.collect() });
        };
        let types = || routine.inputs().map(|argument| argument.type_name.as_str());
        let overloads = executable.get(routine.name.as_str())?;
        let known = |function| usable.types(function).map(|names| names.map(|names| names.known.as_str()));
        let found = overloads.iter().find(|function| known(function).eq(types().map(Some)))?;
        let arguments = routine.inputs().zip(usable.types(found).flatten().map(|names| names.shown.as_str()));
        Some(Function { routine, arguments: arguments.collect() })
    };
    named.values().filter_map(|overloads| overloads.iter().rev().find_map(function)).collect()
}

/// An object without the fields that are null or an empty list.
fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let has_content = |value: &Value| match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    let fields = fields.into_iter().filter(|(_, value)| has_content(value));
    Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect())
}

/// A reference within the document: a JSON pointer (RFC 6901) in the fragment of a URL.
fn reference(section: &str, key: &str) -> Value {
    let key = key.replace('%', "%25").replace('~', "~0").replace('/', "~1");
    json!({ "$ref": format!("#/{section}/{key}") })
}

/// A comment's first line, and the rest of it without blank lines before.
fn summary(comment: &str) -> (&str, &str) {
    let (first, more) = comment.split_once('\n').unwrap_or((comment, ""));
    (first, more.trim_start_matches('\n'))
}

/// The type in JSON; `None` for `json` and `jsonb`, which may be any.
fn kind(sql: &str) -> Option<&'static str> {
    Some(match sql {
        "json" | "jsonb" => return None,
        "boolean" => "boolean",
        "smallint" | "integer" | "bigint" => "integer",
        "numeric" | "real" | "double precision" => "number",
        array if array.ends_with("[]") => "array",
        _ => "string",
    })
}

/// OpenAPI's format for a type if it has one, else PostgreSQL's name.
fn format(sql: &str) -> Value {
    match sql {
        "smallint" | "integer" => "int32",
        "bigint" => "int64",
        other => other,
    }
    .into()
}

/// The elements of an array. An object without a type allows anything.
fn items(sql: &str) -> Value {
    sql.strip_suffix("[]").map_or(Value::Null, |element| object([("type", kind(element).into())]))
}

#[cfg(test)]
mod tests;
