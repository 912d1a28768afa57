//! What somebody else put on the history's tables: triggers, rules and the like, which run when they are written to.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::history::{HISTORY, REPEATED, UNFINISHED};
use super::session::Roles;
use crate::pg::{Ident, literal};

/// Everything about the tables that manybox did not make, in words. Of catalogs only: nothing of the tables
/// themselves is run. A table's owner is among it, because a table's owner can add any of the others at any time.
const STRANGERS: &str = "
WITH tables AS (
    SELECT c.* FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'manybox' AND c.relname IN ('schema_history', 'schema_unfinished', 'schema_repeatable')
), column_of (relname, attname, typname) AS (
    VALUES ('schema_history', 'version', 'int4'), ('schema_history', 'version', 'int8'), ('schema_history', 'name', 'varchar'),
           ('schema_history', 'applied_on', 'varchar'), ('schema_history', 'checksum', 'varchar'),
           ('schema_unfinished', 'version', 'int4'), ('schema_unfinished', 'version', 'int8'), ('schema_unfinished', 'begun_at', 'timestamptz'),
           ('schema_unfinished', 'done', 'int4'), ('schema_unfinished', 'checksum', 'varchar'),
           ('schema_repeatable', 'name', 'varchar'), ('schema_repeatable', 'applied_on', 'varchar'),
           ('schema_repeatable', 'checksum', 'varchar')
)
SELECT pg_catalog.format('schema manybox belongs to %I', pg_catalog.pg_get_userbyid(nspowner))
FROM pg_catalog.pg_namespace
WHERE nspname = 'manybox' AND nspowner <> $1::text::pg_catalog.regrole
UNION ALL
SELECT pg_catalog.format('%s belongs to %I', oid::pg_catalog.regclass, pg_catalog.pg_get_userbyid(relowner))
FROM tables WHERE relowner <> $1::text::pg_catalog.regrole
UNION ALL
SELECT pg_catalog.format('%s is not a plain table', oid::pg_catalog.regclass)
FROM tables t WHERE relkind <> 'r' OR relispartition OR relpersistence <> 'p' OR reloftype <> 0
    OR EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE t.oid IN (i.inhrelid, i.inhparent))
UNION ALL
SELECT pg_catalog.format('trigger %I on %s', tgname, tgrelid::pg_catalog.regclass)
FROM pg_catalog.pg_trigger WHERE tgrelid IN (SELECT oid FROM tables)
UNION ALL
SELECT pg_catalog.format('rule %I on %s', rulename, ev_class::pg_catalog.regclass)
FROM pg_catalog.pg_rewrite WHERE ev_class IN (SELECT oid FROM tables)
UNION ALL
SELECT pg_catalog.format('policy %I on %s', polname, polrelid::pg_catalog.regclass)
FROM pg_catalog.pg_policy WHERE polrelid IN (SELECT oid FROM tables)
UNION ALL
SELECT pg_catalog.format('row-level security of %s', oid::pg_catalog.regclass)
FROM tables WHERE relrowsecurity OR relforcerowsecurity
UNION ALL
SELECT pg_catalog.format('constraint %I on %s', conname, conrelid::pg_catalog.regclass)
FROM pg_catalog.pg_constraint WHERE conrelid IN (SELECT oid FROM tables) AND contype NOT IN ('p', 'n', 't')
UNION ALL
SELECT pg_catalog.format('foreign key %I to %s', conname, confrelid::pg_catalog.regclass)
FROM pg_catalog.pg_constraint WHERE confrelid IN (SELECT oid FROM tables)
UNION ALL
SELECT pg_catalog.format('index %s', indexrelid::pg_catalog.regclass)
FROM pg_catalog.pg_index
WHERE indrelid IN (SELECT oid FROM tables) AND (NOT indisprimary OR indexprs IS NOT NULL OR indpred IS NOT NULL)
UNION ALL
SELECT pg_catalog.format('default of column %I of %s', a.attname, a.attrelid::pg_catalog.regclass)
FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
WHERE d.adrelid IN (SELECT oid FROM tables)
  AND (a.attgenerated <> '' OR a.attname <> 'begun_at' OR pg_catalog.pg_get_expr(d.adbin, d.adrelid) <> 'now()')
UNION ALL
SELECT pg_catalog.format('column %I of %s', a.attname, a.attrelid::pg_catalog.regclass)
FROM pg_catalog.pg_attribute a JOIN tables t ON t.oid = a.attrelid
WHERE a.attnum > 0 AND NOT a.attisdropped AND NOT EXISTS (
    SELECT FROM column_of k JOIN pg_catalog.pg_type y ON y.typname = k.typname
    WHERE k.relname = t.relname AND k.attname = a.attname AND y.oid = a.atttypid
      AND y.typnamespace = 'pg_catalog'::pg_catalog.regnamespace)";

/// What is on the history's tables that manybox did not make. Empty when they aren't there.
///
/// # Errors
/// When the server refuses, or a role is missing.
pub async fn strangers(client: &Client, roles: &Roles) -> Result<Vec<String>, tokio_postgres::Error> {
    let owner = Ident::new(&roles.history).to_string();
    let rows = client.query_typed(STRANGERS, &[(&owner, Type::TEXT)]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// An expression that says whether the tables belong to the history's owner: then nobody else can put anything on them,
/// and did not since `init` took them over. In a fleet of an older manybox they are still the tenant's.
pub(super) fn taken_over(roles: &Roles) -> String {
    format!(
        "SELECT pg_catalog.count(*) >= 2 AND pg_catalog.bool_and(relowner = {}::pg_catalog.regrole)
         FROM pg_catalog.pg_class
         WHERE oid IN ('{HISTORY}'::pg_catalog.regclass, '{UNFINISHED}'::pg_catalog.regclass,
                       pg_catalog.to_regclass('{REPEATED}'))",
        literal(&Ident::new(&roles.history).to_string())
    )
}

/// Whether the history's tables are as an older manybox made them, so that what outside transactions is done can't be recorded.
/// The migrator can't change that: the tables aren't its own.
///
/// # Errors
/// When the server refuses.
pub(super) async fn are_outdated(client: &Client) -> Result<bool, tokio_postgres::Error> {
    // By name: the owner may not look into the schema.
    let known = "SELECT NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'manybox' AND c.relname = 'schema_unfinished' AND a.attname = 'done' AND NOT a.attisdropped)";
    let rows = client.query_typed(known, &[]).await?;
    rows.first().map_or(Ok(true), |row| row.try_get(0))
}
