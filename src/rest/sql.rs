//! Stage 3: a `Plan` becomes statements: text of constants and quoted names, and bound values. Pure.

mod call;
mod change;
mod condition;
pub(super) mod document;
mod kind;
mod read;
pub(super) mod session;
mod snippet;
#[cfg(test)]
mod tests;

pub(super) use snippet::{Snippet, Value};

use super::plan::tree::{Gives, Handler, Name};
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

/// Read by an [`Outcome`](super::execute::Outcome) behind its body and rows.
///
/// The session's advisory locks are let go of here, once all rows have been made, because a statement of its own for that
/// costs more than all else that [`READ_COMMIT`](crate::pool::READ_COMMIT) resets.
const LEFT: &str = "NULLIF(pg_catalog.current_setting('response.headers', true), '') AS headers, \
    NULLIF(pg_catalog.current_setting('response.status', true), '') AS status, pg_catalog.pg_advisory_unlock_all()";

/// The main query. It gives one row with `body` and `rows`, and where they are needed `total`, `location`, `inserted`,
/// and what functions left, `headers` and `status`; but for a plan, which gives lines.
///
/// `plain`: no function could leave anything. These relations are then looked at once more, under the lock that reading
/// them took, and `plain` tells whether all are still what the schema says; and the role, which is the session's.
pub(super) fn main(
    query: &Query<'_>,
    count: Option<Count>,
    max_rows: Option<u64>,
    plain: Option<&[Name<'_>]>,
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
            sql.push("WITH ").push(SOURCE).push(" AS (");
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
    body(&mut sql, query);
    sql.push(" AS body, ");
    match query.gives() {
        Gives::Row | Gives::Value => sql.push("1::pg_catalog.int8"),
        Gives::Rows | Gives::Values => sql.push("pg_catalog.count(*)"),
    };
    sql.push(" AS rows");
    let exact = matches!(count, Some(Count::Exact | Count::Estimated));
    if !exact && plain.is_some() {
        sql.push(", NULL::pg_catalog.int8 AS total");
    }
    if exact && !matches!(query.source, Source::Change(_)) {
        sql.push(", (SELECT pg_catalog.count(*) FROM (");
        condition::counted(&mut sql, &query.read);
        if let (Some(Count::Estimated), Some(most), Source::Read) = (count, max_rows, &query.source) {
            // One more than may be read tells that there are more.
            sql.push(" LIMIT ").bind(most.saturating_add(1).to_string());
        }
        sql.push(") AS _mb_counted) AS total");
    }
    match &query.source {
        Source::Change(change) if query.returns == Some(Return::HeadersOnly) && !change.key.is_empty() => {
            sql.push(", ");
            change::location(&mut sql, change);
            sql.push(" AS location");
        }
        _ => {}
    }
    if query.merges {
        sql.push(", ").push(change::INSERTED).push(" AS inserted");
    }
    sql.push(", ");
    match plain {
        Some(relations) => still_plain(&mut sql, relations),
        None => {
            sql.push(LEFT);
        }
    }
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

/// How many columns of a plain reading are ours, the last two `plain` and `role`. Behind them are those of its relations,
/// empty, for their types: when these change, the server refuses the statement that was prepared ("cached plan must not
/// change result type").
pub(super) const OWN_COLUMNS: usize = 5;

/// Whether nobody gave a relation row security that holds for the caller, or put a view in its place: a view has no file.
/// And as whom this runs: the session has had that role since an earlier reading, when its login was allowed to.
fn still_plain(sql: &mut Snippet, relations: &[Name<'_>]) {
    sql.join(relations, " AND ", |sql, relation| {
        let name = format!("{}.{}", Ident::new(relation.schema), Ident::new(relation.name));
        // A `regclass` of the parameter would be looked up before the lock is had, this is when it runs.
        let oid = "::pg_catalog.text::pg_catalog.regclass)";
        sql.push("NOT pg_catalog.row_security_active(").bind(name).push(oid);
        sql.push(" AND pg_catalog.pg_relation_filenode(").again().push(oid).push(" IS NOT NULL");
    });
    sql.push(
        " AND pg_catalog.pg_has_role(SESSION_USER, CURRENT_USER, 'MEMBER') AS plain, CURRENT_USER AS role",
    );
    for relation in relations {
        sql.push(", (NULL::");
        condition::name(sql, *relation);
        sql.push(").*");
    }
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
    let gives = query.gives();
    let whole = matches!(gives, Gives::Rows | Gives::Row);
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
        Handler::Json { stripped } => json(sql, matches!(gives, Gives::Row | Gives::Value), *stripped),
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
            if gives == Gives::Value {
                sql.push(".").push(call::VALUE);
            }
            if let Some(of) = of.filter(|_| gives != Gives::Value) {
                sql.push("::");
                condition::name(sql, of);
            }
            sql.push(")");
        }
    }
}
