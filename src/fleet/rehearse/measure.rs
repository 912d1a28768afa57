//! What files do to a copy: each is tried in a transaction that is rolled back, to see what it holds and rewrites, and then
//! applied as it would be to the tenant.

use std::collections::HashMap;
use std::time::Instant;

use serde::Serialize;
use tokio_postgres::Client;

use crate::fleet::{Fleet, FleetError, FleetServer};
use crate::migrate::{self, Edition, File, Options, PartFailure};
use crate::pg;

/// One file of a rehearsal.
#[derive(Debug, Clone, Serialize)]
pub struct FileRehearsal {
    /// Its name.
    pub file: String,
    /// How long the migrator took for it, its checks included.
    pub seconds: f64,
    /// What it locks of the tables that were there before it, longer than reading does. Those of a file outside
    /// transactions are not known.
    pub locks: Vec<TableLock>,
    /// The tables that were there before it, and that it writes anew.
    pub rewritten: Vec<TableRewrite>,
    /// How many rows its statements insert, update and delete.
    pub rows: i64,
    /// Why locks, rewrites and rows are not known: it runs outside transactions, or failed where it was tried.
    pub untried: Option<String>,
}

/// A lock that lasts until the end of a file's transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableLock {
    /// The table.
    pub table: String,
    /// The strongest mode, as in `LOCK TABLE`: `ACCESS EXCLUSIVE`.
    pub mode: &'static str,
}

/// A table that is written anew, with a lock that lets nobody read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableRewrite {
    /// The table.
    pub table: String,
    /// How large it was before, with its indexes.
    pub bytes: i64,
}

/// PostgreSQL, "Explicit Locking", table 13.2, strongest first.
const MODES: [(&str, &str); 7] = [
    ("AccessExclusiveLock", "ACCESS EXCLUSIVE"),
    ("ExclusiveLock", "EXCLUSIVE"),
    ("ShareRowExclusiveLock", "SHARE ROW EXCLUSIVE"),
    ("ShareLock", "SHARE"),
    ("ShareUpdateExclusiveLock", "SHARE UPDATE EXCLUSIVE"),
    ("RowExclusiveLock", "ROW EXCLUSIVE"),
    ("RowShareLock", "ROW SHARE"),
];

/// Every table as the transaction sees it: where it is stored, how large it is, what it holds of it, what it changed.
const TABLES: &str = "
SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), COALESCE(pg_catalog.pg_relation_filenode(c.oid), 0),
       pg_catalog.pg_total_relation_size(c.oid), COALESCE(s.n_tup_ins + s.n_tup_upd + s.n_tup_del, 0),
       ARRAY(SELECT l.mode::pg_catalog.text FROM pg_catalog.pg_locks l
             WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.relation = c.oid AND l.granted)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_stat_xact_user_tables s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'manybox')
ORDER BY 2";

/// What was measured until the files ended, or one failed.
pub(super) struct Measured {
    pub(super) files: Vec<FileRehearsal>,
    /// The version that was reached, if any file was applied.
    pub(super) after: Option<i64>,
    pub(super) failure: Option<String>,
}

/// Applies the files of versions over `applied` one by one, and then the repeatable ones together.
pub(super) async fn files(
    fleet: &Fleet,
    server: &FleetServer,
    database: &str,
    edition: &Edition,
    applied: i64,
) -> Result<Measured, FleetError> {
    let mut measured = Measured { files: Vec::new(), after: None, failure: None };
    let versions = edition.versions_only();
    for file in versions.files.iter().filter(|file| file.version > applied) {
        let mut rehearsal = if file.transactional {
            tried(fleet, server, database, edition, file).await?
        } else {
            untried(file, "it runs outside transactions".into())
        };
        let begun = Instant::now();
        let outcome = fleet.migrate_scratch(server, database, &versions, Some(file.version)).await?;
        rehearsal.seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(outcome) => measured.after = Some(outcome.after),
            Err(failure) => {
                measured.failure = Some(failure.message);
                return Ok(measured);
            }
        }
        measured.files.push(rehearsal);
    }
    let mut tries = Vec::new();
    for file in &edition.repeatables {
        tries.push((&file.name, tried(fleet, server, database, edition, file).await?));
    }
    // Also where there are none: what the tenant has of others is forgotten.
    match fleet.migrate_scratch(server, database, edition, None).await? {
        Ok(outcome) => {
            measured.after = Some(outcome.after);
            let was_run = |name: &String| outcome.repeated.contains(name);
            measured
                .files
                .extend(tries.into_iter().filter(|(name, _)| was_run(name)).map(|(_, tried)| tried));
        }
        Err(failure) => measured.failure = Some(failure.message),
    }
    Ok(measured)
}

fn nothing(file: &File) -> FileRehearsal {
    let file = file.file_name();
    FileRehearsal { file, seconds: 0.0, locks: vec![], rewritten: vec![], rows: 0, untried: None }
}

fn untried(file: &File, why: String) -> FileRehearsal {
    FileRehearsal { untried: Some(why), ..nothing(file) }
}

/// Tries a file, under the timeouts that it has when it is migrated.
async fn tried(
    fleet: &Fleet,
    server: &FleetServer,
    database: &str,
    edition: &Edition,
    file: &File,
) -> Result<FileRehearsal, FleetError> {
    let migrator = server.migrator(database).await?;
    let tried = try_out(&migrator, edition, file, &fleet.migrate_options()).await;
    migrator.close().await?;
    Ok(tried.unwrap_or_else(|error| untried(file, error.to_string())))
}

/// A table before the file.
struct Table {
    node: u32,
    bytes: i64,
}

/// Why a file could not be tried.
#[derive(Debug, thiserror::Error)]
enum Untried {
    #[error(transparent)]
    File(#[from] PartFailure),
    #[error(transparent)]
    Server(#[from] pg::Error),
}

impl From<tokio_postgres::Error> for Untried {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error.into())
    }
}

async fn try_out(
    client: &Client,
    edition: &Edition,
    file: &File,
    options: &Options,
) -> Result<FileRehearsal, Untried> {
    migrate::begin_trial(client, edition, options).await?;
    client.batch_execute("SET LOCAL client_min_messages = warning").await?;
    let mut before = HashMap::new();
    for row in client.query(TABLES, &[]).await? {
        before.insert(row.try_get::<_, u32>(0)?, Table { node: row.try_get(2)?, bytes: row.try_get(3)? });
    }
    migrate::try_file(client, file, options).await?;
    client.batch_execute("SET LOCAL search_path = pg_catalog, pg_temp").await?;
    let mut rehearsal = nothing(file);
    for row in client.query(TABLES, &[]).await? {
        let table: String = row.try_get(1)?;
        rehearsal.rows += row.try_get::<_, i64>(4)?;
        let Some(Table { node, bytes }) = before.get(&row.try_get(0)?) else { continue };
        let modes: Vec<String> = row.try_get(5)?;
        if let Some((_, mode)) = MODES.iter().find(|(name, _)| modes.iter().any(|mode| mode == name)) {
            rehearsal.locks.push(TableLock { table: table.clone(), mode });
        }
        // A partitioned table is stored nowhere.
        if *node != 0 && *node != row.try_get::<_, u32>(2)? {
            rehearsal.rewritten.push(TableRewrite { table, bytes: *bytes });
        }
    }
    client.batch_execute("ROLLBACK").await?;
    Ok(rehearsal)
}
