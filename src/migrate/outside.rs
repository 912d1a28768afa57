//! Statements that can't run in a transaction: run once, continued after a crash, with the same history row.
//!
//! refinery always opens a transaction, so these have their own path. The statement and its history row can't be one
//! transaction; a row in `manybox.schema_unfinished` says before the statement that it was begun. Whoever finds that
//! row knows that what the statement left is its own: a valid index means that only the history row is missing, an
//! invalid one is dropped and built again.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::Client;

use super::edition::{File, NO_TRANSACTION};
use super::history::{HISTORY, UNFINISHED};
use super::session::Said;
use super::statements::{Statement, split};
use crate::pg::Ident;

/// A statement that we know how to run again after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// `CREATE INDEX CONCURRENTLY`: leaves an invalid index when it fails.
    Index {
        /// The table's schema, where the index will be.
        schema: String,
        name: String,
    },
    /// Has the same effect when run twice.
    Repeatable,
}

/// Why a statement can't be in a file that runs in a transaction, if so.
pub(super) fn required_by(statement: &Statement<'_>) -> Option<String> {
    let first = statement.keyword(0)?;
    let what = match first.as_str() {
        "VACUUM" => "VACUUM",
        "CREATE" | "DROP" | "REINDEX" | "ALTER" if is_concurrent(statement) => "CONCURRENTLY",
        _ => return None,
    };
    Some(format!(
        "`{what}` can't run in a transaction: put the statement alone into a file whose first line is \
         `{NO_TRANSACTION}`"
    ))
}

fn is_concurrent(statement: &Statement<'_>) -> bool {
    let at_object = |i| statement.has_at(i, &["INDEX", "CONCURRENTLY"]);
    match statement.keyword(0).as_deref() {
        Some("CREATE") => at_object(1) || at_object(2),
        Some("DROP") => at_object(1),
        Some("REINDEX") => statement.has("CONCURRENTLY"),
        _ => statement.has_at(1, &["TABLE"]) && statement.has("DETACH") && statement.has("CONCURRENTLY"),
    }
}

/// Whether it is `ALTER TYPE … ADD VALUE`.
pub(super) fn adds_enum_value(statement: &Statement<'_>) -> bool {
    statement.has_at(0, &["ALTER", "TYPE"]) && statement.has_pair("ADD", "VALUE")
}

/// How a marked file's statement is run.
///
/// # Errors
/// A sentence, when it is none that could be continued after a crash.
pub(super) fn step(statement: &Statement<'_>) -> Result<Step, String> {
    let refuse = |reason: &str| Err(reason.to_owned());
    match statement.keyword(0).unwrap_or_default().as_str() {
        "CREATE" if is_concurrent(statement) => index(statement),
        "DROP" if is_concurrent(statement) => {
            if statement.has_at(3, &["IF", "EXISTS"]) {
                return Ok(Step::Repeatable);
            }
            refuse(
                "must be able to run twice, in case it is interrupted: write `DROP INDEX CONCURRENTLY IF EXISTS`",
            )
        }
        "REINDEX" if is_concurrent(statement) => Ok(Step::Repeatable),
        "VACUUM" if statement.has("FULL") => {
            refuse("`VACUUM FULL` shuts out all of the tenant's requests: do it by hand at a quiet hour")
        }
        "VACUUM" => Ok(Step::Repeatable),
        "ALTER" if adds_enum_value(statement) => {
            if statement.has_pair("VALUE", "IF") {
                return Ok(Step::Repeatable);
            }
            refuse("must be able to run twice, in case it is interrupted: write `ADD VALUE IF NOT EXISTS`")
        }
        _ => refuse(
            "is not among the statements that run outside a transaction (CREATE, DROP INDEX and REINDEX CONCURRENTLY, \
             VACUUM, ALTER TYPE … ADD VALUE), which can be continued when interrupted: run it without the mark",
        ),
    }
}

/// Reads `CREATE [UNIQUE] INDEX CONCURRENTLY <name> ON [ONLY] [<schema>.]<table>`.
fn index(statement: &Statement<'_>) -> Result<Step, String> {
    let at = if statement.has_at(1, &["UNIQUE"]) { 4 } else { 3 };
    if statement.has_at(at, &["IF", "NOT", "EXISTS"]) {
        return Err("`IF NOT EXISTS` would take an invalid index that a failed build left for the real one: leave it \
                    out, manybox continues an interrupted build by itself"
            .to_owned());
    }
    let (Some(name), true) = (statement.name(at), statement.has_at(at + 1, &["ON"])) else {
        return Err("must give the index a name, so that an interrupted build can be found again".to_owned());
    };
    // PostgreSQL cuts longer names, and the index would be looked for in vain.
    if name.len() > 63 {
        return Err(format!("gives the index a name of {} bytes; PostgreSQL keeps 63", name.len()));
    }
    let table = if statement.has_at(at + 2, &["ONLY"]) { at + 3 } else { at + 2 };
    let schema = match statement.name(table) {
        Some(schema) if statement.has_dot(table + 1) => schema,
        _ => "public".to_owned(),
    };
    Ok(Step::Index { schema, name })
}

/// Runs a marked file and writes its history row, continuing what an interrupted run left.
pub(super) async fn run(client: &mut Client, file: &File) -> Result<(), Said> {
    let step = split(&file.sql)
        .ok()
        .and_then(|statements| statements.iter().next().and_then(|statement| step(&statement).ok()))
        .ok_or_else(|| Said::ours(format!("{} holds no statement that we know", file.file_name())))?;
    let begun = client
        .query_opt(&format!("SELECT FROM {UNFINISHED} WHERE version = $1"), &[&file.version])
        .await?
        .is_some();
    let found = look_for(client, &step).await?;
    match (begun, found) {
        // Not ours to judge: whoever built it may have built something else under the name.
        (false, Found::Valid | Found::Invalid) => {
            return Err(Said::ours(format!(
                "an index of that name is there already{}: drop it, or drop the file",
                if found == Found::Invalid { ", and invalid" } else { "" }
            )));
        }
        (true, Found::Valid) => return record(client, file).await,
        (true, Found::Invalid) => drop_index(client, &step).await?,
        (true, Found::Nothing) => {}
        (false, Found::Nothing) => {
            client
                .execute(&format!("INSERT INTO {UNFINISHED} (version) VALUES ($1)"), &[&file.version])
                .await?;
        }
    }
    if let Err(error) = client.batch_execute(&file.sql).await {
        if !client.is_closed() {
            // Best effort: an invalid index slows writes down. What can't be dropped now is dropped when the file is
            // run again, because the row that says so stays.
            if look_for(client, &step).await? == Found::Invalid {
                drop_index(client, &step).await?;
            }
            client.execute(&format!("DELETE FROM {UNFINISHED} WHERE version = $1"), &[&file.version]).await?;
        }
        return Err(error.into());
    }
    record(client, file).await
}

/// Writes the row that refinery would have written.
async fn record(client: &mut Client, file: &File) -> Result<(), Said> {
    let applied_on = OffsetDateTime::now_utc().format(&Rfc3339).map_err(|e| Said::ours(e.to_string()))?;
    let transaction = client.transaction().await?;
    transaction.execute(&format!("DELETE FROM {UNFINISHED} WHERE version = $1"), &[&file.version]).await?;
    transaction
        .execute(
            &format!("INSERT INTO {HISTORY} (version, name, applied_on, checksum) VALUES ($1, $2, $3, $4)"),
            &[&file.version, &file.name, &applied_on, &file.checksum.to_string()],
        )
        .await?;
    Ok(transaction.commit().await?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Valid,
    Invalid,
}

async fn look_for(client: &Client, step: &Step) -> Result<Found, Said> {
    let Step::Index { schema, name } = step else { return Ok(Found::Nothing) };
    let row = client
        .query_opt(
            "SELECT i.indisvalid FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1::text AND c.relname = $2::text",
            &[schema, name],
        )
        .await?;
    Ok(match row.map(|row| row.try_get(0)).transpose()? {
        None => Found::Nothing,
        Some(true) => Found::Valid,
        Some(false) => Found::Invalid,
    })
}

async fn drop_index(client: &Client, step: &Step) -> Result<(), Said> {
    let Step::Index { schema, name } = step else { return Ok(()) };
    let index = format!("{}.{}", Ident::new(schema), Ident::new(name));
    Ok(client.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS {index}")).await?)
}
