//! Names of types as callers spell them, for casts.

use super::snippet::Snippet;
use crate::pg::Ident;

/// Type names that SQL spells as keywords, and what they are; any other name is quoted as an identifier.
const TYPES: [(&str, &str); 31] = [
    ("int", "pg_catalog.int4"),
    ("integer", "pg_catalog.int4"),
    ("int2", "pg_catalog.int2"),
    ("int4", "pg_catalog.int4"),
    ("int8", "pg_catalog.int8"),
    ("smallint", "pg_catalog.int2"),
    ("bigint", "pg_catalog.int8"),
    ("real", "pg_catalog.float4"),
    ("float4", "pg_catalog.float4"),
    ("float8", "pg_catalog.float8"),
    ("float", "pg_catalog.float8"),
    ("double precision", "pg_catalog.float8"),
    ("decimal", "pg_catalog.numeric"),
    ("numeric", "pg_catalog.numeric"),
    ("boolean", "pg_catalog.bool"),
    ("bool", "pg_catalog.bool"),
    ("text", "pg_catalog.text"),
    ("varchar", "pg_catalog.varchar"),
    ("character varying", "pg_catalog.varchar"),
    ("char", "pg_catalog.bpchar"),
    ("character", "pg_catalog.bpchar"),
    ("timestamp", "pg_catalog.timestamp"),
    ("timestamp without time zone", "pg_catalog.timestamp"),
    ("timestamp with time zone", "pg_catalog.timestamptz"),
    ("time", "pg_catalog.time"),
    ("time without time zone", "pg_catalog.time"),
    ("time with time zone", "pg_catalog.timetz"),
    ("bit varying", "pg_catalog.varbit"),
    ("dec", "pg_catalog.numeric"),
    ("varbit", "pg_catalog.varbit"),
    ("national character varying", "pg_catalog.varchar"),
];

/// A caller's type name as SQL: from the table above, or a quoted identifier, as unquoted SQL would fold it.
pub(super) fn type_name<'s>(sql: &'s mut Snippet, spelled: &str) -> &'s mut Snippet {
    let folded = spelled.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    match TYPES.iter().find(|(name, _)| *name == folded) {
        Some((_, known)) => sql.push(*known),
        None => sql.push(Ident::new(folded)),
    }
}
