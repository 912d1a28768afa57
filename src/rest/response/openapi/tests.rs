//! Tests of the document, over a schema that needs no database.

use serde_json::from_value;

use super::*;
use crate::schema::{Facts as Catalog, ForeignKey, Name, PrimaryKey};

fn column(name: &str, sql: &str, more: Value) -> Value {
    let mut column = json!({
        "name": name, "type": sql, "cast": { "schema": "pg_catalog", "name": sql }, "base_type": sql, "not_null": false, "has_default": false,
        "identity": false, "generated": false, "comment": null,
    });
    for (key, value) in more.as_object().unwrap() {
        column[key] = value.clone();
    }
    column
}

fn relation(name: &str, kind: &str, comment: Option<&str>, columns: Value) -> Relation {
    let changes = kind == "table";
    from_value(json!({
        "schema": "api", "name": name, "kind": kind, "comment": comment, "columns": columns, "primary_key": if changes { vec!["id"] } else { vec![] },
        "insertable": changes, "updatable": changes, "deletable": changes,
    }))
    .unwrap()
}

fn routine(
    name: &str,
    volatility: &str,
    comment: Option<&str>,
    arguments: &[(&str, &str, &str, bool)],
) -> Routine {
    let argument = |(name, sql, mode, default): &(&str, &str, &str, bool)| json!({ "name": name, "type": sql, "cast": { "schema": "pg_catalog", "name": sql }, "mode": mode, "has_default": default });
    from_value(json!({
        "schema": "api", "name": name, "comment": comment, "volatility": volatility,
        "arguments": arguments.iter().map(argument).collect::<Vec<_>>(),
        "returns": { "type": "integer", "set": false, "shape": "scalar" },
    }))
    .unwrap()
}

fn library() -> Schema {
    let key = |name: &str| PrimaryKey { relation: Name::new("api", name), columns: vec!["id".into()] };
    let authors = json!([
        column(
            "id",
            "bigint",
            json!({ "not_null": true, "has_default": true, "default": "nextval('a'::regclass)" })
        ),
        column(
            "name",
            "character varying",
            json!({ "not_null": true, "max_length": 20, "comment": "As printed" })
        ),
        column("state", "api.state", json!({ "enum": ["alive", "dead"], "default": "'alive'::api.state" })),
    ]);
    let books = json!([
        column("id", "integer", json!({ "not_null": true })),
        column("author_id", "bigint", json!({ "comment": "Who wrote it" })),
        column("tags", "text[]", json!({})),
        column("notes", "jsonb", json!({})),
    ]);
    let mut facts = Catalog {
        relations: vec![
            relation("authors", "table", Some("Authors\n\nThose who write,\nor wrote"), authors),
            relation("books", "table", None, books),
            relation("titles", "materialized", Some("Titles"), json!([column("title", "text", json!({}))])),
            relation("wages", "table", None, json!([column("wage", "numeric", json!({}))])),
        ],
        routines: vec![
            routine("add", "immutable", None, &[("a", "integer", "in", false)]),
            routine(
                "add",
                "immutable",
                Some("Adds\nas many as you want"),
                &[
                    ("a", "integer", "in", false),
                    ("b", "integer[]", "variadic", true),
                    ("sum", "integer", "out", false),
                ],
            ),
            routine(
                "add",
                "immutable",
                None,
                &[("a", "text", "in", false), ("b", "text", "in", false), ("c", "text", "in", false)],
            ),
            routine(
                "bury",
                "volatile",
                None,
                &[("state", "api.state", "in", false), ("notes", "json", "in", true)],
            ),
            routine("pay", "volatile", None, &[]),
        ],
        primary_keys: vec![key("authors"), key("books")],
        foreign_keys: vec![ForeignKey {
            name: "books_author_id_fkey".into(),
            relation: Name::new("api", "books"),
            target: Name::new("api", "authors"),
            columns: vec![("author_id".into(), "id".into())],
            unique: false,
        }],
        comments: vec![("api".into(), "Library\n\nAll our books".into())],
        ..Catalog::default()
    };
    facts.relations.push(Relation { schema: "other".into(), ..facts.relations[3].clone() });
    Schema::new(facts).unwrap()
}

fn usable() -> Usable {
    from_value(json!({
        "relations": ["authors", "books", "titles"],
        "types": {
            "23": { "known": "integer", "shown": "integer" },
            "1007": { "known": "integer[]", "shown": "integer[]" },
            "114": { "known": "json", "shown": "json" },
            "16500": { "known": "api.state", "shown": "state" },
        },
        "routines": [
            { "name": "add", "types": [23] },
            { "name": "add", "types": [23, 1007] },
            { "name": "bury", "types": [16500, 114] },
        ],
    }))
    .unwrap()
}

#[test]
fn a_document_shows_what_may_be_used() {
    let (schema, usable) = (library(), usable());
    let root = Root::new("https", "books.example.com", None, "/rest/v1/");
    let (usable, root) = (Some(&usable), Some(&root));
    let facts = Facts { schema: &schema, namespace: "api", usable, root, secured: true };
    insta::assert_json_snapshot!(document(&facts));
}

#[test]
fn without_privileges_it_shows_all_of_one_schema() {
    let schema = library();
    let names = |namespace, usable: Option<&Usable>| {
        let facts = Facts { schema: &schema, namespace, usable, root: None, secured: false };
        let document = document(&facts);
        for absent in ["host", "basePath", "schemes", "security", "securityDefinitions"] {
            assert_eq!(document.get(absent), None);
        }
        let paths = document["paths"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        // The overload with most arguments, with its types as the schema has them.
        let add = document["paths"]["/rpc/add"]["get"]["parameters"].as_array().map(Vec::len);
        (paths, add)
    };
    let all = "/ /authors /books /titles /wages /rpc/add /rpc/bury /rpc/pay";
    assert_eq!(names("api", None), (all.to_owned(), Some(3)));
    assert_eq!(names("other", None), ("/ /wages".to_owned(), None));
    assert_eq!(names("gone", None), ("/".to_owned(), None));
    assert_eq!(names("api", Some(&Usable::default())), ("/".to_owned(), None));
    // An overload of the same name is not the one that may be executed.
    let other = from_value(json!({
        "relations": [],
        "types": { "25": { "known": "text", "shown": "text" } },
        "routines": [{ "name": "add", "types": [25] }, { "name": "add", "types": [26] }],
    }));
    assert_eq!(names("api", Some(&other.unwrap())), ("/".to_owned(), None));
}

#[test]
fn comments_have_a_first_line() {
    assert_eq!(summary("one"), ("one", ""));
    assert_eq!(summary("one\n\n\ntwo\n\nthree"), ("one", "two\n\nthree"));
    assert_eq!(info(Some("one"))["description"], "");
}

#[test]
fn references_are_pointers_in_a_fragment() {
    for (key, expected) in
        [("a.b", "a.b"), ("50%", "50%25"), ("a/b", "a~1b"), ("a~b", "a~0b"), ("~1%7E", "~01%257E")]
    {
        assert_eq!(reference("parameters", key)["$ref"], format!("#/parameters/{expected}"));
    }
    let odd = relation("of%all", "table", None, json!([column("a%b", "integer", json!({}))]));
    let relations = [&odd];
    let paths = paths::paths(&relations, &[]).to_string();
    for expected in
        ["#/parameters/rowFilter.of%25all.a%25b", "#/parameters/body.of%25all", "#/definitions/of%25all"]
    {
        assert!(paths.contains(&format!("{expected}\"")), "{expected}: {paths}");
    }
    assert!(parameters::parameters(&relations).to_string().contains("#/definitions/of%25all\""));
}
