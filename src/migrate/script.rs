//! Running a file's statements one by one, so that it is known which of them failed and which said what.

use futures_util::future::join;
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::file::File;
use super::place::{Piece, pieces};
use super::reply::Collected;
use super::session::StatementError;

/// Those who take part in a migration besides its session: who stops it, who watches it, who hears what it says.
pub(super) struct Company<'c, 'n> {
    pub(super) stop: &'c CancellationToken,
    pub(super) activity: &'c watch::Sender<Activity>,
    pub(super) said: Collected<'n>,
    /// How often the file at hand could not have a lock.
    pub(super) tries: u32,
}

/// Why a statement was not run: the migration was told to stop.
const STOPPED: &str = "stopped before this statement";

/// Runs the statements of a file in the session's transaction. `clamp` is run between them.
///
/// # Errors
/// Of the first that fails, with its place.
pub(super) async fn run(
    client: &Client,
    file: &File,
    clamp: &str,
    company: &mut Company<'_, '_>,
) -> Result<(), StatementError> {
    // What a marked statement raises holds for those behind it, as its author expects.
    let mut raised = false;
    for piece in pieces(file) {
        let first = piece.number == 1;
        raised |= piece.may_raise_timeouts;
        if first || raised {
            run_one(client, &piece, company).await?;
        } else {
            // In one write, and so in this order.
            let (clamped, ran) = join(client.batch_execute(clamp), run_one(client, &piece, company)).await;
            // What cancels the statement may meet the clamp before it.
            clamped.map_err(|error| StatementError::from(error).of(&piece))?;
            ran?;
        }
    }
    Ok(())
}

/// Runs one statement of a file.
///
/// # Errors
/// With its place.
pub(super) async fn run_one(
    client: &Client,
    piece: &Piece<'_>,
    company: &mut Company<'_, '_>,
) -> Result<(), StatementError> {
    if company.stop.is_cancelled() {
        return Err(StatementError::ours(STOPPED.into()).of(piece));
    }
    company.activity.send_replace(Activity::applying(piece, company.tries));
    let ran = client.batch_execute(piece.text).await;
    company.said.take(Some(&piece.place(None)));
    ran.map_err(|error| StatementError::from(error).of(piece))
}
