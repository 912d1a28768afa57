//! Outages: servers that answered and then did not, as each does for some seconds when its cluster switches over.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::catalog::CatalogError;
use crate::fleet::FleetError;
use crate::pg;

/// How long what an outage cut is tried again. A cluster finds another primary within half a minute.
const FAILOVER: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// What an executor has seen of its servers.
#[derive(Default)]
pub(super) struct Outages(Mutex<HashMap<String, Standing>>);

enum Standing {
    Answers,
    Away(Instant),
}

impl Outages {
    /// The server has answered.
    pub(super) fn answered(&self, server: &str) {
        self.standings().insert(server.to_owned(), Standing::Answers);
    }

    /// Whether what failed because the server didn't answer is worth another try. One that never answered is down: nobody
    /// waits for it.
    pub(super) fn may_pass(&self, server: &str) -> bool {
        self.may_pass_at(server, Instant::now())
    }

    fn may_pass_at(&self, server: &str, now: Instant) -> bool {
        match self.standings().get_mut(server) {
            Some(standing @ Standing::Answers) => {
                *standing = Standing::Away(now);
                true
            }
            Some(Standing::Away(since)) => now.duration_since(*since) < FAILOVER,
            None => false,
        }
    }

    /// Waits before what an outage of the server cut is tried again; whether it is to be.
    pub(super) async fn passes(&self, server: &str, error: &FleetError, stop: &CancellationToken) -> bool {
        if !is_outage(error) || !self.may_pass(server) {
            return false;
        }
        tracing::info!(server, %error, "the connection is lost: the rollout goes on when the server is back");
        pause(stop).await
    }

    fn standings(&self) -> std::sync::MutexGuard<'_, HashMap<String, Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long one step waits for its server, whatever that answers to others: what keeps it waiting may be in its tenant's
/// database alone.
#[derive(Default)]
pub(super) struct Patience(Option<Instant>);

impl Patience {
    /// Whether it still waits, now that the server did not answer.
    pub(super) fn lasts(&mut self) -> bool {
        self.lasts_at(Instant::now())
    }

    fn lasts_at(&mut self, now: Instant) -> bool {
        now.duration_since(*self.0.get_or_insert(now)) < FAILOVER
    }

    /// The server has answered.
    pub(super) fn renew(&mut self) {
        self.0 = None;
    }
}

/// Whether a tenant's server or the catalog's did not answer.
pub(super) fn is_outage(error: &FleetError) -> bool {
    match error {
        FleetError::Catalog(CatalogError::Server(source)) => pg::is_outage(source.code()),
        error => error.is_outage(),
    }
}

/// Waits before the next try; whether there is to be one.
pub(super) async fn pause(stop: &CancellationToken) -> bool {
    tokio::select! {
        () = sleep(PAUSE) => true,
        () = stop.cancelled() => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_answered_is_waited_for_and_not_for_ever() {
        let outages = Outages::default();
        let now = Instant::now();
        assert!(!outages.may_pass_at("down", now));
        outages.answered("eu");
        assert!(outages.may_pass_at("eu", now) && outages.may_pass_at("eu", now));
        assert!(!outages.may_pass_at("eu", now + FAILOVER));
        outages.answered("eu");
        assert!(outages.may_pass_at("eu", now + FAILOVER));
    }

    #[test]
    fn a_step_waits_no_longer_because_its_server_answers_others() {
        let (outages, mut patience, now) = (Outages::default(), Patience::default(), Instant::now());
        for second in 0..60 {
            outages.answered("eu");
            let now = now + Duration::from_secs(second);
            assert!(patience.lasts_at(now) && outages.may_pass_at("eu", now), "{second}");
        }
        assert!(!patience.lasts_at(now + FAILOVER));
        patience.renew();
        assert!(patience.lasts_at(now + FAILOVER));
    }
}
