//! Reads `Facts` from one connection: a few queries on `pg_catalog`, which any login may run.

use std::collections::HashMap;

use bytes::BytesMut;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio_postgres::types::{ToSql as _, Type};

use super::Representation;
use super::relationship::{MAX_PAIRS, TooMany};
use super::room::{MAX_CATALOG_ANSWER, Room, RoomShare};
use super::view::{self, View};
use super::{ComputedRelationship, Facts, ForeignKey, MediaHandler, Name, PrimaryKey};
use crate::pg::wire::{Answer, Command, Connection, Names, Parameter, Query, Row, Step, WireError};

/// Types outside pg_catalog are then spelled with their schema, and no temporary object hides one of the catalog.
const SEARCH_PATH: Command = Command::new("SET LOCAL search_path = pg_catalog, pg_temp", "SET");
/// The limit of a tier is for requests: a large schema takes longer than those may.
const STATEMENT_TIMEOUT: Command = Command::new("SET LOCAL statement_timeout = '120s'", "SET");
/// Of a large schema the plans are so dear that the server would compile them, which takes longer than it saves, and its
/// sorts would go to the disk.
const JIT: Command = Command::new("SET LOCAL jit = off", "SET");
const WORK_MEM: Command = Command::new("SET LOCAL work_mem = '64MB'", "SET");
const BEGIN: Command = Command::new("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "BEGIN");
const ROLLBACK: Command = Command::new("ROLLBACK", "ROLLBACK");
const RELATIONS: &str = include_str!("sql/relations.sql");
const KEYS: &str = include_str!("sql/keys.sql");
const VIEWS: &str = include_str!("sql/views.sql");
const ROUTINES: &str = include_str!("sql/routines.sql");
/// `manybox` holds the history, which no API exposes.
const SCHEMAS: &str = "SELECT nspname::pg_catalog.text FROM pg_catalog.pg_namespace \
    WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', 'manybox')";
const DATABASE: &str = include_str!("sql/database.sql");
const STAMP: &str = include_str!("sql/stamp.sql");

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
}

/// What the queries answered. To make something of it takes the processor a while, perhaps seconds where a schema's owner
/// means it so.
#[derive(Debug)]
pub struct Answers {
    rows: [Vec<Row>; 6],
    _share: RoomShare,
}

/// Asks for all schemas but PostgreSQL's own and manybox's, as [`ask`] does.
///
/// # Errors
/// As [`ask`].
pub async fn ask_all(connection: &mut Connection) -> Result<Answers, SchemaError> {
    let query = Query { sql: SCHEMAS, types: &[], key: None, parameters: &[] };
    let (rows, _) = connection.rows(&query, MAX_CATALOG_ANSWER).await.map_err(too_long)?;
    let schemas = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    ask(connection, &schemas, &[], &Room::default()).await
}

/// Asks for what is in `schemas`, in one transaction that sees one moment and is undone. Views in `extra_search_path` are
/// looked through, but show nothing of their own. Needs no role. What is long takes `room`.
///
/// # Errors
/// When a statement fails, the connection breaks, or there is too much of it. A transaction may be open then, or the
/// connection be of no more use.
pub async fn ask(
    connection: &mut Connection,
    schemas: &[String],
    extra_search_path: &[String],
    room: &Room,
) -> Result<Answers, SchemaError> {
    let exposed = names(schemas)?;
    let along = names(extra_search_path)?;
    let (exposed, along) =
        (Parameter { bytes: Some(&exposed), binary: true }, Parameter { bytes: Some(&along), binary: true });
    // One write for all.
    connection.command(&BEGIN, Names::None)?;
    for setting in [&STATEMENT_TIMEOUT, &JIT, &WORK_MEM] {
        connection.command(setting, Names::None)?;
    }
    connection.command(&SEARCH_PATH, Names::None)?;
    let mut ask = |sql, parameters: &[Parameter<'_>]| {
        let types = [Type::TEXT_ARRAY, Type::TEXT_ARRAY];
        connection.query(&Query { sql, types: &types[..parameters.len()], key: None, parameters })
    };
    let asked = [
        ask(RELATIONS, &[exposed])?,
        ask(ROUTINES, &[exposed])?,
        ask(KEYS, &[])?,
        ask(VIEWS, &[exposed, along])?,
        ask(DATABASE, &[exposed])?,
        ask(STAMP, &[])?,
    ];
    connection.command(&ROLLBACK, Names::None)?;
    connection.sync();
    answers(connection, asked, room.share()).await
}

impl Answers {
    /// Their length in bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.rows.iter().flatten().map(Row::len).sum()
    }

    /// The [`stamp`] of the moment that they are of.
    ///
    /// # Errors
    /// [`SchemaError::Wire`] when it is no text.
    pub fn stamp(&self) -> Result<String, SchemaError> {
        let [.., stamp] = &self.rows;
        Ok(stamp.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default())
    }

    /// The facts in them.
    ///
    /// # Errors
    /// [`SchemaError::Unreadable`].
    pub fn into_facts(self) -> Result<Facts, SchemaError> {
        let [relations, routines, keys, views, database, _] = self.rows;
        let (relations, routines) = (parse(relations)?, parse(routines)?);
        let (keys, views): (Vec<Key>, Vec<View>) = (parse(keys)?, parse(views)?);
        let database: Vec<Database> = parse(database)?;
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
        }
        Ok(facts)
    }
}

/// A text that is another one after every committed change of what [`ask`] reads, and seldom after others. It costs a
/// hundredth of that: no more than a pass over the rows of the catalog.
///
/// # Errors
/// As [`ask`].
pub async fn stamp(connection: &mut Connection) -> Result<String, SchemaError> {
    let query = Query { sql: STAMP, types: &[], key: None, parameters: &[] };
    let (rows, _) = connection.rows(&query, MAX_CATALOG_ANSWER).await?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default())
}

fn remember(columns: &mut HashMap<view::Origin, (Name, String)>, side: &Side) {
    for (number, name) in &side.columns {
        columns.entry((side.oid, *number)).or_insert_with(|| (side.relation.clone(), name.clone()));
    }
}

/// A list of schemas as PostgreSQL takes it.
fn names(names: &[String]) -> Result<BytesMut, SchemaError> {
    let mut bytes = BytesMut::new();
    let written = names.to_sql(&Type::TEXT_ARRAY, &mut bytes);
    written.map_err(|error| WireError::Unsendable(std::io::Error::other(error)))?;
    Ok(bytes)
}

/// The rows of each query, one JSON text each.
async fn answers(
    connection: &mut Connection,
    asked: [Step; 6],
    mut share: RoomShare,
) -> Result<Answers, SchemaError> {
    let mut found: [Vec<Row>; 6] = Default::default();
    let mut left = MAX_CATALOG_ANSWER;
    let mut refused = None;
    while !connection.is_answered() {
        match connection.next().await? {
            Answer::Row(step) => {
                let Some(rows) = asked.iter().position(|of| *of == step).and_then(|at| found.get_mut(at))
                else {
                    continue;
                };
                if connection.row_len() <= left && !share.take(connection.row_len()) {
                    return Err(SchemaError::NoRoom);
                }
                let row = connection.row(step, left).await.map_err(too_long)?;
                left -= row.len();
                rows.push(row);
            }
            Answer::Failed(refusal) => refused = refused.or(Some(refusal.error)),
            Answer::Done(..) | Answer::Ready(_) => {}
        }
    }
    match refused {
        None => Ok(Answers { rows: found, _share: share }),
        Some(error) => Err(WireError::Server(error).into()),
    }
}

/// The queries above make the JSON that is read here, so what can't be read comes from a server whose catalog we do not
/// know.
fn parse<T: DeserializeOwned>(rows: Vec<Row>) -> Result<Vec<T>, SchemaError> {
    // One after the other is dropped, so that no more than one row is held twice.
    rows.into_iter().map(|row| Ok(serde_json::from_str(row.try_get(0)?)?)).collect()
}

pub(super) fn too_long(error: WireError) -> SchemaError {
    match error {
        WireError::TooLong { .. } => SchemaError::TooLong,
        other => other.into(),
    }
}

/// Why a schema could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A statement failed, or the connection broke.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Other long ones are being read.
    #[error("it is long, and so are others that are being read")]
    NoRoom,
    /// Its owner wrote more into it than is kept.
    #[error("what it says of the exposed schemas is longer than {MAX_CATALOG_ANSWER} bytes")]
    TooLong,
    /// Its keys and views make more relationships than are kept.
    #[error(
        "its keys, and the views that show them, make relationships of more than {MAX_PAIRS} pairs of columns"
    )]
    TooMany,
    /// The server's catalog is not one that manybox knows.
    #[error("its pg_catalog answered in a form manybox does not know: {0}")]
    Unreadable(#[from] serde_json::Error),
}

impl From<TooMany> for SchemaError {
    fn from(TooMany: TooMany) -> Self {
        Self::TooMany
    }
}
