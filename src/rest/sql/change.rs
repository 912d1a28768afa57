//! Changes, and the rows of a body: PostgreSQL reads the JSON itself, so no value is read twice.

use super::super::plan::tree::{Change, ChangeKind, Name, Qualifier, Values};
use super::super::request::prefer::Resolution;
use super::condition::{self, Embeds};
use super::snippet::Snippet;
use crate::pg::Ident;

/// The alias of the rows of a body.
const BODY: &str = "_mb_body";
/// A setting that counts new rows up and replaced ones down: where rows may be replaced, that is all that tells.
pub(super) const INSERTED: &str =
    "NULLIF(pg_catalog.current_setting('manybox.inserted', true), '')::pg_catalog.int4";

/// The statement inside the WITH.
pub(super) fn change(sql: &mut Snippet, change: &Change<'_>) {
    let table = Qualifier::Relation(change.relation);
    match &change.kind {
        ChangeKind::Insert { values, conflict } => insert(sql, change, values, conflict.as_ref()),
        ChangeKind::Update(values) if values.columns.is_empty() && values.defaulted.is_empty() => {
            // Nothing to set: nothing is changed, and the answer says so.
            sql.push("SELECT ");
            let table = Qualifier::Alias(change.relation.name.to_owned());
            if change.returning.is_empty() {
                sql.push("NULL");
            }
            sql.join(&change.returning, ", ", |sql, column| condition::column(sql, &table, column));
            sql.push(" FROM ");
            condition::name(sql, change.relation);
            sql.push(" WHERE false");
            return;
        }
        ChangeKind::Update(values) => {
            sql.push("UPDATE ");
            condition::name(sql, change.relation);
            sql.push(" SET ").join(names(values), ", ", |sql, (column, given)| {
                sql.push(Ident::new(column)).push(" = ");
                if given {
                    sql.push(BODY).push(".").push(Ident::new(column));
                } else {
                    sql.push("DEFAULT");
                }
            });
            sql.push(" ");
            rows(sql, values, false);
            filters(sql, &table, change);
        }
        ChangeKind::Delete => {
            sql.push("DELETE FROM ");
            condition::name(sql, change.relation);
            filters(sql, &table, change);
        }
    }
    sql.push(" RETURNING ");
    if change.returning.is_empty() {
        sql.push("1");
    }
    sql.join(&change.returning, ", ", |sql, column| condition::column(sql, &table, column));
}

fn filters(sql: &mut Snippet, table: &Qualifier<'_>, change: &Change<'_>) {
    if !change.filters.is_empty() {
        sql.push(" WHERE ");
        condition::all(sql, table, &change.filters, Embeds::Joined(&[]));
    }
}

fn insert(
    sql: &mut Snippet,
    change: &Change<'_>,
    values: &Values<'_>,
    conflict: Option<&(Vec<&str>, Resolution)>,
) {
    sql.push("INSERT INTO ");
    condition::name(sql, change.relation);
    if !values.columns.is_empty() {
        // What is left out gets its default.
        sql.push(" (").join(&values.columns, ", ", |sql, column| {
            sql.push(Ident::new(column.name));
        });
        sql.push(")");
    }
    sql.push(" SELECT ").join(&values.columns, ", ", |sql, column| {
        sql.push(BODY).push(".").push(Ident::new(column.name));
    });
    sql.push(" ");
    rows(sql, values, false);
    let merges = matches!(conflict, Some((_, Resolution::Merge)));
    if merges {
        sql.push(" WHERE ").push_sql(&counted("+ 1")).push(" <> '0'");
        if !change.filters.is_empty() {
            sql.push(" AND ");
            condition::all(sql, &Qualifier::Alias(BODY.into()), &change.filters, Embeds::Joined(&[]));
        }
    }
    if let Some((key, resolution)) = conflict.filter(|(key, _)| !key.is_empty()) {
        sql.push(" ON CONFLICT (").join(key, ", ", |sql, column| {
            sql.push(Ident::new(*column));
        });
        if *resolution == Resolution::Ignore || names(values).next().is_none() {
            sql.push(") DO NOTHING");
        } else {
            sql.push(") DO UPDATE SET ").join(names(values), ", ", |sql, (column, _)| {
                sql.push(Ident::new(column)).push(" = EXCLUDED.").push(Ident::new(column));
            });
            sql.push(" WHERE ").push_sql(&counted("- 1")).push(" <> '-1'");
        }
    }
}

/// The columns that are set, and whether the body gives them; the others get their default.
fn names<'v>(values: &'v Values<'_>) -> impl Iterator<Item = (&'v str, bool)> {
    let given = values.columns.iter().map(|column| (column.name, true));
    given.chain(values.defaulted.iter().map(|column| (*column, false)))
}

/// Counts, and is never what it is compared with.
fn counted(step: &str) -> String {
    format!(
        "pg_catalog.set_config('manybox.inserted', (COALESCE({INSERTED}, 0) {step})::pg_catalog.text, true)"
    )
}

/// `FROM … AS _mb_body`: the body's rows with typed columns. A call wants one row at most.
pub(super) fn rows(sql: &mut Snippet, values: &Values<'_>, one: bool) {
    let object = values.json.is_object();
    let with: Vec<_> = values.columns.iter().filter_map(|c| Some((c.name, c.default?))).collect();
    let (kind, reader, elements) = match (!with.is_empty(), object) {
        (false, true) => ("json", "json_to_record", ""),
        (false, false) => ("json", "json_to_recordset", "json_array_elements"),
        (true, true) => ("jsonb", "jsonb_to_record", ""),
        (true, false) => ("jsonb", "jsonb_to_recordset", "jsonb_array_elements"),
    };
    let mut json = "_mb_payload.body";
    sql.push("FROM (SELECT ").bind(values.json.text.clone());
    sql.push("::pg_catalog.").push(kind).push(" AS body) AS _mb_payload, ");
    if !with.is_empty() {
        json = "_mb_filled.body";
        sql.push("LATERAL (SELECT ");
        sql.push(if object { "" } else { "pg_catalog.jsonb_agg(" });
        sql.push("pg_catalog.jsonb_build_object(");
        sql.join(with, ", ", |sql, (name, default)| {
            sql.bind(name).push("::pg_catalog.text, ").push_sql(default);
        });
        sql.push(") || ");
        sql.push(if object {
            "_mb_payload.body AS body"
        } else {
            "element) AS body FROM pg_catalog.jsonb_array_elements(_mb_payload.body) AS element"
        });
        sql.push(") AS _mb_filled, ");
    }
    sql.push("LATERAL (SELECT ").join(&values.columns, ", ", |sql, column| match column.convert {
        Some(function) => {
            convert(sql, function, column.name);
        }
        None => {
            sql.push(Ident::new(column.name));
        }
    });
    sql.push(" FROM ");
    if !values.columns.is_empty() {
        sql.push("pg_catalog.").push(reader).push("(").push(json).push(") AS _(");
        sql.join(&values.columns, ", ", |sql, column| {
            sql.push(Ident::new(column.name)).push(" ");
            condition::name(sql, column.cast);
        });
        sql.push(")");
        sql.push(if one { " LIMIT 1" } else { "" });
    } else if object {
        // One row of nothing.
        sql.push("(VALUES (1)) AS _");
    } else {
        sql.push("pg_catalog.").push(elements).push("(").push(json).push(") AS _");
    }
    sql.push(") AS ").push(BODY);
}

fn convert(sql: &mut Snippet, function: Name<'_>, column: &str) {
    condition::name(sql, function);
    sql.push("(").push(Ident::new(column)).push(") AS ").push(Ident::new(column));
}

/// The key of the only row that was made, as `column=eq.value` texts; none where there were several.
pub(super) fn location(sql: &mut Snippet, change: &Change<'_>) {
    sql.push("CASE WHEN pg_catalog.count(*) = 1 THEN (SELECT pg_catalog.array_agg(pair.key || '=' || ");
    sql.push(
        "COALESCE('eq.' || pair.value, 'is.null')) FROM (SELECT pg_catalog.row_to_json(made.*) AS made FROM ",
    );
    sql.push(super::SOURCE).push(" AS made LIMIT 1) AS one, pg_catalog.json_each_text(one.made) AS pair ");
    sql.push("WHERE pair.key = ANY (").bind(condition::array(change.key.iter().copied()));
    sql.push("::pg_catalog.text[])) END");
}
