//! What the request's role may use of a schema, for the document at the root.

use super::Statement;

/// The columns of the [main query](super::main) around its body.
const BEFORE: &str = "SELECT 1::pg_catalog.int8 AS rows, NULL::pg_catalog.int8 AS total, NULL::pg_catalog.text[] AS location, \
    NULL::pg_catalog.int4 AS inserted, NULL::pg_catalog.text AS headers, NULL::pg_catalog.text AS status, true AS fits, ";
const BEHIND: &str = " AS body, pg_catalog.pg_advisory_unlock_all()";

/// A main query. Its body is JSON: `relations`, a list of names; `routines`, a list of objects with `name` and `types`, the
/// numbers of the input arguments' types; and `types`, an object of these with `known` (as in
/// [`Argument::type_name`](crate::schema::Argument::type_name)) and `shown` (the same as the request's search path makes
/// it). A schema that is not there is an empty one.
pub(crate) fn privileges(schema: &str) -> Statement {
    let sql = format!("{BEFORE}({}){BEHIND}", include_str!("document.sql"));
    Statement { sql, values: vec![schema.into()] }
}

/// A main query that asks for nothing: for a transaction that shows whether the caller may have one.
pub(crate) fn nothing() -> Statement {
    Statement { sql: format!("{BEFORE}NULL::pg_catalog.text{BEHIND}"), values: Vec::new() }
}
