//! Stage 3: a `Plan` becomes statements: text of constants and quoted names, and bound values. Pure.

mod call;
mod change;
mod condition;
pub(super) mod document;
mod kind;
mod read;
mod snippet;
#[cfg(test)]
mod tests;

pub(super) use snippet::{Snippet, Value};

use super::plan::tree::{Handler, ResultShape};
use super::plan::{Query, SOURCE, Source};
use super::request::media::Media;
use super::request::prefer::{Count, Return};
use crate::pg::Ident;
use crate::policy::Function;

/// The alias of a row of the answer.
const ROW: &str = "_mb_row";
/// The rows of the answer, where they are read twice.
const ROWS: &str = "_mb_rows";

/// Text and its values.
#[derive(Debug, PartialEq)]
pub(super) struct Statement {
    /// The text; equal requests with other values have equal texts, so it is what statements are cached by.
    pub(super) sql: String,
    /// `$1` and so on.
    pub(super) values: Vec<Value>,
}

impl From<Snippet> for Statement {
    fn from(snippet: Snippet) -> Self {
        let (sql, values) = snippet.finish();
        Self { sql, values }
    }
}

/// Behind the counts: what functions left, then the body, so that status and headers are known before the body is read.
///
/// The session's advisory locks are let go of last, once all rows have been made. They survive a ROLLBACK, and a statement
/// of its own for that costs more than all else that ends a read.
const UNLOCK: &str = "pg_catalog.pg_advisory_unlock_all()";
const CHOSEN: &str = "NULLIF(pg_catalog.current_setting('response.headers', true), '') AS headers, \
    NULLIF(pg_catalog.current_setting('response.status', true), '') AS status";

/// What PostgreSQL says when [`main`]'s `fits` finds the answer too long.
pub(super) const TOO_LONG: &str = "the answer is longer than max_answer";

/// The main query. It gives one row, but for a plan, which gives lines:
///
/// | column | |
/// |---|---|
/// | `rows` | rows in the body, or rows changed |
/// | `total` | rows altogether, where they are counted |
/// | `location` | the key of the only row that was made |
/// | `inserted` | new rows, less replaced ones |
/// | `headers`, `status` | what functions left |
/// | `fits` | true; where `max_answer` is given, an error when the body is longer |
/// | `body` | |
/// | (nameless) | nothing |
pub(super) fn main(
    query: &Query<'_>,
    count: Option<Count>,
    max_rows: Option<u64>,
    max_answer: Option<usize>,
) -> Statement {
    let mut sql = Snippet::default();
    if let Media::Plan(plan) = &query.media {
        sql.push("EXPLAIN (FORMAT ").push(if plan.json { "JSON" } else { "TEXT" });
        for option in &plan.options {
            // Constants of ours: other options are not read.
            sql.push(", ").push_sql(&option.to_ascii_uppercase());
        }
        sql.push(") ");
    }
    let mut with = match &query.source {
        Source::Read => "WITH ",
        Source::Change(change) => {
            sql.push("WITH ").push(SOURCE).push(" AS (");
            change::change(&mut sql, change);
            sql.push(") ");
            ", "
        }
        Source::Call(call, _) => {
            // A value stands in the answer as it is. Were the call pulled up there, it would run once for each time
            // that it is named, and after what it left was looked for.
            let kept = if query.handler == Handler::Value { " AS MATERIALIZED (" } else { " AS (" };
            sql.push("WITH ").push(SOURCE).push(kept);
            call::call(&mut sql, call);
            sql.push(") ");
            ", "
        }
    };
    // The names of a CSV's columns are those of its first row.
    let twice = query.handler == Handler::Csv;
    if twice {
        if with == ", " {
            sql.push(with);
        } else {
            sql.push(std::mem::take(&mut with));
        }
        sql.push(ROWS).push(" AS (");
        rows(&mut sql, query);
        sql.push(") ");
    }
    sql.push("SELECT ");
    match query.result_shape() {
        ResultShape::Row | ResultShape::Scalar => sql.push("1::pg_catalog.int8"),
        ResultShape::Rows | ResultShape::Scalars => sql.push("pg_catalog.count(*)"),
    };
    sql.push(" AS rows, ");
    let exact = matches!(count, Some(Count::Exact | Count::Estimated));
    if exact && !matches!(query.source, Source::Change(_)) {
        sql.push("(SELECT pg_catalog.count(*) FROM (");
        condition::counted(&mut sql, &query.read);
        if let (Some(Count::Estimated), Some(most), Source::Read) = (count, max_rows, &query.source) {
            // One more than may be read tells that there are more.
            sql.push(" LIMIT ").bind(most.saturating_add(1).to_string());
        }
        sql.push(") AS _mb_counted)");
    } else {
        sql.push("NULL::pg_catalog.int8");
    }
    sql.push(" AS total, ");
    match &query.source {
        Source::Change(change) if query.returns == Some(Return::HeadersOnly) && !change.key.is_empty() => {
            change::location(&mut sql, change);
        }
        _ => {
            sql.push("NULL::pg_catalog.text[]");
        }
    }
    sql.push(" AS location, ").push(if query.merges { change::INSERTED } else { "NULL::pg_catalog.int4" });
    sql.push(" AS inserted, ").push(CHOSEN).push(", ");
    match max_answer.filter(|_| query.handler != Handler::None) {
        Some(most) => fits(&mut sql, query, most),
        None => {
            sql.push("true");
        }
    }
    sql.push(" AS fits, ");
    body(&mut sql, query);
    sql.push(" AS body, ").push(UNLOCK);
    sql.push(" FROM ");
    if twice {
        sql.push(ROWS);
    } else {
        sql.push("(");
        rows(&mut sql, query);
        sql.push(")");
    }
    sql.push(" AS ").push(ROW);
    sql.into()
}

/// A text that is no boolean is the one error that plain SQL can raise with words of ours in it. The transaction fails
/// before anything of the answer was sent, and so before it could be committed.
fn fits(sql: &mut Snippet, query: &Query<'_>, most: usize) {
    sql.push("CAST(CASE WHEN pg_catalog.octet_length((");
    body(sql, query);
    sql.push(")::pg_catalog.text) > ").bind(most.to_string()).push("::pg_catalog.int4 THEN '");
    sql.push(TOO_LONG).push("' ELSE 'true' END AS pg_catalog.bool)");
}

/// What the planner thinks how many rows there are.
pub(super) fn estimate(query: &Query<'_>) -> Statement {
    let mut sql = Snippet::default();
    sql.push("EXPLAIN (FORMAT JSON) ");
    condition::counted(&mut sql, &query.read);
    sql.into()
}

/// A call of the function that runs before the main query.
pub(super) fn before(function: &Function) -> String {
    let schema = function.schema.as_ref().map(|schema| format!("{}.", Ident::new(schema.as_str())));
    format!("SELECT {}{}()", schema.unwrap_or_default(), Ident::new(function.name.as_str()))
}

/// The rows of the answer. Where nobody reads them, nothing of them is named: the caller need not be allowed to.
fn rows(sql: &mut Snippet, query: &Query<'_>) {
    let unread = query.handler == Handler::None && matches!(query.source, Source::Change(_));
    if unread {
        sql.push("SELECT * FROM ").push(SOURCE);
    } else {
        read::read(sql, &query.read);
    }
}

/// The body, as one value.
fn body(sql: &mut Snippet, query: &Query<'_>) {
    let shape = query.result_shape();
    let whole = matches!(shape, ResultShape::Rows | ResultShape::Row);
    let value = |sql: &mut Snippet| {
        sql.push(ROW);
        if !whole {
            sql.push(".").push(call::VALUE);
        }
    };
    let json = |sql: &mut Snippet, one: bool, stripped: bool| {
        sql.push("COALESCE(").push(if stripped { "pg_catalog.json_strip_nulls(" } else { "" });
        sql.push("pg_catalog.json_agg(");
        value(sql);
        sql.push(if one { ") -> 0" } else { ")" });
        sql.push(if stripped { ")" } else { "" }).push(if one { ", 'null')" } else { ", '[]')" });
    };
    match &query.handler {
        Handler::None => {
            sql.push("NULL::pg_catalog.text");
        }
        Handler::Json { stripped } => {
            json(sql, matches!(shape, ResultShape::Row | ResultShape::Scalar), *stripped)
        }
        Handler::Object { stripped } => json(sql, true, *stripped),
        Handler::Csv => {
            sql.push("(SELECT COALESCE(pg_catalog.string_agg(_mb_key.name, ','), '') FROM (SELECT ");
            sql.push("pg_catalog.json_object_keys(pg_catalog.row_to_json(_mb_first)) AS name FROM ");
            sql.push("(SELECT * FROM ").push(ROWS).push(" LIMIT 1) AS _mb_first) AS _mb_key) || E'\\n' || ");
            sql.push("COALESCE(pg_catalog.string_agg(pg_catalog.substring(").push(ROW);
            sql.push("::pg_catalog.text, 2, pg_catalog.length(").push(ROW);
            sql.push("::pg_catalog.text) - 2), E'\\n'), '')");
        }
        Handler::GeoJson(function) => {
            sql.push("pg_catalog.json_build_object('type', 'FeatureCollection', 'features', COALESCE(");
            sql.push("pg_catalog.json_agg(");
            condition::name(sql, *function);
            sql.push("(").push(ROW).push(")::pg_catalog.json), '[]'))");
        }
        Handler::Value => value(sql),
        Handler::Aggregate(function, of) => {
            condition::name(sql, *function);
            sql.push("(");
            sql.push(ROW);
            if shape == ResultShape::Scalar {
                sql.push(".").push(call::VALUE);
            }
            if let Some(of) = of.filter(|_| shape != ResultShape::Scalar) {
                sql.push("::");
                condition::name(sql, of);
            }
            sql.push(")");
        }
    }
}
