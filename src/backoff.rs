//! Backoff: how long to wait before something that failed is tried again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// Waits whose upper bound doubles with each failure. Each wait is drawn between nothing and its bound ("full jitter"),
/// so that all who lost the same server don't come back to it at the same moment.
///
/// It only says how long, and does not sleep: the pool's breaker knows no time but the one it is given. The crates for
/// this either sleep themselves (tower) or add their jitter to the whole wait (backon).
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    bound: Duration,
}

impl Backoff {
    /// The first wait is at most `first`, and none is longer than `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, bound: first }
    }

    /// After a failure: how long to wait.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.bound.min(self.longest);
        self.bound = bound.saturating_mul(2);
        bound.mul_f64(random())
    }

    /// After a success: the next failure is a first one again.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }
}

/// This long and up to a thirty-second part longer: what thousands of clients began at the same moment shall not end at the
/// same moment, when the thread that ends it has no time for anybody else.
pub fn spread(time: Duration) -> Duration {
    time.saturating_add((time / 32).mul_f64(random()))
}

/// At least 0 and below 1. The standard library seeds every hash map anew, which is random enough to keep routers apart.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_spread_is_never_shorter_and_hardly_longer() {
        for time in [Duration::ZERO, LONGEST, Duration::MAX] {
            let spread = spread(time);
            assert!(spread >= time && spread <= time.saturating_add(time / 32), "{time:?} {spread:?}");
        }
    }

    #[test]
    fn waits_grow_to_the_longest_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        for _ in 0..2 {
            for bound in [1, 2, 4, 8, 10, 10].map(|n| FIRST * n) {
                assert_eq!(backoff.bound.min(LONGEST), bound);
                assert!(backoff.next_wait() < bound);
            }
            backoff.reset();
        }
    }

    #[test]
    fn waits_are_spread_over_all_of_the_bound() {
        let mut quarters = [0; 4];
        for _ in 0..400 {
            quarters[(random() * 4.0) as usize] += 1;
        }
        assert!(quarters.iter().all(|count| *count > 25), "{quarters:?}");
    }
}
