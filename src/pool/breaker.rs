//! The breaker: a server that doesn't answer is asked again by one request at a time, and the others are told at once.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// Waits between two attempts at a server that is down. With the longest, service is whole again half a second after
/// the server is.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), MAX_WAIT);
const MAX_WAIT: Duration = Duration::from_millis(500);

/// Whether a server is asked for connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Yes: it answered last.
    Closed,
    /// No: it did not answer, and the wait for the next attempt runs.
    Open,
    /// One connection is tried; it decides.
    HalfOpen,
}

/// The state behind [`Breaker`]. Pure: whoever asks brings the time.
#[derive(Debug)]
pub(super) struct State {
    down: Option<Down>,
    backoff: Backoff,
}

impl Default for State {
    fn default() -> Self {
        Self { down: None, backoff: BACKOFF }
    }
}

#[derive(Debug)]
struct Down {
    /// What the last attempt came to.
    reason: String,
    /// No attempt before.
    until: Instant,
    /// An attempt is under way.
    probing: bool,
}

impl State {
    pub(super) fn status(&self, now: Instant) -> Breaker {
        match &self.down {
            None => Breaker::Closed,
            Some(down) if down.probing || now >= down.until => Breaker::HalfOpen,
            Some(_) => Breaker::Open,
        }
    }

    /// Why a request that needs a new connection must not wait for one; `None` when it may.
    pub(super) fn refuses(&self, now: Instant) -> Option<&str> {
        let down = self.down.as_ref()?;
        (down.probing || now < down.until).then_some(down.reason.as_str())
    }

    /// How many connections may be on their way at once, of `most`.
    pub(super) fn allows(&self, most: u32, now: Instant) -> u32 {
        match self.status(now) {
            Breaker::Closed => most,
            Breaker::HalfOpen => most.min(1),
            Breaker::Open => 0,
        }
    }

    /// A connection is being opened.
    pub(super) fn attempt(&mut self) {
        if let Some(down) = &mut self.down {
            down.probing = true;
        }
    }

    /// The server answered, be it with a refusal of that login.
    pub(super) fn answered(&mut self) {
        if self.down.take().is_some() {
            self.backoff.reset();
        }
    }

    /// The server did not answer, or said that it serves nobody now. True when it did until now.
    pub(super) fn failed(&mut self, reason: &str, now: Instant) -> bool {
        // One of those that were on their way when the first one failed: no news.
        if self.down.as_ref().is_some_and(|down| !down.probing) {
            return false;
        }
        let until = now + self.backoff.next_wait();
        self.down.replace(Down { reason: reason.to_owned(), until, probing: false }).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_attempt_at_a_time_and_ever_rarer() {
        let mut now = Instant::now();
        let mut breaker = State::default();
        assert_eq!(breaker.allows(4, now), 4);
        assert!(breaker.failed("refused", now));
        for _ in 0..6 {
            assert_eq!((breaker.status(now), breaker.allows(4, now)), (Breaker::Open, 0));
            assert_eq!(breaker.refuses(now), Some("refused"));
            now += MAX_WAIT;
            assert_eq!((breaker.status(now), breaker.allows(4, now)), (Breaker::HalfOpen, 1));
            assert_eq!(breaker.refuses(now), None);
            breaker.attempt();
            assert_eq!(breaker.refuses(now), Some("refused"), "while one tries, the others are told at once");
            assert!(!breaker.failed("refused", now));
        }
        now += MAX_WAIT;
        breaker.attempt();
        breaker.answered();
        assert_eq!((breaker.status(now), breaker.allows(4, now)), (Breaker::Closed, 4));
        assert!(breaker.failed("refused", now), "and the next outage begins with the shortest wait");
        assert_eq!(breaker.refuses(now + Duration::from_millis(50)), None);
    }
}
