//! Timing: how long the stages of a request took, for `Server-Timing`.

use std::time::{Duration, Instant};

use http::HeaderValue;

use super::error::Error;

/// The laps of one request.
pub(super) struct Timing {
    last: Instant,
    /// `None` where nobody wants to know.
    laps: Option<Vec<(&'static str, Duration)>>,
}

impl Timing {
    pub(super) fn new(wanted: bool) -> Self {
        Self { last: Instant::now(), laps: wanted.then(Vec::new) }
    }

    pub(super) fn lap(&mut self, name: &'static str) {
        let Some(laps) = &mut self.laps else { return };
        let now = Instant::now();
        // A stage that ran twice counts once, with its last time.
        laps.retain(|(lap, _)| *lap != name);
        laps.push((name, now - self.last));
        self.last = now;
    }

    pub(super) fn header(&self) -> Result<HeaderValue, Error> {
        let lap = |(name, time): &(&str, Duration)| format!("{name};dur={:.1}", time.as_secs_f64() * 1000.0);
        let text = self.laps.iter().flatten().map(lap).collect::<Vec<_>>().join(", ");
        HeaderValue::from_str(&text).map_err(|_| Error::internal("times are no header"))
    }
}
