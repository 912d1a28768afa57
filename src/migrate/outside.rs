//! Running a file outside of transactions: once, continued after a crash, with the same history row.
//!
//! refinery always opens a transaction, so these have their own path. The statement and its history row can't be one
//! transaction; a row in `manybox.schema_unfinished` says before the statement that it was begun. Whoever finds that
//! row knows that what the statement left is its own: a valid index means that only the history row is missing, an
//! invalid one is dropped and built again.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::{Client, Transaction};

use super::activity::Activity;
use super::file::File;
use super::history::{HISTORY, UNFINISHED};
use super::place::pieces;
use super::resumable::{RelationName, StepKind};
use super::script::{self, Company};
use super::session::{Roles, StatementError};
use crate::pg::Ident;

/// Runs a marked file and writes its history row, continuing what an interrupted run left.
pub(super) async fn run(
    client: &mut Client,
    file: &File,
    roles: &Roles,
    company: &mut Company<'_, '_>,
) -> Result<(), StatementError> {
    let (writer, owner) = (roles.set_writer(), roles.set_owner());
    let mut steps = file.steps.iter().filter(|step| step.kind != StepKind::Setting);
    let step = match (steps.next(), steps.next()) {
        (Some(only), None) => only,
        _ => {
            let text = format!("{} does not hold one statement besides settings", file.file_name());
            return Err(StatementError::ours(text));
        }
    };
    let pieces = pieces(file);
    let Some(piece) = pieces.iter().find(|piece| piece.range == step.range) else {
        return Err(StatementError::ours(format!("{} has lost its statement", file.file_name())));
    };
    for setting in pieces.iter().filter(|setting| setting.range != step.range) {
        script::run_one(client, setting, company).await?;
    }
    let step = &step.kind;
    if *step == StepKind::Atomic {
        let transaction = client.transaction().await?;
        script::run_one(transaction.client(), piece, company).await?;
        return record(transaction, file, roles).await;
    }
    client.batch_execute(&writer).await?;
    let begun = client
        .query_opt(&format!("SELECT FROM {UNFINISHED} WHERE version = $1::int8"), &[&file.version])
        .await?
        .is_some();
    client.batch_execute(&owner).await?;
    if begun && finish(client, step).await? {
        return record(client.transaction().await?, file, roles).await;
    }
    let found = look_for(client, step).await?;
    match (begun, found) {
        (false, Found::Valid) if matches!(step, StepKind::CreateIndex { if_not_exists: true, .. }) => {
            return record(client.transaction().await?, file, roles).await;
        }
        // Not ours to judge: whoever built it may have built something else under the name.
        (false, Found::Valid | Found::Invalid) => {
            return Err(StatementError::ours(format!(
                "an index of that name is there already{}: drop it, or write `IF NOT EXISTS` where it is the right one",
                if found == Found::Invalid { ", and invalid" } else { "" }
            )));
        }
        (true, Found::Valid) => return record(client.transaction().await?, file, roles).await,
        (true, Found::Invalid) => drop_index(client, step).await?,
        (true, Found::Nothing) => {}
        (false, Found::Nothing) => {
            client.batch_execute(&writer).await?;
            client
                .execute(&format!("INSERT INTO {UNFINISHED} (version) VALUES ($1::int8)"), &[&file.version])
                .await?;
            client.batch_execute(&owner).await?;
        }
    }
    if let Err(error) = script::run_one(client, piece, company).await {
        if !error.lost {
            company.activity.send_replace(Activity::CleaningUp);
            // Best effort: an invalid index slows writes down. What can't be dropped now is dropped when the file is
            // run again, because the row that says so stays.
            if look_for(client, step).await? == Found::Invalid {
                drop_index(client, step).await?;
            }
            client.batch_execute(&writer).await?;
            client
                .execute(&format!("DELETE FROM {UNFINISHED} WHERE version = $1::int8"), &[&file.version])
                .await?;
        }
        return Err(error);
    }
    record(client.transaction().await?, file, roles).await
}

/// Writes the row that refinery would have written.
async fn record(transaction: Transaction<'_>, file: &File, roles: &Roles) -> Result<(), StatementError> {
    let applied_on =
        OffsetDateTime::now_utc().format(&Rfc3339).map_err(|e| StatementError::ours(e.to_string()))?;
    let writer = Ident::new(&roles.writer);
    transaction.batch_execute(&format!("SET LOCAL ROLE {writer}")).await?;
    transaction
        .execute(&format!("DELETE FROM {UNFINISHED} WHERE version = $1::int8"), &[&file.version])
        .await?;
    transaction
        .execute(
            &format!(
                "INSERT INTO {HISTORY} (version, name, applied_on, checksum) VALUES ($1::int8, $2, $3, $4)"
            ),
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

/// The index that a step builds, with its schema.
fn index(step: &StepKind) -> Option<(&str, &str)> {
    let StepKind::CreateIndex { index, table: RelationName { schema, .. }, .. } = step else { return None };
    Some((schema.as_deref().unwrap_or("public"), index))
}

async fn look_for(client: &Client, step: &StepKind) -> Result<Found, StatementError> {
    let Some((schema, name)) = index(step) else { return Ok(Found::Nothing) };
    let row = client
        .query_opt(
            "SELECT i.indisvalid FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1::text AND c.relname = $2::text",
            &[&schema, &name],
        )
        .await?;
    Ok(match row.map(|row| row.try_get(0)).transpose()? {
        None => Found::Nothing,
        Some(true) => Found::Valid,
        Some(false) => Found::Invalid,
    })
}

async fn drop_index(client: &Client, step: &StepKind) -> Result<(), StatementError> {
    let Some((schema, name)) = index(step) else { return Ok(()) };
    let index = format!("{}.{}", Ident::new(schema), Ident::new(name));
    Ok(client.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS {index}")).await?)
}

/// Ends what an interrupted statement has begun, or clears away what would stand in its way. Whether it is done.
async fn finish(client: &Client, step: &StepKind) -> Result<bool, StatementError> {
    match step {
        StepKind::DropIndex(index) => {
            let gone = "SELECT pg_catalog.to_regclass($1::text) IS NULL";
            Ok(client.query_one(gone, &[&quoted(index)]).await?.try_get(0)?)
        }
        StepKind::DetachPartition { parent, partition } => {
            let (parent, partition) = (quoted(parent), quoted(partition));
            let pending = client
                .query_opt(
                    "SELECT inhdetachpending FROM pg_catalog.pg_inherits
                     WHERE inhparent = pg_catalog.to_regclass($1::text) AND inhrelid = pg_catalog.to_regclass($2::text)",
                    &[&parent, &partition],
                )
                .await?;
            match pending.map(|row| row.try_get(0)).transpose()? {
                None => Ok(true),
                Some(false) => Ok(false),
                Some(true) => {
                    let end = format!("ALTER TABLE {parent} DETACH PARTITION {partition} FINALIZE");
                    client.batch_execute(&end).await?;
                    Ok(true)
                }
            }
        }
        StepKind::Reindex(_) => {
            // Of any table: nothing else names an index so and leaves it invalid.
            let left = client
                .query(
                    "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
                     FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                     WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$'
                       AND pg_catalog.pg_has_role(c.relowner, 'USAGE')",
                    &[],
                )
                .await?;
            for row in left {
                // Quoted by the server itself.
                let index: String = row.try_get(0)?;
                client.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS {index}")).await?;
            }
            Ok(false)
        }
        _ => Ok(false),
    }
}

/// A name as the server reads it, found by the search path unless it has a schema.
fn quoted(RelationName { schema, name }: &RelationName) -> String {
    let schema = schema.iter().map(|schema| format!("{}.", Ident::new(schema)));
    schema.chain([Ident::new(name).to_string()]).collect()
}
