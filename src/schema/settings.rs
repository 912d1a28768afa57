//! What an adopted database says about settings: of PostgREST's for the login, and of PostgreSQL's for its roles.

use std::collections::{BTreeMap, HashMap};

use super::load::{SchemaError, too_long};
use super::room::MAX_CATALOG_ANSWER;
use crate::pg::wire::{Connection, Query, Row};

/// PostgREST's in-database configuration, one name and value in each row. What is said for this database wins over what is
/// said for all. Of a value that is longer than any of use the start is given, and a character more than that.
pub const IN_DATABASE_SETTINGS: &str = "SELECT DISTINCT ON (name) name, pg_catalog.left(value, 65537) \
    FROM (SELECT setdatabase, pg_catalog.split_part(setting, '=', 1) AS name, \
        pg_catalog.substr(setting, pg_catalog.strpos(setting, '=') + 1) AS value \
        FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) AS setting \
        WHERE setrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) \
            AND setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database \
                WHERE datname = pg_catalog.current_database()))) AS settings \
    WHERE name LIKE 'pgrst.%' ORDER BY name, setdatabase DESC";

/// Whether another login that is no superuser may become the role `r`: who can become a role can write its settings.
///
/// From PostgreSQL 16 on whoever makes a role is a member of it, without the right to become it. Those who may make roles
/// are trusted with their settings, as they were before.
macro_rules! others_become_it {
    () => {
        "EXISTS (SELECT FROM pg_catalog.pg_roles o \
            WHERE o.rolcanlogin AND NOT o.rolsuper AND o.rolname <> current_user \
                AND pg_catalog.pg_has_role(o.oid, r.oid, CASE WHEN o.rolcreaterole \
                    AND pg_catalog.current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END))"
    };
}

/// Roles with settings of their own that this login may become, and another as well.
pub const SHARED_ROLES: &str = concat!(
    "SELECT r.rolname::pg_catalog.text FROM pg_catalog.pg_roles r \
     WHERE r.rolconfig IS NOT NULL AND r.rolname <> current_user \
         AND pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER') AND ",
    others_become_it!(),
    " ORDER BY 1"
);

/// Of the roles that the login may become and no other can, what a session may set: PostgREST's choice, for all databases
/// as there. The level of isolation is the transaction's.
const OF_ROLES: &str = concat!(
    "SELECT r.rolname::pg_catalog.text, s.name, s.value \
     FROM pg_catalog.pg_roles r CROSS JOIN pg_catalog.unnest(r.rolconfig) AS c (config) \
     CROSS JOIN LATERAL (SELECT pg_catalog.lower(pg_catalog.split_part(config, '=', 1)) AS name, \
         pg_catalog.substr(config, pg_catalog.strpos(config, '=') + 1) AS value) s \
     JOIN pg_catalog.pg_settings p ON pg_catalog.lower(p.name) = s.name \
     WHERE r.rolname <> current_user AND pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER') \
         AND pg_catalog.length(config) <= 65536 \
         AND (p.context = 'user' OR pg_catalog.has_parameter_privilege(current_user, p.name, 'SET')) AND NOT ",
    others_become_it!()
);

/// The login's settings whose names begin with `pgrst.`, by name.
///
/// # Errors
/// When the statement fails or the connection breaks.
pub async fn in_database_settings(
    connection: &mut Connection,
) -> Result<BTreeMap<String, String>, SchemaError> {
    let rows = rows(connection, IN_DATABASE_SETTINGS).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// By role, then by name in lower case, what `ALTER ROLE … SET` gave the roles that the login may become and no other login
/// can, superusers aside.
///
/// # Errors
/// As [`in_database_settings`].
pub async fn role_settings(
    connection: &mut Connection,
) -> Result<HashMap<String, BTreeMap<String, String>>, SchemaError> {
    let mut roles: HashMap<String, BTreeMap<String, String>> = HashMap::new();
    for row in rows(connection, OF_ROLES).await? {
        roles.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, row.try_get(2)?);
    }
    Ok(roles)
}

async fn rows(connection: &mut Connection, sql: &str) -> Result<Vec<Row>, SchemaError> {
    let query = Query { sql, types: &[], key: None, parameters: &[] };
    let (rows, _) = connection.rows(&query, MAX_CATALOG_ANSWER).await.map_err(too_long)?;
    Ok(rows)
}
