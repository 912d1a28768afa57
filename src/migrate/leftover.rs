//! What an interrupted statement outside transactions left, and how it goes on from there.

use tokio_postgres::Client;

use super::resumable::{RelationName, StepKind};
use super::session::StatementError;
use crate::pg::Ident;

/// What a statement finds before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing in its way.
    Nothing,
    /// What it makes is there, whole.
    Done,
    /// Somebody else made something under its name: why it can't run, and what to do.
    Conflict(String),
}

/// Looks for what is there of a statement already, and ends it or clears it away. `begun` when it is known that we began it
/// before: then what it would make is our own.
///
/// # Errors
/// When the server refuses.
pub(super) async fn resume(client: &Client, step: &StepKind, begun: bool) -> Result<Found, StatementError> {
    match step {
        StepKind::CreateIndex { index, table, if_not_exists } => {
            let ours = begun || *if_not_exists;
            Ok(match look_for(client, index, table).await? {
                None => Found::Nothing,
                Some(Index { elsewhere: Some(other), .. }) => Found::Conflict(format!(
                    "an index of that name is there already, on table {other}: give this one another name"
                )),
                Some(Index { valid: true, .. }) if ours => Found::Done,
                Some(Index { valid: true, .. }) => Found::Conflict(
                    "an index of that name is there already: drop it, or write `IF NOT EXISTS` where it is the right one"
                        .into(),
                ),
                Some(Index { valid: false, .. }) if ours => {
                    wait_for_builds(client, table).await?;
                    match look_for(client, index, table).await? {
                        Some(Index { valid: true, .. }) => Found::Done,
                        Some(_) => {
                            drop_index(client, index, table).await?;
                            Found::Nothing
                        }
                        None => Found::Nothing,
                    }
                }
                Some(Index { valid: false, .. }) => Found::Conflict(
                    "an index of that name is there already, and invalid: write `IF NOT EXISTS`, and it is dropped and \
                     built again"
                        .into(),
                ),
            })
        }
        StepKind::DropIndex(index) if begun => {
            let gone = "SELECT pg_catalog.to_regclass($1::text) IS NULL";
            let gone: bool = client.query_one(gone, &[&quoted(index)]).await?.try_get(0)?;
            Ok(if gone { Found::Done } else { Found::Nothing })
        }
        StepKind::DetachPartition { parent, partition } => {
            match is_detaching(client, parent, partition).await? {
                // Nothing else than this statement leaves a partition so.
                Some(true) => {
                    let (parent, partition) = (quoted(parent), quoted(partition));
                    let end = format!("ALTER TABLE {parent} DETACH PARTITION {partition} FINALIZE");
                    client.batch_execute(&end).await?;
                    Ok(Found::Done)
                }
                None if begun => Ok(Found::Done),
                None | Some(false) => Ok(Found::Nothing),
            }
        }
        StepKind::Reindex(_) if begun => drop_copies(client).await.map(|()| Found::Nothing),
        _ => Ok(Found::Nothing),
    }
}

/// Clears away what a statement that failed left, so that it slows nobody down. Whether something is left for the next try.
///
/// # Errors
/// When the server refuses.
pub(super) async fn clean_up(client: &Client, step: &StepKind) -> Result<bool, StatementError> {
    match step {
        StepKind::CreateIndex { index, table, .. } => {
            let invalid = Index { valid: false, elsewhere: None };
            if look_for(client, index, table).await? == Some(invalid) {
                drop_index(client, index, table).await?;
            }
            Ok(false)
        }
        StepKind::Reindex(_) => drop_copies(client).await.map(|()| false),
        StepKind::DetachPartition { parent, partition } => {
            Ok(is_detaching(client, parent, partition).await? == Some(true))
        }
        _ => Ok(false),
    }
}

/// An index with the name of the one that a statement builds.
#[derive(Debug, PartialEq, Eq)]
struct Index {
    valid: bool,
    /// The table that it is on, when that is another.
    elsewhere: Option<String>,
}

/// Looks for an index beside its table, where the server makes it.
async fn look_for(
    client: &Client,
    index: &str,
    table: &RelationName,
) -> Result<Option<Index>, StatementError> {
    let row = client
        .query_opt(
            "SELECT i.indisvalid, CASE WHEN i.indrelid <> t.oid THEN i.indrelid::pg_catalog.regclass::text END
             FROM pg_catalog.pg_class t
             JOIN pg_catalog.pg_class c ON c.relnamespace = t.relnamespace AND c.relname = $2::text
             JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
             WHERE t.oid = pg_catalog.to_regclass($1::text)",
            &[&quoted(table), &index],
        )
        .await?;
    let read = |row: tokio_postgres::Row| Ok(Index { valid: row.try_get(0)?, elsewhere: row.try_get(1)? });
    row.map(read).transpose()
}

/// Waits until nobody builds an index of the table any more: one that is being built is invalid, too.
async fn wait_for_builds(client: &Client, table: &RelationName) -> Result<(), StatementError> {
    let table = quoted(table);
    let lock = format!("BEGIN; LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE; COMMIT");
    let locked = client.batch_execute(&lock).await;
    if locked.is_err() {
        // Its own outcome adds nothing: where it fails the session is over.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    Ok(locked?)
}

async fn drop_index(client: &Client, index: &str, table: &RelationName) -> Result<(), StatementError> {
    // Where the table is, and not where the search path finds the name first.
    let name = "SELECT pg_catalog.format('%I.%I', n.nspname, $2::text)
                FROM pg_catalog.pg_class t JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
                WHERE t.oid = pg_catalog.to_regclass($1::text)";
    let Some(row) = client.query_opt(name, &[&quoted(table), &index]).await? else { return Ok(()) };
    // Quoted by the server itself.
    let index: String = row.try_get(0)?;
    Ok(client.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS {index}")).await?)
}

/// Whether a partition is being detached; `None` when it is none of this table.
async fn is_detaching(
    client: &Client,
    parent: &RelationName,
    partition: &RelationName,
) -> Result<Option<bool>, StatementError> {
    let pending = client
        .query_opt(
            "SELECT inhdetachpending FROM pg_catalog.pg_inherits
             WHERE inhparent = pg_catalog.to_regclass($1::text) AND inhrelid = pg_catalog.to_regclass($2::text)",
            &[&quoted(parent), &quoted(partition)],
        )
        .await?;
    Ok(pending.map(|row| row.try_get(0)).transpose()?)
}

/// Drops the invalid indexes that an interrupted `REINDEX … CONCURRENTLY` left: of any table, for nothing else names an index
/// so and leaves it invalid. Those of TOAST tables only a superuser may drop: the server skips them.
async fn drop_copies(client: &Client) -> Result<(), StatementError> {
    let left = client
        .query(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE NOT i.indisvalid AND n.nspname <> 'pg_toast' AND c.relname ~ '_cc(new|old)[0-9]*$'
               AND pg_catalog.pg_has_role(c.relowner, 'USAGE')",
            &[],
        )
        .await?;
    for row in left {
        // Quoted by the server itself.
        let index: String = row.try_get(0)?;
        client.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS {index}")).await?;
    }
    Ok(())
}

/// A name as the server reads it, found by the search path unless it has a schema.
fn quoted(RelationName { schema, name }: &RelationName) -> String {
    let schema = schema.iter().map(|schema| format!("{}.", Ident::new(schema)));
    schema.chain([Ident::new(name).to_string()]).collect()
}
