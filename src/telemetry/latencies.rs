//! Latencies: how long requests took, in buckets that all routers and the catalog share.

use std::time::Duration;

/// Number of buckets.
pub(super) const BUCKETS: usize = 2 + 2 * OCTAVES as usize;
/// The first bucket ends here, as a power of two of microseconds: 256 µs.
const LOWEST: u32 = 8;
/// Doublings above that, with two buckets each. The last bucket, which has no end, begins at 67 s.
const OCTAVES: u32 = 18;

/// How many requests took how long. A bucket ends at most 1.5 times where it begins, and so exact is what is read from
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latencies([u64; BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

/// The bucket of a time.
pub(super) fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let Some(octave) = micros.checked_ilog2().and_then(|octave| octave.checked_sub(LOWEST)) else { return 0 };
    let upper_half = micros >> (octave + LOWEST - 1) & 1;
    // Two for each octave, and far fewer than a usize has.
    (1 + 2 * octave as usize + upper_half as usize).min(BUCKETS - 1)
}

/// Where a bucket ends; the last one, where it begins.
fn end(bucket: usize) -> Duration {
    let octave = (bucket.min(BUCKETS - 2) / 2) as u32 + LOWEST;
    let micros = 1_u64 << octave;
    Duration::from_micros(if bucket % 2 == 1 && bucket < BUCKETS - 1 { micros + micros / 2 } else { micros })
}

impl Latencies {
    /// Counts so many requests in a bucket; what is beyond the last belongs to it.
    pub fn add(&mut self, bucket: usize, count: u64) {
        let bucket = &mut self.0[bucket.min(BUCKETS - 1)];
        *bucket = bucket.saturating_add(count);
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.0.iter().enumerate() {
            self.add(bucket, *count);
        }
    }

    /// How many requests.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The time within which this share of the requests was answered, such as 0.99: never less than it was, and at most
    /// 1.5 times as much, between 256 µs and 67 s. `None` without requests.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let wanted = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0_u64;
        let reached = self.0.iter().position(|of_bucket| {
            seen = seen.saturating_add(*of_bucket);
            seen >= wanted
        });
        reached.map(end)
    }

    /// The first bucket with requests, and the counts from it to the last one with any; `None` without requests.
    pub fn used(&self) -> Option<(usize, &[u64])> {
        let first = self.0.iter().position(|count| *count > 0)?;
        let last = self.0.iter().rposition(|count| *count > 0)?;
        Some((first, &self.0[first..=last]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        let millis = |ms: f64| bucket(Duration::from_secs_f64(ms / 1000.0));
        assert_eq!([0.0, 0.255, 0.256, 0.383, 0.384, 0.512].map(millis), [0, 0, 1, 1, 2, 3]);
        assert_eq!(bucket(Duration::from_secs(68)), BUCKETS - 1);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        for of in 0..BUCKETS {
            let ends = end(of);
            assert_eq!(bucket(ends), (of + 1).min(BUCKETS - 1), "{of}: {ends:?}");
            assert_eq!(bucket(ends - Duration::from_micros(1)), of.min(BUCKETS - 2), "{of}: {ends:?}");
        }
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_half_too_long(times in prop::collection::vec(256_u64..60_000_000, 1..300), share in 0.01..1.0_f64) {
            let mut latencies = Latencies::default();
            let mut sorted = times;
            sorted.sort_unstable();
            for micros in &sorted {
                latencies.add(bucket(Duration::from_micros(*micros)), 1);
            }
            let place = ((sorted.len() as f64 * share).ceil() as usize).max(1);
            let (exact, read) = (sorted[place - 1], latencies.quantile(share).unwrap().as_micros() as u64);
            prop_assert!(exact <= read && read <= exact + exact / 2 + 1, "{} {}", exact, read);
            let (first, used) = latencies.used().unwrap();
            let mut same = Latencies::default();
            used.iter().enumerate().for_each(|(place, count)| same.add(first + place, *count));
            prop_assert_eq!(same, latencies);
        }
    }

    #[test]
    fn nothing_took_no_time() {
        let mut latencies = Latencies::default();
        assert_eq!((latencies.quantile(0.99), latencies.used(), latencies.count()), (None, None, 0));
        latencies.add(1000, u64::MAX);
        latencies.add(0, 1);
        assert_eq!(latencies.quantile(0.99), Some(Duration::from_micros(1 << 26)));
    }
}
