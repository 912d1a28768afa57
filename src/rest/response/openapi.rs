//! The document at the root: OpenAPI 2.0 of what the caller's role may use.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::error::Error;
use super::super::request::Request;
use crate::schema::{Column, Relation, Routine, Schema};

/// What `sql/document.sql` gives.
#[derive(Deserialize)]
struct Privileges {
    /// By name: SELECT, INSERT, UPDATE, DELETE.
    relations: BTreeMap<String, [bool; 4]>,
    /// Names of functions that may be called.
    routines: BTreeSet<String>,
}

pub(super) fn document(request: &Request, schema: &Schema, privileges: &[u8]) -> Result<Bytes, Error> {
    let privileges: Privileges = serde_json::from_slice(privileges)
        .map_err(|e| Error::internal(format!("the privileges' query gave no privileges: {e}")))?;
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    paths.insert("/".into(), json!({"get": {"summary": "This document", "responses": ok("OK")}}));
    for (name, relation) in schema.relations.get(&request.schema).into_iter().flatten() {
        let Some(allowed) = privileges.relations.get(name) else { continue };
        let methods = methods(relation, *allowed);
        if !methods.is_empty() {
            paths.insert(format!("/{name}"), Value::Object(methods));
            definitions.insert(name.clone(), definition(relation));
        }
    }
    for (name, overloads) in schema.routines.get(&request.schema).into_iter().flatten() {
        if let Some(routine) = overloads.first().filter(|_| privileges.routines.contains(name)) {
            paths.insert(format!("/rpc/{name}"), json!({"post": call(name, routine)}));
        }
    }
    let document = json!({
        "swagger": "2.0",
        "info": {"title": "manybox", "version": env!("CARGO_PKG_VERSION"),
                 "description": "What this role may use of the schema."},
        "consumes": ["application/json"],
        "produces": ["application/json", "application/vnd.pgrst.object+json"],
        "paths": paths,
        "definitions": definitions,
    });
    Ok(document.to_string().into())
}

fn ok(description: &str) -> Value {
    json!({"200": {"description": description}})
}

fn methods(relation: &Relation, allowed: [bool; 4]) -> Map<String, Value> {
    let [select, insert, update, delete] = allowed;
    let reference = json!({"$ref": format!("#/definitions/{}", relation.name)});
    let filters: Vec<_> = relation
        .columns
        .iter()
        .map(|c| json!({"name": c.name, "in": "query", "type": "string", "required": false, "format": c.type_name}))
        .collect();
    let body = json!([{"name": relation.name, "in": "body", "schema": reference}]);
    let mut methods = Map::new();
    let tags = json!([relation.name]);
    if select {
        let responses = json!({"200": {"description": "OK", "schema": {"type": "array", "items": reference}},
                               "206": {"description": "Partial Content"}});
        methods.insert(
            "get".into(),
            json!({"tags": tags, "summary": relation.comment, "parameters": filters, "responses": responses}),
        );
    }
    if insert && relation.insertable {
        let responses = json!({"201": {"description": "Created"}});
        methods.insert("post".into(), json!({"tags": tags, "parameters": body, "responses": responses}));
    }
    let responses = json!({"204": {"description": "No Content"}});
    if update && relation.updatable {
        let parameters: Vec<_> =
            filters.iter().cloned().chain(body.as_array().cloned().unwrap_or_default()).collect();
        methods
            .insert("patch".into(), json!({"tags": tags, "parameters": parameters, "responses": responses}));
    }
    if delete && relation.deletable {
        methods.insert("delete".into(), json!({"tags": tags, "parameters": filters, "responses": responses}));
    }
    methods
}

fn definition(relation: &Relation) -> Value {
    let required: Vec<_> = relation
        .columns
        .iter()
        .filter(|c| c.not_null && !c.has_default && !c.generated)
        .map(|c| &c.name)
        .collect();
    let properties: Map<_, _> = relation.columns.iter().map(|c| (c.name.clone(), property(c))).collect();
    let mut definition = json!({"type": "object", "properties": properties});
    // JSON Schema draft 4, which OpenAPI 2.0 is built on: an empty `required` is not allowed.
    if !required.is_empty() {
        definition["required"] = json!(required);
    }
    if let Some(comment) = &relation.comment {
        definition["description"] = json!(comment);
    }
    definition
}

fn property(column: &Column) -> Value {
    let mut property = typed(&column.type_name);
    if let Some(comment) = &column.comment {
        property["description"] = json!(comment);
    }
    property
}

fn typed(name: &str) -> Value {
    if let Some(element) = name.strip_suffix("[]") {
        return json!({"type": "array", "items": typed(element), "format": name});
    }
    let kind = match name {
        "smallint" | "integer" | "bigint" => "integer",
        "real" | "double precision" => "number",
        "boolean" => "boolean",
        "json" | "jsonb" => return json!({"format": name}),
        _ if name.starts_with("numeric") => "number",
        _ => "string",
    };
    json!({"type": kind, "format": name})
}

fn call(name: &str, routine: &Routine) -> Value {
    let named = || routine.inputs().filter(|a| !a.name.is_empty());
    let properties: Map<_, _> = named().map(|a| (a.name.clone(), typed(&a.type_name))).collect();
    let required: Vec<_> = named().filter(|a| !a.has_default).map(|a| &a.name).collect();
    let mut arguments = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        arguments["required"] = json!(required);
    }
    json!({
        "tags": [format!("(rpc) {name}")],
        "summary": routine.comment,
        "parameters": [{"name": "args", "in": "body", "schema": arguments}],
        "responses": ok("OK"),
    })
}
