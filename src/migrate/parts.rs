//! Files run in part or on trial: what is marked for each tenant in a copy, and a file that is tried and rolled back.

use tokio_postgres::Client;

use super::place::{Piece, Place, pieces};
use super::runner::Options;
use super::session::{self, StatementError};
use super::stop::failed;
use super::{Edition, File};

/// A file whose part failed in a copy, or that failed on trial; nothing of that file stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PartFailure {
    /// Where; no single statement when what was left is at fault.
    pub place: Place,
    /// Where and what was wrong, in one sentence.
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
) -> Result<(), PartFailure> {
    for file in edition.up_to(version).iter().filter(|file| file.is_per_tenant()) {
        let worked = run(client, edition, file, options).await;
        if worked.is_err() {
            // Its own outcome adds nothing: where it fails the session is over.
            let _ = client.batch_execute("ROLLBACK").await;
        }
        worked.map_err(|error| failure(file, error))?;
    }
    Ok(())
}

async fn run(
    client: &Client,
    edition: &Edition,
    file: &File,
    options: &Options,
) -> Result<(), StatementError> {
    begin(client, edition, options).await?;
    let marked = pieces(file).into_iter().zip(&file.statements);
    let marked = marked.filter(|(_, statement)| statement.per_tenant || statement.setting);
    run_pieces(client, marked.map(|(piece, _)| piece), options).await?;
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
}

/// Opens a transaction as files of the edition find it, to try one by [`try_file`] and roll it back.
///
/// # Errors
/// When the server refuses: one of the edition's settings, for instance.
pub async fn begin_trial(
    client: &Client,
    edition: &Edition,
    options: &Options,
) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(&opening(edition, options)).await
}

/// Runs a file in the open transaction, statement by statement, with the timeouts that it has when it is migrated.
///
/// # Errors
/// Of the first statement that fails.
pub async fn try_file(client: &Client, file: &File, options: &Options) -> Result<(), PartFailure> {
    run_pieces(client, pieces(file).into_iter(), options).await.map_err(|error| failure(file, error))
}

async fn begin(client: &Client, edition: &Edition, options: &Options) -> Result<(), StatementError> {
    client.batch_execute(&opening(edition, options)).await.map_err(ours)
}

fn opening(edition: &Edition, options: &Options) -> String {
    let pin = session::pinned(&options.roles, options.lock_timeout, options.statement_timeout);
    format!("BEGIN; {pin}{}", session::settings(&edition.settings))
}

/// Runs statements in the open transaction. What they raise of their timeouts is taken back before the next, unless they say
/// why.
async fn run_pieces<'f>(
    client: &Client,
    pieces: impl Iterator<Item = Piece<'f>>,
    options: &Options,
) -> Result<(), StatementError> {
    let clamp = session::clamped(options.lock_timeout, options.statement_timeout);
    let mut raised = false;
    for piece in pieces {
        raised |= piece.may_raise_timeouts;
        if !raised {
            client.batch_execute(&clamp).await.map_err(ours)?;
        }
        client.batch_execute(piece.text).await.map_err(|error| StatementError::from(error).of(&piece))?;
    }
    // Deferred constraints are checked while it is known whose they are.
    client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await.map_err(ours)
}

/// An error whose position, if it has one, is in our own text.
fn ours(error: tokio_postgres::Error) -> StatementError {
    StatementError { position: None, ..StatementError::from(error) }
}

fn failure(file: &File, error: StatementError) -> PartFailure {
    let stop = failed(file, error);
    let place = stop.place.map_or_else(|| Place::file(file), |place| *place);
    PartFailure { place, message: stop.message }
}
