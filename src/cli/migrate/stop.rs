//! Stop: what signals mean to commands that migrate.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::super::{Failure, Output};
use crate::fleet::{Fleet, FleetError};

/// Ctrl-C and SIGTERM: the first stops what runs and waits for it, the second leaves at once.
#[derive(Default)]
pub(super) struct Stop {
    token: CancellationToken,
    /// Whether somebody heeds the token.
    armed: AtomicBool,
}

impl Stop {
    /// The token, for whoever will stop when it is cancelled.
    pub(super) fn armed(&self) -> CancellationToken {
        self.armed.store(true, Ordering::Relaxed);
        self.token.clone()
    }

    /// Does work in scratch databases alone. A signal ends it, and then they are dropped.
    pub(super) async fn or_swept<T>(
        &self,
        fleet: &Fleet,
        work: impl Future<Output = Result<T, FleetError>>,
    ) -> Result<Result<T, FleetError>, Failure> {
        let token = self.armed();
        tokio::select! {
            worked = work => return Ok(worked),
            () = token.cancelled() => {}
        }
        fleet.sweep_scratch().await?;
        Err(Failure("interrupted; nothing was begun".into()))
    }

    /// Waits for the signal at which the command is to end without further ado.
    pub(super) async fn on_signals(&self, output: Output) -> Failure {
        let signals =
            signal(SignalKind::interrupt()).and_then(|int| Ok((int, signal(SignalKind::terminate())?)));
        let (mut interrupt, mut terminate) = match signals {
            Ok(signals) => signals,
            Err(error) => return Failure(format!("cannot listen for signals: {error}")),
        };
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !self.armed.load(Ordering::Relaxed) {
                return Failure("interrupted; nothing was begun".into());
            }
            if self.token.is_cancelled() {
                return Failure(
                    "left at once; what was running is ended by its server, and `manybox migrate resume` goes on".into(),
                );
            }
            output.note("stopping: what runs is cancelled and waited for; once more to leave at once");
            self.token.cancel();
        }
    }
}
