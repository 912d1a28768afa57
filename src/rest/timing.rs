//! Timing: how long the stages of a request took, for `Server-Timing` and its trace.

use std::time::{Duration, Instant};

use http::HeaderValue;
use http::request::Parts;

use super::error::Error;
use crate::telemetry::{Lap, Notes};

/// The lap of whose parts, the wait for a connection and what is done with it, the trace has spans of their own.
pub(super) const TRANSACTION: &str = "transaction";

/// The laps of one request.
pub(super) struct Timing {
    last: Instant,
    /// `None` where nobody wants to know.
    laps: Option<Vec<(&'static str, Duration)>>,
    /// Those of a traced request.
    notes: Option<Notes>,
}

impl Timing {
    /// `wanted` for `Server-Timing`.
    pub(super) fn new(wanted: bool, parts: &Parts) -> Self {
        let notes = parts.extensions.get::<Notes>().filter(|notes| notes.keeps_laps()).cloned();
        Self { last: Instant::now(), laps: wanted.then(Vec::new), notes }
    }

    pub(super) fn lap(&mut self, name: &'static str) {
        if self.laps.is_none() && self.notes.is_none() {
            return;
        }
        let (begun, ended) = (self.last, Instant::now());
        self.last = ended;
        if let Some(notes) = self.notes.as_ref().filter(|_| name != TRANSACTION) {
            notes.lap(Lap { name, begun, ended });
        }
        if let Some(laps) = &mut self.laps {
            // A stage that ran twice counts once, with its last time.
            laps.retain(|(lap, _)| *lap != name);
            laps.push((name, ended - begun));
        }
    }

    pub(super) fn header(&self) -> Result<HeaderValue, Error> {
        let lap = |(name, time): &(&str, Duration)| format!("{name};dur={:.1}", time.as_secs_f64() * 1000.0);
        let text = self.laps.iter().flatten().map(lap).collect::<Vec<_>>().join(", ");
        HeaderValue::from_str(&text).map_err(|_| Error::internal("times are no header"))
    }
}
