//! Stage 3: `Plan` becomes a `Statement`: text of constants and quoted names, and bound values. Pure.

mod clause;
pub(super) mod session;
mod snippet;

pub(super) use snippet::Value;

use std::collections::BTreeSet;

use self::clause::Place;
use self::snippet::Snippet;
use super::plan::{Plan, Source};
use super::request::filter::Filter;
use super::request::payload::{Payload, Shape as Json};
use super::request::prefer::{Resolution, Return};
use super::request::select::Item;
use super::request::{Accept, Action, Arguments, Request};
use crate::pg::Ident;
use crate::schema::{Column, Mode, Relation, Routine, Shape, Volatility};

/// The document's privileges.
const DOCUMENT: &str = include_str!("sql/document.sql");
/// What every main query gives besides its body: `rows`, `total`, what a function set for the answer, the key of
/// the row that was made. It lets go of the session's advisory locks here, once all rows have been made, because a
/// statement of its own for that costs more than all else that [`READ_COMMIT`](crate::pool::READ_COMMIT) resets.
const ANSWER: &str = ", NULLIF(pg_catalog.current_setting('response.headers', true), '') AS headers, \
                      NULLIF(pg_catalog.current_setting('response.status', true), '') AS status, \
                      pg_catalog.pg_advisory_unlock_all()";

/// A main query. It gives one row: body, rows, total, location, headers, status.
#[derive(Debug, PartialEq)]
pub(super) struct Statement {
    /// The text; equal requests with other values have equal texts, so it is what statements are cached by.
    pub(super) sql: String,
    /// `$1` and so on.
    pub(super) values: Vec<Value>,
    /// Whether its transaction may write.
    pub(super) writes: bool,
}

/// Writes the main query; `None` when the answer needs no database (OPTIONS).
pub(super) fn build(plan: &Plan<'_>, request: &Request, max_rows: Option<u64>) -> Option<Statement> {
    let mut sql = Snippet::default();
    let mut writes = true;
    match plan {
        Plan::Options(_) => return None,
        Plan::Document => {
            writes = false;
            sql.bind_silently(request.schema.as_str());
            sql.push(DOCUMENT.trim_end());
        }
        Plan::Read(relation) => {
            writes = false;
            let place = Place::relation(relation);
            let rows = request.query.rows.at_most(max_rows);
            answer(&mut sql, request, Body::Rows, Total::Counted(&place, &request.query.filters));
            sql.push(", NULL::pg_catalog.text AS location FROM (SELECT ");
            place.select(&mut sql, request.query.select.as_deref().unwrap_or(&[Item::All]));
            sql.push(" FROM ").push(place.name());
            place.filter(&mut sql, &request.query.filters);
            place.order(&mut sql, &request.query.order);
            clause::limit(&mut sql, rows);
            sql.push(") AS _mb_row");
        }
        Plan::Insert { relation, payload, columns, conflict } => {
            sql.push("WITH _mb_source AS (INSERT INTO ").push(Place::relation(relation).name());
            insert(&mut sql, relation, payload, columns);
            if let Some((key, resolution)) = conflict {
                sql.push(" ON CONFLICT (")
                    .join(key, ", ", |sql, c| {
                        sql.push(name(c));
                    })
                    .push(")");
                if *resolution == Resolution::Ignore || columns.is_empty() {
                    sql.push(" DO NOTHING");
                } else {
                    sql.push(" DO UPDATE SET ");
                    sql.join(columns, ", ", |sql, c| {
                        sql.push(name(c)).push(" = EXCLUDED.").push(name(c));
                    });
                }
            }
            changed(&mut sql, request, relation, true);
        }
        Plan::Update { relation, payload, columns } => {
            let place = Place::relation(relation);
            sql.push("WITH _mb_source AS (");
            if columns.is_empty() || payload.shape == Json::Objects(0) {
                // Nothing to set: nothing is changed, and the answer says so.
                sql.push("SELECT ");
                returning(&mut sql, request, relation, false);
                sql.push(" FROM ").push(place.name()).push(" WHERE false");
                rows_of_source(&mut sql, request, &Place::source(Some(relation)), "NULL::pg_catalog.text");
                return Some(finish(sql, true));
            }
            sql.push("UPDATE ").push(place.name()).push(" SET ");
            sql.join(columns, ", ", |sql, c| {
                sql.push(name(c)).push(" = _mb_body.").push(name(c));
            });
            sql.push(" FROM ");
            record(&mut sql, payload, columns.iter().map(|c| (&*c.name, &*c.type_name)), "_mb_body");
            place.filter(&mut sql, &request.query.filters);
            changed(&mut sql, request, relation, false);
        }
        Plan::Delete(relation) => {
            let place = Place::relation(relation);
            sql.push("WITH _mb_source AS (DELETE FROM ").push(place.name());
            place.filter(&mut sql, &request.query.filters);
            changed(&mut sql, request, relation, false);
        }
        Plan::Call { routine, source, filters } => {
            writes = routine.volatility == Volatility::Volatile
                && matches!(request.action, Action::Call(_, Arguments::Body(_)));
            call(&mut sql, request, routine, source, filters, max_rows);
        }
    }
    Some(finish(sql, writes))
}

fn finish(sql: Snippet, writes: bool) -> Statement {
    let (sql, values) = sql.finish();
    Statement { sql, values, writes }
}

fn name(column: &Column) -> Ident {
    Ident::new(&*column.name)
}

/// How rows become a body.
#[derive(Clone, Copy, PartialEq)]
enum Body {
    /// Objects, in an array or alone as the caller likes.
    Rows,
    /// The only row of a function that gives one.
    Row,
    /// Values in an array.
    Values,
    /// One value.
    Value,
    /// Nothing.
    None,
}

enum Total<'a> {
    /// Of all rows that match, if the caller asked.
    Counted(&'a Place<'a>, &'a [Filter]),
    /// Of the rows that were changed.
    Changed,
}

fn answer(sql: &mut Snippet, request: &Request, body: Body, total: Total<'_>) {
    let body = match body {
        Body::None => "NULL::pg_catalog.text",
        _ if request.head => "NULL::pg_catalog.text",
        Body::Rows if request.accept == Accept::Object => {
            "(pg_catalog.json_agg(_mb_row) -> 0)::pg_catalog.text"
        }
        Body::Rows => "COALESCE(pg_catalog.json_agg(_mb_row), '[]')::pg_catalog.text",
        Body::Row => "COALESCE(pg_catalog.json_agg(_mb_row) -> 0, 'null')::pg_catalog.text",
        Body::Values if request.accept == Accept::Object => {
            "(pg_catalog.json_agg(_mb_row._mb_value) -> 0)::pg_catalog.text"
        }
        Body::Values => "COALESCE(pg_catalog.json_agg(_mb_row._mb_value), '[]')::pg_catalog.text",
        Body::Value => "COALESCE(pg_catalog.json_agg(_mb_row._mb_value) -> 0, 'null')::pg_catalog.text",
    };
    sql.push("SELECT ").push(body).push(" AS body, ");
    match total {
        Total::Changed => {
            sql.push("(SELECT pg_catalog.count(*) FROM _mb_source) AS rows, ");
            let counted = "(SELECT pg_catalog.count(*) FROM _mb_source)";
            sql.push(if request.prefer.count { counted } else { "NULL::pg_catalog.int8" });
        }
        Total::Counted(place, filters) => {
            sql.push("pg_catalog.count(*) AS rows, ");
            if request.prefer.count {
                sql.push("(SELECT pg_catalog.count(*) FROM ").push(place.name());
                place.filter(sql, filters);
                sql.push(")");
            } else {
                sql.push("NULL::pg_catalog.int8");
            }
        }
    }
    sql.push(" AS total").push(ANSWER);
}

/// The part of an INSERT between the table's name and ON CONFLICT.
fn insert(sql: &mut Snippet, relation: &Relation, payload: &Payload, columns: &[&Column]) {
    let rows = match payload.shape {
        Json::Objects(rows) => rows,
        Json::Object | Json::Other => 1,
    };
    match (columns, relation.columns.first()) {
        ([], _) if rows == 1 => {
            sql.push(" DEFAULT VALUES");
        }
        ([], Some(first)) => {
            // As many rows of defaults as there were objects; none for an empty array.
            sql.push(" (").push(name(first)).push(")");
            if rows == 0 {
                sql.push(" SELECT NULL WHERE false");
            } else {
                sql.push(" VALUES ").join(0..rows, ", ", |sql, _| {
                    sql.push("(DEFAULT)");
                });
            }
        }
        _ => {
            sql.push(" (")
                .join(columns, ", ", |sql, c| {
                    sql.push(name(c));
                })
                .push(") SELECT ");
            sql.join(columns, ", ", |sql, c| {
                sql.push("_mb_body.").push(name(c));
            })
            .push(" FROM ");
            record(sql, payload, columns.iter().map(|c| (&*c.name, &*c.type_name)), "_mb_body");
        }
    }
}

/// The payload as rows with typed columns. The types are the catalog's own spelling.
fn record<'a>(
    sql: &mut Snippet,
    payload: &Payload,
    columns: impl Iterator<Item = (&'a str, &'a str)>,
    alias: &'static str,
) {
    let reader = if payload.shape == Json::Object { "json_to_record" } else { "json_to_recordset" };
    sql.push("pg_catalog.")
        .push(reader)
        .push("(")
        .bind(payload.json.clone())
        .push(") AS ")
        .push(alias)
        .push(" (");
    sql.join(columns, ", ", |sql, (name, kind)| {
        sql.push(Ident::new(name)).push(" ").push(kind);
    });
    sql.push(")");
}

/// RETURNING, and the query on what was returned.
fn changed(sql: &mut Snippet, request: &Request, relation: &Relation, inserts: bool) {
    sql.push(" RETURNING ");
    returning(sql, request, relation, inserts);
    let keyed =
        inserts && request.prefer.returns == Some(Return::HeadersOnly) && !relation.primary_key.is_empty();
    let mut location = Snippet::default();
    if keyed {
        location.push("(SELECT pg_catalog.json_build_array(");
        location.join(&relation.primary_key, ", ", |sql, key| {
            sql.push(Ident::new(key.as_str())).push("::pg_catalog.text");
        });
        location.push(")::pg_catalog.text FROM _mb_source LIMIT 1)");
    } else {
        location.push("NULL::pg_catalog.text");
    }
    rows_of_source(sql, request, &Place::source(Some(relation)), &location.finish().0);
}

/// What RETURNING lists: only what the answer needs, because it takes SELECT on each column.
fn returning(sql: &mut Snippet, request: &Request, relation: &Relation, inserts: bool) {
    let table = Place::relation(relation);
    let select = request.query.select.as_deref().unwrap_or(&[Item::All]);
    let mut needed = BTreeSet::new();
    match request.prefer.returns {
        Some(Return::Representation) => {
            for item in select {
                match item {
                    Item::All => {
                        sql.push(table.name()).push(".*");
                        return;
                    }
                    Item::Field { field, .. } => {
                        needed.insert(field.name.as_str());
                    }
                }
            }
            needed.extend(request.query.order.iter().map(|term| term.field.name.as_str()));
        }
        Some(Return::HeadersOnly) if inserts => {
            needed.extend(relation.primary_key.iter().map(String::as_str))
        }
        _ => {}
    }
    if needed.is_empty() {
        sql.push("1");
    } else {
        sql.join(needed, ", ", |sql, name| {
            sql.push(table.name()).push(".").push(Ident::new(name));
        });
    }
}

fn rows_of_source(sql: &mut Snippet, request: &Request, place: &Place<'_>, location: &str) {
    sql.push(") ");
    let whole = request.prefer.returns == Some(Return::Representation);
    answer(sql, request, if whole { Body::Rows } else { Body::None }, Total::Changed);
    sql.push(", ").push(location).push(" AS location FROM (SELECT ");
    if whole {
        place.select(sql, request.query.select.as_deref().unwrap_or(&[Item::All]));
        sql.push(" FROM _mb_source");
        place.order(sql, &request.query.order);
    } else {
        // Without a body nothing is aggregated, so this must be one row, however many were changed.
        sql.push("1");
    }
    sql.push(") AS _mb_row");
}

fn call(
    sql: &mut Snippet,
    request: &Request,
    routine: &Routine,
    source: &Source<'_>,
    filters: &[Filter],
    max_rows: Option<u64>,
) {
    let composite = routine.returns.shape == Shape::Composite;
    // Materialized: the count must not call the function a second time.
    sql.push("WITH _mb_source AS MATERIALIZED (SELECT _mb_call.* FROM ");
    let argument = |sql: &mut Snippet, argument: &crate::schema::Argument| {
        if argument.mode == Mode::Variadic {
            sql.push("VARIADIC ");
        }
        sql.push(Ident::new(argument.name.as_str())).push(" := ");
    };
    if let Source::Object(payload, used) = source
        && !used.is_empty()
    {
        record(sql, payload, used.iter().map(|a| (&*a.name, &*a.type_name)), "_mb_args");
        sql.push(" CROSS JOIN LATERAL ");
    }
    sql.push(Ident::new(routine.schema.as_str())).push(".").push(Ident::new(routine.name.as_str())).push("(");
    match source {
        Source::Object(_, used) => {
            sql.join(used, ", ", |sql, a| {
                argument(sql, a);
                sql.push("_mb_args.").push(Ident::new(a.name.as_str()));
            });
        }
        Source::Whole(payload, a) => {
            sql.bind(payload.json.clone()).push("::").push(&a.type_name);
        }
        Source::Query(used) => {
            sql.join(used, ", ", |sql, (a, values)| {
                argument(sql, a);
                match (a.mode, &values[..]) {
                    (Mode::Variadic, many) => sql.bind(clause::array(many.iter().copied())),
                    (_, [.., last]) => sql.bind(*last),
                    (_, []) => sql.push("NULL"),
                };
                sql.push("::").push(&a.type_name);
            });
        }
    }
    sql.push(if composite { ") AS _mb_call) " } else { ") AS _mb_call (_mb_value)) " });
    let body = match (routine.returns.shape, routine.returns.set) {
        (Shape::Void, _) => Body::None,
        (Shape::Scalar, true) => Body::Values,
        (Shape::Scalar, false) => Body::Value,
        (Shape::Composite, true) => Body::Rows,
        (Shape::Composite, false) => Body::Row,
    };
    let place = Place::source(None);
    answer(sql, request, body, Total::Counted(&place, filters));
    sql.push(", NULL::pg_catalog.text AS location FROM (SELECT ");
    let all = [Item::All];
    place.select(sql, if composite { request.query.select.as_deref().unwrap_or(&all) } else { &all });
    sql.push(" FROM _mb_source");
    place.filter(sql, filters);
    place.order(sql, &request.query.order);
    let limited = if routine.returns.set { request.query.rows.at_most(max_rows) } else { Default::default() };
    clause::limit(sql, limited);
    sql.push(") AS _mb_row");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Facts, Schema};
    use crate::tenant::Api;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn schema() -> Schema {
        let column = |name: &str, kind: &str| {
            serde_json::json!({"name": name, "type": kind, "not_null": false,
            "has_default": false, "identity": false, "generated": false, "comment": null})
        };
        let relation = serde_json::json!({"schema": "public", "name": "t\"x", "kind": "table", "comment": null,
            "columns": [column("id", "bigint"), column("a", "text"), column("j", "jsonb")], "primary_key": ["id"],
            "foreign_keys": [], "insertable": true, "updatable": true, "deletable": true});
        let relation = serde_json::from_value(relation).unwrap();
        Schema::new(Facts { relations: vec![relation], ..Facts::default() }).unwrap()
    }

    fn sql(
        method: &str,
        uri: &str,
        prefer: &str,
        body: &'static str,
    ) -> Result<(String, Vec<String>), String> {
        let request = http::Request::builder().method(method).uri(uri).header("prefer", prefer);
        let (parts, ()) = request.body(()).map_err(|e| e.to_string())?.into_parts();
        let code = |e: crate::rest::Error| e.code().to_owned();
        let request =
            Request::parse(&parts, Bytes::from_static(body.as_bytes()), &Api::default()).map_err(code)?;
        let schema = schema();
        let plan = Plan::new(&request, &schema).map_err(code)?;
        let statement = build(&plan, &request, Some(50)).ok_or("no statement")?;
        let text = |v: &Value| String::from_utf8_lossy(&v.0).into_owned();
        Ok((statement.sql.replace(ANSWER, "…"), statement.values.iter().map(text).collect()))
    }

    #[test]
    fn reads() {
        let (sql, values) = sql(
            "GET",
            "/t%22x?a=eq.x&j-%3Ek=in.(1,2)&order=id.desc&limit=5&select=id,j-%3E%3Ek::int",
            "",
            "",
        )
        .unwrap();
        insta::assert_snapshot!(sql, @r##"SELECT COALESCE(pg_catalog.json_agg(_mb_row), '[]')::pg_catalog.text AS body, pg_catalog.count(*) AS rows, NULL::pg_catalog.int8 AS total…, NULL::pg_catalog.text AS location FROM (SELECT "public"."t""x"."id" AS "id", CAST(("public"."t""x"."j" ->> $1::pg_catalog.text) AS pg_catalog.int4) AS "k" FROM "public"."t""x" WHERE "public"."t""x"."a" = $2 AND ("public"."t""x"."j" -> $3::pg_catalog.text) = ANY ($4) ORDER BY "public"."t""x"."id" DESC LIMIT $5) AS _mb_row"##);
        insta::assert_debug_snapshot!(values, @r##"[
    "k",
    "x",
    "k",
    "{\"1\",\"2\"}",
    "5",
]"##);
    }

    #[test]
    fn changes() {
        insta::assert_snapshot!(sql("POST", "/t%22x", "return=representation", r#"[{"id":1,"a":"x"}]"#).unwrap().0, @r##"WITH _mb_source AS (INSERT INTO "public"."t""x" ("a", "id") SELECT _mb_body."a", _mb_body."id" FROM pg_catalog.json_to_recordset($1) AS _mb_body ("a" text, "id" bigint) RETURNING "public"."t""x".*) SELECT COALESCE(pg_catalog.json_agg(_mb_row), '[]')::pg_catalog.text AS body, (SELECT pg_catalog.count(*) FROM _mb_source) AS rows, NULL::pg_catalog.int8 AS total…, NULL::pg_catalog.text AS location FROM (SELECT _mb_source.* FROM _mb_source) AS _mb_row"##);
        insta::assert_snapshot!(sql("PATCH", "/t%22x?id=eq.1", "", r#"{"a":"x"}"#).unwrap().0, @r##"WITH _mb_source AS (UPDATE "public"."t""x" SET "a" = _mb_body."a" FROM pg_catalog.json_to_record($1) AS _mb_body ("a" text) WHERE "public"."t""x"."id" = $2 RETURNING 1) SELECT NULL::pg_catalog.text AS body, (SELECT pg_catalog.count(*) FROM _mb_source) AS rows, NULL::pg_catalog.int8 AS total…, NULL::pg_catalog.text AS location FROM (SELECT 1) AS _mb_row"##);
        insta::assert_snapshot!(sql("DELETE", "/t%22x?id=eq.1", "", "").unwrap().0, @r##"WITH _mb_source AS (DELETE FROM "public"."t""x" WHERE "public"."t""x"."id" = $1 RETURNING 1) SELECT NULL::pg_catalog.text AS body, (SELECT pg_catalog.count(*) FROM _mb_source) AS rows, NULL::pg_catalog.int8 AS total…, NULL::pg_catalog.text AS location FROM (SELECT 1) AS _mb_row"##);
    }

    proptest! {
        #[test]
        fn any_query_string_is_read_or_refused(query in ".{0,60}") {
            let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
            let _ = sql("GET", &format!("/t%22x?{}", query.replace("%3D", "=").replace("%26", "&")), "", "");
        }

        #[test]
        fn values_stay_out_of_the_text(value in "[^*]{1,30}") {
            let encoded: String = form_urlencoded::byte_serialize(format!("eq.{value}").as_bytes()).collect();
            let (text, values) = sql("GET", &format!("/t%22x?a={encoded}"), "", "").unwrap();
            let (other, _) = sql("GET", "/t%22x?a=eq.1", "", "").unwrap();
            prop_assert_eq!(text, other);
            prop_assert_eq!(&values[0], &value);
        }
    }
}
