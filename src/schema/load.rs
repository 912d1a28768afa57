//! Reads the facts of a `Schema` from one connection: a few queries on `pg_catalog`, which any login may run.

use std::collections::HashMap;
use std::pin::pin;

use futures_util::TryStreamExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio_postgres::types::Type;

use super::view::{self, View};
use super::{ComputedRelationship, Facts, ForeignKey, MediaHandler, Name, PrimaryKey};
use super::{Representation, Schema};
use crate::pg;

/// Types outside pg_catalog are then spelled with their schema, and no temporary object hides one of the catalog.
const SEARCH_PATH: &str = "SET LOCAL search_path = pg_catalog, pg_temp";
const RELATIONS: &str = include_str!("sql/relations.sql");
const KEYS: &str = include_str!("sql/keys.sql");
const VIEWS: &str = include_str!("sql/views.sql");
const ROUTINES: &str = include_str!("sql/routines.sql");
const DATABASE: &str = include_str!("sql/database.sql");

/// Most bytes that one of these queries may answer. A schema of 100 tables has some 200 kB; its owner can write a comment
/// of 1 GB, which would be kept, and take seconds to read.
const MOST: usize = 64 * 1024 * 1024;

/// A primary or foreign key as `sql/keys.sql` gives it.
#[derive(Deserialize)]
struct Key {
    name: String,
    #[serde(flatten)]
    own: Side,
    /// Of a foreign key.
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Side {
    oid: u32,
    relation: Name,
    /// Number and name, in the order of the key.
    columns: Vec<(i32, String)>,
}

#[derive(Deserialize)]
struct Target {
    unique: bool,
    #[serde(flatten)]
    side: Side,
}

/// The one row of `sql/database.sql`.
#[derive(Deserialize)]
struct Database {
    computed: Vec<ComputedRelationship>,
    media_handlers: Vec<MediaHandler>,
    representations: Vec<Representation>,
    comments: Vec<(String, String)>,
    geojson: Option<Name>,
    server_version: i32,
    time_zones: Vec<String>,
}

/// Reads what is in `schemas`. Views in `extra_search_path` are looked through, but show nothing of their own.
///
/// Needs no role. Run it in a transaction, whose search_path it changes; REPEATABLE READ makes all queries see one
/// moment.
///
/// # Errors
/// When a statement fails or the connection breaks.
pub async fn load(
    client: &tokio_postgres::Client,
    schemas: &[String],
    extra_search_path: &[String],
) -> Result<Schema, pg::Error> {
    let path = async { Ok(client.batch_execute(SEARCH_PATH).await?) };
    let (exposed, along) = ([schemas], [schemas, extra_search_path]);
    // Sent one behind the other without a wait between them.
    let (_, relations, routines, keys, views, database) = tokio::try_join!(
        path,
        rows(client, RELATIONS, &exposed),
        rows(client, ROUTINES, &exposed),
        rows::<Key>(client, KEYS, &[]),
        rows::<View>(client, VIEWS, &along),
        rows::<Database>(client, DATABASE, &exposed),
    )?;
    let mut facts = Facts { relations, routines, ..Facts::default() };
    let mut columns = HashMap::new();
    for key in keys {
        remember(&mut columns, &key.own);
        match key.target {
            Some(target) => {
                remember(&mut columns, &target.side);
                let other = target.side.columns.into_iter().map(|(_, name)| name);
                facts.foreign_keys.push(ForeignKey {
                    name: key.name,
                    relation: key.own.relation,
                    columns: key.own.columns.into_iter().map(|(_, name)| name).zip(other).collect(),
                    target: target.side.relation,
                    unique: target.unique,
                });
            }
            None => facts.primary_keys.push(PrimaryKey {
                relation: key.own.relation,
                columns: key.own.columns.into_iter().map(|(_, name)| name).collect(),
            }),
        }
    }
    facts.view_columns = view::trace(views, &columns);
    if let Some(database) = database.into_iter().next() {
        facts.computed = database.computed;
        facts.media_handlers = database.media_handlers;
        facts.representations = database.representations;
        facts.comments = database.comments;
        facts.geojson = database.geojson;
        facts.server_version = database.server_version;
        facts.time_zones = database.time_zones;
    }
    Schema::new(facts).map_err(|e| unreadable(&e))
}

fn remember(columns: &mut HashMap<view::Origin, (Name, String)>, side: &Side) {
    for (number, name) in &side.columns {
        columns.entry((side.oid, *number)).or_insert_with(|| (side.relation.clone(), name.clone()));
    }
}

/// Runs a query whose parameters are lists of schemas and whose rows are one JSON text each.
async fn rows<T: DeserializeOwned>(
    client: &tokio_postgres::Client,
    sql: &str,
    schemas: &[&[String]],
) -> Result<Vec<T>, pg::Error> {
    let parameters: Vec<_> = schemas.iter().map(|s| (*s, Type::TEXT_ARRAY)).collect();
    let mut rows = pin!(client.query_typed_raw(sql, parameters).await?);
    let (mut read, mut facts) = (0, Vec::new());
    while let Some(row) = rows.try_next().await? {
        let text: &str = row.try_get(0)?;
        read += text.len();
        if read > MOST {
            return Err(refused(format!("what it says of the exposed schemas is longer than {MOST} bytes")));
        }
        facts.push(serde_json::from_str(text).map_err(|e| unreadable(&e))?);
    }
    Ok(facts)
}

/// The queries above make the JSON that is read here, so this is a server whose catalog we do not know.
fn unreadable(error: &serde_json::Error) -> pg::Error {
    refused(format!("its pg_catalog answered in a form manybox does not know: {error}"))
}

fn refused(reason: String) -> pg::Error {
    pg::Error::Settings { server: "of this database".into(), reason }
}
