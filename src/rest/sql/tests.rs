//! Tests of the SQL that requests become, over a schema that needs no database: what it is, and that no value is in it.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value as Json, from_value, json};

use super::super::plan::Plan;
use super::super::request::Request;
use super::*;
use crate::policy::{Api, Limits};
use crate::schema::{Facts, ForeignKey, Name, PrimaryKey, Relation, Routine, Schema};

type Header<'a> = (&'a str, &'a str);
/// Method, target, headers, body.
type Case<'a, Target, Headers> = (&'a str, Target, Headers, &'a str);

/// A type of PostgreSQL's by the name that its catalog has for it.
fn cast(kind: &str) -> Json {
    let name = match kind {
        "bigint" => "int8",
        "integer" => "int4",
        "text[]" => "_text",
        other => other,
    };
    json!({ "schema": "pg_catalog", "name": name })
}

fn relation(name: &str, key: &str, columns: &[(&str, &str, Option<&str>)]) -> Relation {
    let column = |(name, kind, default): &(&str, &str, Option<&str>)| {
        json!({
            "name": name, "type": kind, "cast": cast(kind), "base_type": kind, "not_null": false, "has_default": default.is_some(),
            "default": default, "identity": false, "generated": false, "comment": null,
        })
    };
    from_value(json!({
        "schema": "api", "name": name, "kind": "table", "comment": null, "primary_key": [key],
        "columns": columns.iter().map(column).collect::<Vec<_>>(),
        "insertable": true, "updatable": true, "deletable": true,
    }))
    .unwrap()
}

fn routine(name: &str, arguments: &[(&str, &str, &str)], returns: Json) -> Routine {
    let argument = |(name, kind, mode): &(&str, &str, &str)| json!({ "name": name, "type": kind, "cast": cast(kind), "mode": mode, "has_default": *mode == "variadic" });
    from_value(json!({
        "schema": "api", "name": name, "comment": null, "volatility": "volatile",
        "arguments": arguments.iter().map(argument).collect::<Vec<_>>(), "returns": returns,
    }))
    .unwrap()
}

fn library() -> Schema {
    let key = |name: &str| PrimaryKey { relation: Name::new("api", name), columns: vec!["id".into()] };
    let foreign = |name: &str, from: &str, column: &str, to: &str| ForeignKey {
        name: name.into(),
        relation: Name::new("api", from),
        target: Name::new("api", to),
        columns: vec![(column.into(), "id".into())],
        unique: false,
    };
    let book = Name::new("api", "books");
    Schema::new(Facts {
        relations: vec![
            relation("authors", "id", &[("id", "bigint", None), ("name", "text", None)]),
            relation(
                "books",
                "id",
                &[
                    ("id", "bigint", Some("nextval('api.books_id_seq'::regclass)")),
                    ("title", "text", None),
                    ("author_id", "bigint", None),
                    ("notes", "jsonb", None),
                    ("words", "tsvector", None),
                ],
            ),
            relation(
                "loans",
                "id",
                &[("id", "bigint", None), ("book_id", "bigint", None), ("days", "integer", None)],
            ),
        ],
        routines: vec![
            routine(
                "found",
                &[("word", "text", "in"), ("among", "text[]", "variadic")],
                json!({ "type": "api.books", "set": true, "shape": "composite", "row_of": book }),
            ),
            routine(
                "whole",
                &[("", "json", "in")],
                json!({ "type": "json", "set": false, "shape": "scalar" }),
            ),
        ],
        foreign_keys: vec![
            foreign("books_author", "books", "author_id", "authors"),
            foreign("loans_book", "loans", "book_id", "books"),
        ],
        primary_keys: vec![key("authors"), key("books"), key("loans")],
        server_version: 150_018,
        ..Facts::default()
    })
    .unwrap()
}

/// The main query's text and the number of its values; an error's code.
fn sql(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Result<(String, usize), String> {
    let mut request = http::Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let api = Api {
        db_schemas: vec!["api".into()],
        db_aggregates_enabled: true,
        db_plan_enabled: true,
        ..Api::adopted()
    };
    let schema = library();
    let asked = Request::parse(&parts, Bytes::copy_from_slice(body.as_bytes()), &api)
        .map_err(|e| e.code().to_string())?;
    let plan = Plan::new(&asked, &schema, &api, &Limits::default()).map_err(|e| e.code().to_string())?;
    let Plan::Query(query) = plan else { return Err("no query".into()) };
    let statement = main(&query, asked.prefer.count, Some(1000), query.writes.then_some(1_000_000));
    Ok((statement.sql, statement.values.len()))
}

#[test]
fn requests_become_sql() {
    let represent = [("prefer", "return=representation")];
    let upsert = [("prefer", "resolution=merge-duplicates, missing=default, return=headers-only")];
    let cases: &[Case<'_, &str, &[Header<'_>]>] = &[
        ("GET", "/books", &[], ""),
        (
            "GET",
            "/books?select=called:title,notes-%3Ea-%3E%3E0::int&id=in.(1,2)&title=not.like.*x*&order=id.desc.nullslast&limit=5",
            &[],
            "",
        ),
        ("GET", "/books?or=(id.eq.1,and(title.fts(english).a,words.wfts.b),not.or(title.is.null))", &[], ""),
        (
            "GET",
            "/books?select=title,authors(name)&authors.name=eq.x&authors=not.is.null&order=authors(name)",
            &[("prefer", "count=exact")],
            "",
        ),
        ("GET", "/authors?select=name,books(title,loans(days))&books.order=title&books.limit=3", &[], ""),
        ("GET", "/authors?select=name,...books!inner(titles:title)&books.order=title.desc", &[], ""),
        ("GET", "/books?select=author_id,count(),...authors(name.max())", &[], ""),
        ("GET", "/books?id=eq(any).{1,2}", &[("accept", "text/csv")], ""),
        ("POST", "/books?select=id", &represent, r#"[{"title":"a"},{"title":"b"}]"#),
        ("POST", "/books?columns=id,title", &upsert, r#"{"title":"a"}"#),
        ("POST", "/books?columns=id,title", &upsert, r#"[{"title":"a"},{"id":2,"title":"b"}]"#),
        ("PATCH", "/books?id=eq.1&columns=id,title", &upsert, r#"{"title":"a"}"#),
        ("PATCH", "/books?id=eq.1&select=title,authors(name)", &represent, r#"{"title":"a"}"#),
        ("PUT", "/authors?id=eq.1", &[], r#"{"id":1,"name":"a"}"#),
        ("DELETE", "/loans?days=gt.30", &[], ""),
        ("POST", "/rpc/found?select=title&id=gt.1", &[], r#"{"word":"a","among":["b"]}"#),
        ("GET", "/rpc/found?word=a&among=b&among=c&limit=1", &[("prefer", "count=exact")], ""),
        ("POST", "/rpc/whole", &[], r#"{"any":"thing"}"#),
    ];
    let shown: Vec<String> = cases
        .iter()
        .map(|(method, target, headers, body)| {
            let (sql, values) = sql(method, target, headers, body).unwrap();
            format!("{method} {target} {headers:?} {body}\n  {sql}\n  -- {values} values")
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n\n"));
}

/// Something that SQL would read as more than a value, with a mark by which it is found.
fn values() -> impl Strategy<Value = String> {
    let around = prop_oneof![
        Just("'"),
        Just("\\"),
        Just("$1"),
        Just("--"),
        Just("/*"),
        Just("E'"),
        Just("{"),
        Just("\"\""),
        Just(";"),
        Just("%"),
        Just("")
    ];
    (around.clone(), around).prop_map(|(before, after)| format!("{before}zQ7mark{after}"))
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

proptest! {
    #[test]
    fn no_value_stands_in_the_text(value in values(), number in 0_u64..=u64::MAX) {
        let (v, quoted) = (encode(&value), encode(&format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))));
        let body = json!([{ "title": value, "notes": { value.as_str(): value } }]).to_string();
        let object = json!({ "word": value, "among": [value] }).to_string();
        let csv = format!("title\n\"{}\"\n", value.replace('"', "\"\""));
        let represent = ("prefer", "return=representation");
        let upsert = ("prefer", "resolution=merge-duplicates,missing=default");
        let cases: Vec<Case<'_, String, Vec<Header<'_>>>> = vec![
            ("GET", format!("/books?title=eq.{v}&id=not.lt.{v}&title=isdistinct.{v}&words=phfts.{v}"), vec![], ""),
            ("GET", format!("/books?title=in.({quoted},a)&title=like(any).{v}&title=match.{v}"), vec![], ""),
            ("GET", format!("/books?or=(title.eq.{quoted},and(title.in.({quoted}),words.fts(zQ7mark).{quoted}))"), vec![], ""),
            ("GET", format!("/books?select=id,a:notes->{quoted}->>{quoted}&notes->>{quoted}=eq.{v}&order=notes->{quoted}").replace('>', "%3E"), vec![], ""),
            ("GET", format!("/books?limit={number}&offset={number}"), vec![("prefer", "count=estimated")], ""),
            ("GET", format!("/books?select=id,authors(id)&authors.name=eq.{v}&authors.limit=3"), vec![], ""),
            ("POST", "/books?columns=title,notes,id".into(), vec![upsert], &body),
            ("POST", "/books".into(), vec![represent], &body),
            ("POST", "/books".into(), vec![("content-type", "text/csv")], &csv),
            ("PATCH", format!("/books?title=eq.{v}"), vec![represent], &body),
            ("PUT", format!("/authors?id=eq.{v}"), vec![], r#"{"id":"zQ7mark"}"#),
            ("DELETE", format!("/books?title=eq.{v}"), vec![represent], ""),
            ("POST", "/rpc/found".into(), vec![], &object),
            ("POST", "/rpc/whole".into(), vec![], &object),
            ("GET", format!("/rpc/found?word={v}&among={v}&title=eq.{v}"), vec![], ""),
        ];
        for (method, target, headers, body) in cases {
            let (sql, values) = sql(method, &target, &headers, body).unwrap_or_else(|code| panic!("{code}: {target} {body}"));
            prop_assert!(!sql.contains("zQ7mark"), "{} {}: {}", method, target, sql);
            prop_assert!(number < 10_000 || !sql.contains(&number.to_string()), "{}", sql);
            prop_assert!(values > 0, "{}", target);
        }
    }

    /// Names are quoted, so that what is in them stays in them: the text outside of quotes is ours.
    #[test]
    fn names_stay_in_their_quotes(name in "[a-z\"';$\\\\ .(){}*/-]{1,12}") {
        let quoted = encode(&format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")));
        for target in [format!("/books?select={quoted}"), format!("/books?select={quoted}:id"), format!("/books?{quoted}=is.null"), format!("/books?order={quoted}")] {
            let Ok((sql, _)) = sql("GET", &target, &[], "") else { continue };
            let mut outside = String::new();
            for (index, part) in sql.replace("\"\"", "").split('"').enumerate() {
                if index % 2 == 0 {
                    outside.push_str(part);
                }
            }
            let plain = super::tests::sql("GET", "/books?select=id:id&id=is.null&order=id", &[], "").unwrap().0;
            for character in outside.chars().filter(|c| ";\\{}-".contains(*c)) {
                prop_assert!(plain.contains(character), "{:?} in {}", character, sql);
            }
        }
    }
}
