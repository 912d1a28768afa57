//! Notes: what the stages of a request tell its line in the log, and its spans where it is traced.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Stage;

/// Most laps that are kept: a request goes through its stages twice at most.
const MAX_LAPS: usize = 16;

/// One request's notes; a handle, cheap to clone, that goes along among the request's extensions.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    noted: Noted,
    under_way: Option<(Stage, Instant)>,
    /// `None` where nobody wants to know.
    laps: Option<Vec<Lap>>,
}

/// A part of a request's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lap {
    /// What was done.
    pub name: &'static str,
    /// Since when.
    pub begun: Instant,
    /// Until when.
    pub ended: Instant,
}

/// What was noted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// The role that the request runs as; none before that is known.
    pub role: Option<String>,
    /// How long the wait for connections took, all attempts together.
    pub checkout: Duration,
    /// How long transactions took, all attempts together.
    pub execute: Duration,
}

/// Why a request was refused, in the operator's words, among a response's extensions. It never holds what a request or a
/// database's rows hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(pub String);

impl Notes {
    /// Notes that keep laps, too.
    pub fn with_laps() -> Self {
        Self(Arc::new(Mutex::new(Book { laps: Some(Vec::new()), ..Book::default() })))
    }

    /// Whether laps are kept.
    pub fn keeps_laps(&self) -> bool {
        self.with(|book| book.laps.is_some())
    }

    /// Notes a lap, if laps are kept.
    pub fn lap(&self, lap: Lap) {
        self.with(|book| book.lap(lap));
    }

    /// Takes the laps that were kept. A stage under way ends now.
    pub fn take_laps(&self) -> Vec<Lap> {
        self.with(|book| {
            book.end();
            book.laps.take().unwrap_or_default()
        })
    }

    /// The request runs as this role.
    pub fn role(&self, role: &str) {
        self.with(|book| book.noted.role = Some(role.to_owned()));
    }

    /// A stage begins, and the one before ends with it.
    pub fn begin(&self, stage: Stage) {
        self.with(|book| {
            book.end();
            book.under_way = Some((stage, Instant::now()));
        });
    }

    /// The stage under way ends.
    pub fn end(&self) {
        self.with(Book::end);
    }

    /// What was noted so far; a stage under way counts up to now.
    pub fn read(&self) -> Noted {
        self.with(|book| {
            book.end();
            book.noted.clone()
        })
    }

    fn with<R>(&self, act: impl FnOnce(&mut Book) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Book {
    fn end(&mut self) {
        let Some((stage, begun)) = self.under_way.take() else { return };
        let ended = Instant::now();
        match stage {
            Stage::Checkout => self.noted.checkout += ended - begun,
            Stage::Execute => self.noted.execute += ended - begun,
            Stage::Resolve => {}
        }
        self.lap(Lap { name: stage.name(), begun, ended });
    }

    fn lap(&mut self, lap: Lap) {
        if let Some(laps) = self.laps.as_mut().filter(|laps| laps.len() < MAX_LAPS) {
            laps.push(lap);
        }
    }
}
