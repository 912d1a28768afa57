//! `Room`: the memory that readings of schemas share, so that many long ones at once do not take all there is.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most bytes that the questions about a schema may be answered by, together. A schema of 100 tables has some 100 kB, one
/// of 30,000 some 40 MB; its owner can write a comment of 1 GB, which would be kept, and take seconds to read.
pub(super) const MAX_CATALOG_ANSWER: usize = 96 * 1024 * 1024;

/// What each reading may hold in any case, in bytes. Most schemas need no more.
const FREE_BYTES: usize = 1024 * 1024;
/// Room for two of the longest: one owner alone can't take it all.
const ROOM: usize = 2 * MAX_CATALOG_ANSWER;
/// What one permit stands for.
const KILOBYTE: usize = 1024;

/// Room for what readings hold beyond 1 MiB each.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self::new(ROOM)
    }
}

impl Room {
    fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / KILOBYTE)))
    }

    pub(super) fn share(&self) -> RoomShare {
        RoomShare { room: self.clone(), bytes: 0, permits: None }
    }
}

/// What one reading holds, until this is dropped.
#[derive(Debug)]
pub(super) struct RoomShare {
    room: Room,
    bytes: usize,
    permits: Option<OwnedSemaphorePermit>,
}

impl RoomShare {
    /// Takes room for more bytes; false when there is none. Nothing is waited for: whoever has the room may keep it for as
    /// long as its own database lets it wait.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        let needed = self.bytes.saturating_sub(FREE_BYTES).div_ceil(KILOBYTE);
        let missing = needed - self.permits.as_ref().map_or(0, OwnedSemaphorePermit::num_permits).min(needed);
        let Ok(missing) = u32::try_from(missing) else { return false };
        let Ok(more) = Arc::clone(&self.room.0).try_acquire_many_owned(missing) else { return false };
        match &mut self.permits {
            Some(permits) => permits.merge(more),
            none => *none = Some(more),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_need_no_room_and_the_long_share_it() {
        let room = Room::new(4 * FREE_BYTES);
        let mut long = room.share();
        assert!(long.take(FREE_BYTES) && long.take(1) && long.take(3 * FREE_BYTES));
        let mut short = room.share();
        assert!(short.take(FREE_BYTES), "a share of its own");
        assert!(!short.take(FREE_BYTES) && !room.share().take(usize::MAX));
        drop(long);
        let mut other = room.share();
        assert!(other.take(3 * FREE_BYTES) && !room.share().take(4 * FREE_BYTES));
    }
}
