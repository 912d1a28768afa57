//! Reads a `Schema` from one connection: two queries on `pg_catalog`, which the tenant's login may run.

use serde::de::DeserializeOwned;
use tokio_postgres::types::Type;

use super::{Facts, Schema};
use crate::pg;

const RELATIONS: &str = include_str!("sql/relations.sql");
const ROUTINES: &str = include_str!("sql/routines.sql");

/// Reads relations and routines of `schemas`. Changes nothing in the session and needs no role; run it in a
/// REPEATABLE READ transaction where both must be of one moment.
///
/// # Errors
/// When a statement fails or the connection breaks.
pub async fn load(
    client: &tokio_postgres::Client,
    schemas: &[String],
    _extra_search_path: &[String],
) -> Result<Schema, pg::Error> {
    let (relations, routines) =
        tokio::try_join!(rows(client, RELATIONS, schemas), rows(client, ROUTINES, schemas))?;
    Schema::new(Facts { relations, routines, ..Facts::default() }).map_err(|e| unreadable(&e))
}

async fn rows<T: DeserializeOwned>(
    client: &tokio_postgres::Client,
    sql: &str,
    schemas: &[String],
) -> Result<Vec<T>, pg::Error> {
    let rows = client.query_typed(sql, &[(&schemas, Type::TEXT_ARRAY)]).await?;
    let parse = |row: &tokio_postgres::Row| {
        let text: &str = row.try_get(0)?;
        serde_json::from_str(text).map_err(|e| unreadable(&e))
    };
    rows.iter().map(parse).collect()
}

/// The queries above make the JSON that is read here, so this is a server whose catalog we do not know.
fn unreadable(error: &serde_json::Error) -> pg::Error {
    pg::Error::Settings {
        server: "of this database".into(),
        reason: format!("its pg_catalog answered in a form manybox does not know: {error}"),
    }
}
