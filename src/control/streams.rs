//! Streams: places for those who are told what goes on, so many and no more.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Problem, ProblemCode};

/// Most that are told at once; the others see what was there when they asked.
const MOST: usize = 200;

/// The places.
pub(super) struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

impl Streams {
    /// A place, for as long as it is held.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let full = |_| Problem::new(ProblemCode::Busy, "too many pages are followed at once");
        Arc::clone(&self.0).try_acquire_owned().map_err(full)
    }
}
