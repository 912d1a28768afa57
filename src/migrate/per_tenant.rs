//! `run_per_tenant`: what files are marked to do in each tenant, done in a database that was copied from a template.

use tokio_postgres::Client;

use super::runner::Options;
use super::session::{self, StatementError};
use super::{Edition, File};

/// A marked part of a file that failed in a copy; nothing of that file stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct PerTenantFailure {
    /// The file.
    pub file: String,
    /// The line that the server points at, from 1; the file's first marked one where it points at none.
    pub line: usize,
    /// The server's words, or what was wrong with what was left.
    pub message: String,
}

/// Runs what the edition's files up to `version` are marked to do in each tenant, in their order, each file's part in a
/// transaction. `client` is a session of the migrator of a database that nobody else is at work on: killed in between, the
/// copy is made anew.
///
/// # Errors
/// When a statement fails, or leaves the owner's role.
pub async fn run_per_tenant(
    client: &Client,
    edition: &Edition,
    version: i64,
    options: &Options,
) -> Result<(), PerTenantFailure> {
    for file in edition.up_to(version) {
        let Some(text) = file.per_tenant() else { continue };
        run(client, edition, &text, options).await.map_err(|error| failure(file, &text, &error))?;
    }
    Ok(())
}

async fn run(
    client: &Client,
    edition: &Edition,
    text: &str,
    options: &Options,
) -> Result<(), StatementError> {
    let pin = session::pinned(&options.roles, options.lock_timeout, options.statement_timeout);
    let settings = session::settings(&edition.settings);
    client.batch_execute(&format!("BEGIN; {pin}{settings}")).await.map_err(ours)?;
    let worked = async {
        client.batch_execute(text).await?;
        // Deferred constraints are checked while the position of an error still is in the file.
        client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await.map_err(ours)?;
        let state = session::state(client, &options.roles).await?;
        if !state.in_transaction || state.current_user != options.roles.owner {
            return Err(StatementError::ours("it left its transaction or the owner's role".into()));
        }
        if state.has_foreign_objects
            && let Some((object, whose)) = session::foreign_object(client, &options.roles).await?
        {
            return Err(StatementError::ours(format!("{object} belongs to `{whose}` instead of the owner")));
        }
        client.batch_execute("COMMIT").await.map_err(ours)
    };
    let worked = worked.await;
    if worked.is_err() {
        // Its own outcome adds nothing: where it fails the session is over.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    worked
}

/// An error whose position, if it has one, is in our own text.
fn ours(error: tokio_postgres::Error) -> StatementError {
    StatementError { position: None, ..StatementError::from(error) }
}

fn failure(file: &File, text: &str, error: &StatementError) -> PerTenantFailure {
    let pointed = error
        .position
        .map(|position| 1 + text.chars().take(position.saturating_sub(1)).filter(|c| *c == '\n').count());
    let marked = file.statements.iter().find(|statement| statement.per_tenant);
    let marked = marked.and_then(|statement| usize::try_from(statement.line).ok());
    PerTenantFailure {
        file: file.file_name(),
        line: pointed.or(marked).unwrap_or(1),
        message: error.to_string(),
    }
}
