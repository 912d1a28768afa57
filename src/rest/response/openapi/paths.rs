//! What can be done with relations and functions: `paths`.

use serde_json::{Map, Value, json};

use super::{Function, JSON, OBJECT, OBJECT_STRIPPED, format, items, kind, object, reference, summary};
use crate::schema::{Argument, Mode, Relation, Volatility};

/// The root's, those of relations, those of functions.
pub(super) fn paths(relations: &[&Relation], functions: &[Function<'_>]) -> Value {
    let relations = relations.iter().map(|r| (format!("/{}", r.name), relation(r)));
    let functions = functions.iter().map(|f| (format!("/rpc/{}", f.routine.name), function(f)));
    let root = json!({ "get": {
        "tags": ["Introspection"],
        "summary": "OpenAPI description (this document)",
        "produces": ["application/openapi+json", JSON],
        "responses": { "200": { "description": "OK" } },
    } });
    [("/".to_owned(), root)].into_iter().chain(relations).chain(functions).collect::<Map<_, _>>().into()
}

/// What a path is for.
struct About<'a> {
    tag: String,
    comment: Option<&'a str>,
    produces: Value,
}

impl About<'_> {
    fn operation(&self, parameters: Vec<Value>, responses: Value) -> Value {
        let (first, more) = self.comment.map(summary).unzip();
        object([
            ("tags", json!([self.tag])),
            ("summary", first.into()),
            ("description", more.filter(|more| !more.is_empty()).into()),
            ("produces", self.produces.clone()),
            ("parameters", parameters.into()),
            ("responses", responses),
        ])
    }
}

fn relation(relation: &Relation) -> Value {
    let name = &relation.name;
    let filters =
        relation.columns.iter().map(|column| parameter(&format!("rowFilter.{name}.{}", column.name)));
    let filters: Vec<Value> = filters.collect();
    let body = format!("body.{name}");
    let with = |first: &[Value], more: &[&str]| -> Vec<Value> {
        first.iter().cloned().chain(more.iter().map(|key| parameter(key))).collect()
    };
    let about = About { tag: name.clone(), comment: relation.comment.as_deref(), produces: Value::Null };
    let read = about.operation(
        with(&filters, &["select", "order", "range", "rangeUnit", "offset", "limit", "preferCount"]),
        json!({
            "200": {
                "description": "OK",
                "schema": { "items": reference("definitions", name), "type": "array" },
            },
            "206": { "description": "Partial Content" },
        }),
    );
    // All three as soon as one can work: as in PostgREST, which tells them apart in the answer to OPTIONS only.
    if !(relation.insertable || relation.updatable || relation.deletable) {
        return object([("get", read)]);
    }
    let created = json!({ "201": { "description": "Created" } });
    let done = json!({ "204": { "description": "No Content" } });
    object([
        ("get", read),
        ("post", about.operation(with(&[], &[&body, "select", "preferPost"]), created)),
        ("delete", about.operation(with(&filters, &["preferReturn"]), done.clone())),
        ("patch", about.operation(with(&filters, &[&body, "preferReturn"]), done)),
    ])
}

fn function(function: &Function<'_>) -> Value {
    let routine = function.routine;
    let about = About {
        tag: format!("(rpc) {}", routine.name),
        comment: routine.comment.as_deref(),
        produces: json!([JSON, OBJECT_STRIPPED, OBJECT]),
    };
    let done = json!({ "200": { "description": "OK" } });
    let by_query = match routine.volatility {
        // GET only reads.
        Volatility::Volatile => Value::Null,
        _ => {
            let parameters = function.arguments.iter().map(|(argument, kind)| by_query(argument, kind));
            about.operation(parameters.collect(), done.clone())
        }
    };
    let args = json!({ "name": "args", "required": true, "in": "body", "schema": by_body(function) });
    object([("get", by_query), ("post", about.operation(vec![args, parameter("preferParams")], done))])
}

/// An argument in the query string.
fn by_query(argument: &Argument, sql: &str) -> Value {
    let name_and_place = [
        ("name", Value::from(argument.name.as_str())),
        ("required", argument.is_required().into()),
        ("in", "query".into()),
    ];
    let shape = match (argument.mode, sql.strip_suffix("[]")) {
        (Mode::Variadic, Some(element)) => [
            ("collectionFormat", "multi".into()),
            ("items", object([("format", format(element)), ("type", kind(element).into())])),
            ("type", "array".into()),
        ],
        // An array is one text there, and so is JSON.
        _ => [
            ("format", format(sql)),
            ("type", kind(sql).filter(|kind| *kind != "array").unwrap_or("string").into()),
            ("items", Value::Null),
        ],
    };
    object(name_and_place.into_iter().chain(shape))
}

/// All arguments in one object.
fn by_body(function: &Function<'_>) -> Value {
    let required = function.arguments.iter().map(|(argument, _)| *argument).filter(|a| a.is_required());
    let property = |sql| object([("format", format(sql)), ("items", items(sql)), ("type", kind(sql).into())]);
    let properties = function.arguments.iter().map(|(argument, sql)| (argument.name.clone(), property(sql)));
    let properties: Map<_, _> = properties.collect();
    object([
        ("description", function.routine.comment.as_deref().into()),
        ("required", required.map(|argument| argument.name.as_str()).collect()),
        ("properties", if properties.is_empty() { Value::Null } else { properties.into() }),
        ("type", "object".into()),
    ])
}

fn parameter(key: &str) -> Value {
    reference("parameters", key)
}
