//! Calls of functions.

use super::super::plan::tree::{ArgumentValue, Arguments, Call, Name, Qualifier, ResultShape, Values};
use super::change;
use super::condition;
use super::snippet::Snippet;
use crate::pg::Ident;

/// The alias of what a function gave.
const CALL: &str = "_mb_call";
/// The column of values that have no name. PostgREST calls it so, and it shows in CSV.
pub(super) const VALUE: &str = "pgrst_scalar";

/// The type whose values are bound as they are.
const BYTEA: Name<'static> = Name { schema: "pg_catalog", name: "bytea" };

/// The statement inside the WITH.
pub(super) fn call(sql: &mut Snippet, call: &Call<'_>) {
    let scalar = matches!(call.result, ResultShape::Scalar | ResultShape::Scalars);
    sql.push("SELECT ");
    if scalar {
        sql.push(CALL).push(".").push(VALUE);
    } else if call.returning.is_empty() {
        sql.push("*");
    } else {
        let table = Qualifier::Alias(CALL.into());
        sql.join(&call.returning, ", ", |sql, column| condition::column(sql, &table, column));
    }
    sql.push(" ");
    match &call.arguments {
        Arguments::Json(json, arguments) if !arguments.is_empty() => {
            let (columns, variadic): (Vec<_>, Vec<_>) = arguments.iter().cloned().unzip();
            let values = Values { json, columns, defaulted: Vec::new() };
            change::rows(sql, &values, true);
            sql.push(", LATERAL ");
            function(sql, call, scalar, |sql| {
                sql.join(values.columns.iter().zip(&variadic), ", ", |sql, (column, variadic)| {
                    sql.push(if *variadic { "VARIADIC " } else { "" });
                    sql.push(Ident::new(column.name)).push(" := _mb_body.").push(Ident::new(column.name));
                });
            });
        }
        Arguments::Json(..) => {
            sql.push("FROM ");
            function(sql, call, scalar, |_| {});
        }
        Arguments::Whole(body, cast) => {
            sql.push("FROM ");
            function(sql, call, scalar, |sql| {
                if *cast == BYTEA {
                    // Its bytes, not a text of them.
                    sql.bind_bytes(body.clone());
                } else {
                    sql.bind(body.clone());
                }
                sql.push("::");
                condition::name(sql, *cast);
            });
        }
        Arguments::Texts(texts) => {
            sql.push("FROM ");
            function(sql, call, scalar, |sql| {
                sql.join(texts, ", ", |sql, (name, cast, given)| {
                    match given {
                        ArgumentValue::Single(text) => {
                            sql.push(Ident::new(*name)).push(" := ").bind(*text);
                        }
                        ArgumentValue::Variadic(many) => {
                            sql.push("VARIADIC ").push(Ident::new(*name)).push(" := ");
                            sql.bind(condition::array(many.iter().copied()));
                        }
                    }
                    sql.push("::");
                    condition::name(sql, *cast);
                });
            });
        }
    }
}

fn function(sql: &mut Snippet, call: &Call<'_>, scalar: bool, arguments: impl FnOnce(&mut Snippet)) {
    sql.push(if scalar { "(SELECT " } else { "" });
    condition::name(sql, call.function);
    sql.push("(");
    arguments(sql);
    sql.push(")");
    if scalar {
        sql.push(" AS ").push(VALUE).push(")");
    }
    sql.push(" AS ").push(CALL);
}
