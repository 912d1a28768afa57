//! What an adopted database says about settings: of PostgREST's for the login, and of PostgreSQL's for its roles.

use std::collections::{BTreeMap, HashMap};

use super::load::{MAX_CATALOG_ANSWER, SchemaError, too_long};
use crate::pg::wire::{Connection, Query, Row};

/// PostgREST's in-database configuration; values of any use are shorter than 64 kB, and longer ones are not kept. What is said for this database wins over what is said for all.
const IN_DATABASE: &str = "SELECT DISTINCT ON (name) name, value \
    FROM (SELECT setdatabase, pg_catalog.split_part(setting, '=', 1) AS name, \
        pg_catalog.substr(setting, pg_catalog.strpos(setting, '=') + 1) AS value \
        FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) AS setting \
        WHERE setrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) \
            AND setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database \
                WHERE datname = pg_catalog.current_database()))) AS settings \
    WHERE name LIKE 'pgrst.%' AND pg_catalog.length(value) <= 65536 ORDER BY name, setdatabase DESC";

/// Of the roles that the login may become. As PostgREST, which reads `pg_roles.rolconfig`: for all databases.
const OF_ROLES: &str = "SELECT rolname::pg_catalog.text, pg_catalog.split_part(setting, '=', 1), \
        pg_catalog.substr(setting, pg_catalog.strpos(setting, '=') + 1) \
    FROM pg_catalog.pg_roles, pg_catalog.unnest(rolconfig) AS setting \
    WHERE pg_catalog.pg_has_role(current_user, oid, 'MEMBER') AND pg_catalog.length(setting) <= 65536";

/// The login's settings whose names begin with `pgrst.`, by name.
///
/// # Errors
/// When the statement fails or the connection breaks.
pub async fn in_database_settings(
    connection: &mut Connection,
) -> Result<BTreeMap<String, String>, SchemaError> {
    let rows = rows(connection, IN_DATABASE).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// By role, then by name, what `ALTER ROLE … SET` gave the roles that the login may become.
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
