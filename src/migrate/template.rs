//! What every tenant's database begins with: schemas, default privileges, and the history's tables.

use tokio_postgres::{Client, Row};

use super::guard;
use super::history::{HISTORY, REPEATED, UNFINISHED};
use super::session::Roles;
use crate::pg::{Error, Ident};

/// What was found on the history's tables when they were taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// Triggers, rules and policies that were removed.
    pub removed: Vec<String>,
    /// What manybox did not make and can't remove without guessing; nothing was changed because of it.
    pub refused: Vec<String>,
}

/// Sets a new template's rights, as its database's owner (the admin). Run before the first migration, and again at
/// will: nothing changes then.
///
/// The owner gets the right to make schemas in the database, and the schemas `public` and `extensions` (where
/// extensions go, so that no API exposes their functions). The API roles may use both. PUBLIC loses everything, and
/// EXECUTE on functions yet to be made. The schema `manybox` is made as [`take_over_history`] says, for versions up to
/// `newest`.
///
/// # Errors
/// When a role is missing or the login isn't the database's owner and a member of `owner`.
pub async fn prepare_template(
    client: &mut Client,
    roles: &Roles,
    api_roles: &[String],
    newest: i64,
) -> Result<TakenOver, Error> {
    // One message, and so one transaction.
    grant_basics(client, roles, api_roles).await?;
    take_over_history(client, roles, newest).await
}

/// What [`prepare_template`] does before it takes the history over.
pub(super) async fn grant_basics(client: &Client, roles: &Roles, api_roles: &[String]) -> Result<(), Error> {
    let database: String =
        client.query_one("SELECT pg_catalog.current_database()::text", &[]).await?.try_get(0)?;
    let (database, owner) = (Ident::new(database), Ident::new(&roles.owner));
    // The default privileges are not IN SCHEMA: those can only add to the
    // global ones, and EXECUTE for PUBLIC is among the global ones.
    let mut sql = format!(
        "SET LOCAL client_min_messages = warning;
         GRANT CREATE ON DATABASE {database} TO {owner};
         ALTER SCHEMA public OWNER TO {owner};
         CREATE SCHEMA IF NOT EXISTS extensions AUTHORIZATION {owner};
         REVOKE ALL ON SCHEMA public, extensions FROM PUBLIC;
         ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;"
    );
    for role in api_roles {
        sql.push_str(&format!("GRANT USAGE ON SCHEMA public, extensions TO {};", Ident::new(role)));
    }
    Ok(client.batch_execute(&sql).await?)
}

/// Whether one of the names is taken by something that is no table: to alter its owner would change somebody's view.
const NO_TABLES: &str = "
SELECT pg_catalog.format('%s is not a plain table', c.oid::pg_catalog.regclass)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'manybox' AND c.relname IN ('schema_history', 'schema_unfinished', 'schema_repeatable') AND c.relkind <> 'r'";

/// The statements that remove what can be removed without loss, with its name in words.
const REMOVABLE: &str = "
WITH tables AS (SELECT unnest(ARRAY['manybox.schema_history'::pg_catalog.regclass, 'manybox.schema_unfinished', 'manybox.schema_repeatable']) AS oid)
SELECT pg_catalog.format('trigger %I on %s', tgname, tgrelid::pg_catalog.regclass),
       pg_catalog.format('DROP TRIGGER %I ON %s', tgname, tgrelid::pg_catalog.regclass)
FROM pg_catalog.pg_trigger WHERE NOT tgisinternal AND tgrelid IN (SELECT oid FROM tables)
UNION ALL
SELECT pg_catalog.format('rule %I on %s', rulename, ev_class::pg_catalog.regclass),
       pg_catalog.format('DROP RULE %I ON %s', rulename, ev_class::pg_catalog.regclass)
FROM pg_catalog.pg_rewrite WHERE ev_class IN (SELECT oid FROM tables)
UNION ALL
SELECT pg_catalog.format('policy %I on %s', polname, polrelid::pg_catalog.regclass),
       pg_catalog.format('DROP POLICY %I ON %s', polname, polrelid::pg_catalog.regclass)
FROM pg_catalog.pg_policy WHERE polrelid IN (SELECT oid FROM tables)
UNION ALL
SELECT pg_catalog.format('row-level security of %s', oid::pg_catalog.regclass),
       pg_catalog.format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', oid::pg_catalog.regclass)
FROM pg_catalog.pg_class WHERE oid IN (SELECT oid FROM tables) AND (relrowsecurity OR relforcerowsecurity)";

/// Whoever has a right on the schema or its tables that its owner did not have to be given.
const GRANTEES: &str = "
WITH acl AS (
    SELECT nspacl AS acl, nspowner AS owner FROM pg_catalog.pg_namespace WHERE nspname = 'manybox'
    UNION ALL SELECT relacl, relowner FROM pg_catalog.pg_class
        WHERE oid IN ('manybox.schema_history'::pg_catalog.regclass, 'manybox.schema_unfinished'::pg_catalog.regclass,
                      'manybox.schema_repeatable'::pg_catalog.regclass)
    UNION ALL SELECT a.attacl, c.relowner FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        WHERE c.oid IN ('manybox.schema_history'::pg_catalog.regclass, 'manybox.schema_unfinished'::pg_catalog.regclass,
                      'manybox.schema_repeatable'::pg_catalog.regclass)
)
SELECT DISTINCT pg_catalog.pg_get_userbyid(x.grantee)::text
FROM acl CROSS JOIN LATERAL pg_catalog.aclexplode(acl.acl) x
WHERE x.grantee <> 0 AND x.grantee <> acl.owner";

/// Gives the schema `manybox` and its tables to the history's owner, makes what is missing, takes every right on them
/// from all others but the writer, and removes triggers, rules and policies. As the database's owner (the admin), with
/// a search path that nobody else writes to. No code of the tables runs: these are definitions and catalogs only.
///
/// The tables hold versions up to `newest`: as `int4` like refinery's, and as `int8` where that is too small.
///
/// # Errors
/// When a role is missing, or the lock of a table can't be had within five seconds.
pub async fn take_over_history(client: &mut Client, roles: &Roles, newest: i64) -> Result<TakenOver, Error> {
    let transaction = client.transaction().await?;
    let taken = take_over_inside(transaction.client(), roles, newest).await?;
    if taken.refused.is_empty() {
        transaction.commit().await?;
    }
    Ok(taken)
}

/// The same in the transaction that is open. Where something was refused it must be rolled back.
pub(super) async fn take_over_inside(
    transaction: &Client,
    roles: &Roles,
    newest: i64,
) -> Result<TakenOver, Error> {
    let (history, writer) = (Ident::new(&roles.history), Ident::new(&roles.writer));
    let refused = words(&transaction.query(NO_TABLES, &[]).await?)?;
    if !refused.is_empty() {
        return Ok(TakenOver { refused, ..TakenOver::default() });
    }
    // Owners first: from then on, and under these locks, nobody can add anything. The first table as refinery would
    // make it.
    let own = format!(
        "SET LOCAL client_min_messages = warning;
         SET LOCAL lock_timeout = '5s';
         CREATE SCHEMA IF NOT EXISTS manybox;
         ALTER SCHEMA manybox OWNER TO {history};
         CREATE TABLE IF NOT EXISTS {HISTORY} (
             version pg_catalog.int4 PRIMARY KEY, name pg_catalog.varchar(255),
             applied_on pg_catalog.varchar(255), checksum pg_catalog.varchar(255));
         CREATE TABLE IF NOT EXISTS {UNFINISHED} (
             version pg_catalog.int4 PRIMARY KEY, begun_at pg_catalog.timestamptz DEFAULT pg_catalog.now(),
             done pg_catalog.int4, checksum pg_catalog.varchar(255));
         CREATE TABLE IF NOT EXISTS {REPEATED} (
             name pg_catalog.varchar(255) PRIMARY KEY, applied_on pg_catalog.varchar(255),
             checksum pg_catalog.varchar(255));
         ALTER TABLE {REPEATED} OWNER TO {history};
         ALTER TABLE {HISTORY} OWNER TO {history};
         ALTER TABLE {UNFINISHED} OWNER TO {history};
         ALTER TABLE {UNFINISHED} ALTER COLUMN begun_at DROP NOT NULL,
             ADD COLUMN IF NOT EXISTS done pg_catalog.int4, ADD COLUMN IF NOT EXISTS checksum pg_catalog.varchar(255)"
    );
    transaction.batch_execute(&own).await?;
    if i32::try_from(newest).is_err() {
        let wide = format!(
            "ALTER TABLE {HISTORY} ALTER COLUMN version TYPE pg_catalog.int8;
             ALTER TABLE {UNFINISHED} ALTER COLUMN version TYPE pg_catalog.int8"
        );
        transaction.batch_execute(&wide).await?;
    }
    let mut removed = Vec::new();
    for row in transaction.query(REMOVABLE, &[]).await? {
        removed.push(row.try_get(0)?);
        // Quoted by the server itself.
        transaction.batch_execute(row.try_get::<_, &str>(1)?).await?;
    }
    let mut grantees = vec!["PUBLIC".to_owned()];
    let granted = words(&transaction.query(GRANTEES, &[]).await?)?;
    grantees.extend(granted.iter().map(|role| Ident::new(role).to_string()));
    let grantees = grantees.join(", ");
    let rights = format!(
        "REVOKE ALL ON SCHEMA manybox FROM {grantees} CASCADE;
         REVOKE ALL ON {HISTORY}, {UNFINISHED}, {REPEATED} FROM {grantees} CASCADE;
         GRANT USAGE ON SCHEMA manybox TO {writer};
         GRANT SELECT, INSERT, DELETE ON {HISTORY}, {UNFINISHED}, {REPEATED} TO {writer}"
    );
    transaction.batch_execute(&rights).await?;
    let refused = guard::strangers(transaction, roles).await?;
    match refused.is_empty() {
        true => Ok(TakenOver { removed, refused }),
        false => Ok(TakenOver { refused, ..TakenOver::default() }),
    }
}

/// The first column of rows that have a text there.
fn words(rows: &[Row]) -> Result<Vec<String>, tokio_postgres::Error> {
    rows.iter().map(|row| row.try_get(0)).collect()
}
