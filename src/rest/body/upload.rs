//! Uploads: the body of a request, read whole within the budget, at the pace that a client must keep at least.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::time::{Instant, timeout_at};

use super::super::error::{Code, Error};
use super::budget::{Queue, Room, Share};

/// A body is in memory twice: as it came, and as it is sent to the database.
const COPIES: usize = 2;
/// The least room that a body which comes in pieces is given.
const FIRST: usize = 16 * 1024;

/// How slow a client may be.
#[derive(Debug, Clone, Copy)]
pub(in crate::rest) struct Pace {
    /// For how long it may be slower than `min_rate`.
    pub(in crate::rest) stall: Duration,
    /// Bytes a second.
    pub(in crate::rest) min_rate: u32,
}

/// Reads a body to its end. Its bytes count for as long as the room is kept.
///
/// # Errors
/// 413 above `most` bytes, 408 when it comes too slowly, 503 when there is no room, 400 when it ends too early.
pub(in crate::rest) async fn read<B>(
    mut body: B,
    share: &Share,
    pace: Pace,
    most: usize,
) -> Result<(Bytes, Room), Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let most = most.min(share.largest() / COPIES);
    let announced = body.size_hint();
    if announced.lower() > most as u64 {
        return Err(too_large(most));
    }
    let mut upload = Upload { share, queue: None, room: share.count(0), buffer: Vec::new(), most };
    let expected = announced.exact().and_then(|bytes| usize::try_from(bytes).ok());
    let (mut deadline, mut moved) = (Instant::now() + pace.stall, 0_u64);
    let least = u64::from(pace.min_rate) * pace.stall.as_millis() as u64 / 1000;
    loop {
        let Ok(frame) = timeout_at(deadline, upload.next(&mut body)).await else {
            if moved < least.max(1) {
                return Err(too_slow());
            }
            (deadline, moved) = (Instant::now() + pace.stall, 0);
            continue;
        };
        let Some(data) = frame? else { break };
        moved += data.len() as u64;
        // Nearly every body comes at once.
        if upload.buffer.is_empty() && expected == Some(data.len()) {
            let room = share.room(COPIES * data.len()).ok_or_else(full)?;
            return Ok((data, room));
        }
        upload.push(&data, expected)?;
    }
    Ok((upload.buffer.into(), upload.room))
}

/// Makes room for what a body has become, which may be many times as long as it came.
///
/// # Errors
/// 503 when there is none.
pub(in crate::rest) fn becomes(room: &mut Room, bytes: usize) -> Result<(), Error> {
    let more = (COPIES * bytes).saturating_sub(room.bytes());
    if more > 0 && !room.grow(more) { Err(full()) } else { Ok(()) }
}

struct Upload<'a> {
    share: &'a Share,
    /// None while it holds nothing.
    queue: Option<Arc<Queue>>,
    room: Room,
    /// Copied together: frames of a byte each would take many times their length.
    buffer: Vec<u8>,
    most: usize,
}

impl Upload<'_> {
    /// The next bytes; `None` at the end.
    async fn next<B>(&self, body: &mut B) -> Result<Option<Bytes>, Error>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        poll_fn(|cx| {
            if self.queue.as_ref().is_some_and(|queue| queue.poll_cut(cx).is_ready()) {
                return Poll::Ready(Err(full()));
            }
            Pin::new(&mut *body).poll_frame(cx).map(|frame| match frame {
                None => Ok(None),
                // Trailers are of no use.
                Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
                Some(Err(_)) => Err(incomplete()),
            })
        })
        .await
    }

    fn push(&mut self, data: &[u8], expected: Option<usize>) -> Result<(), Error> {
        let (capacity, needed) = (self.buffer.capacity(), self.buffer.len() + data.len());
        if needed > self.most {
            return Err(too_large(self.most));
        }
        if needed > capacity {
            let end = expected.unwrap_or(self.most).max(needed);
            let next = (capacity * 2).max(needed).max(FIRST).min(end);
            if !self.room.grow(COPIES * (next - capacity)) {
                return Err(full());
            }
            self.buffer.reserve_exact(next - self.buffer.len());
        }
        self.buffer.extend_from_slice(data);
        let queue = self.queue.get_or_insert_with(|| self.share.queue());
        queue.grown(COPIES * self.buffer.capacity());
        Ok(())
    }
}

fn too_large(most: usize) -> Error {
    let message = format!("The request's body is larger than {most} bytes");
    Error::new(Code::BodyTooLarge, message).with_hint("Send it in smaller parts")
}

fn too_slow() -> Error {
    let message = "The request's body came too slowly";
    Error::new(Code::BodyTooSlow, message).with_hint("Send it faster, or in smaller parts")
}

fn incomplete() -> Error {
    let message = "The request's body ended before its announced end";
    Error::new(Code::BodyIncomplete, message).with_hint("Send the request again")
}

/// 503: there is no room.
pub(in crate::rest) fn full() -> Error {
    let message = "Bodies of requests and answers under way hold all the memory that they may";
    Error::new(Code::BuffersFull, message).with_hint("Send and ask for less at once; try again")
}
