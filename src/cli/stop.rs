//! Stopping a command that has something to clean up.

use std::pin::pin;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Done, Failure, Output};

/// Does work that heeds a token, which the first Ctrl-C or SIGTERM cancels. The second leaves at once.
pub(super) async fn stoppable<F: Future<Output = Done>>(
    output: Output,
    work: impl FnOnce(CancellationToken) -> F,
) -> Done {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let mut work = pin!(work(token.clone()));
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if token.is_cancelled() {
            return Err(Failure(
                "left at once; what it made is dropped when the command is run again".into(),
            ));
        }
        output.note("stopping: what was begun is dropped; once more to leave at once");
        token.cancel();
    }
}
