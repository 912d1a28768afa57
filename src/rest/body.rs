//! Bodies: those of requests, read within a [`Budget`], and `Body`, that of an answer: it is here, or comes from the
//! database as the client takes it.
//!
//! A long answer to a read is handed on as it comes from the socket, one to a change after its COMMIT. A client that takes
//! it slowly must not keep the backend: what it has not taken yet is held here, within a [`Budget`] over all answers.

mod budget;
#[cfg(test)]
mod tests;
mod upload;

pub(super) use budget::{Budget, Share};
pub(super) use upload::{Pace, becomes, full, read};

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::pg::wire::WireError;
use crate::pool::Checkout;
use budget::{Giver, PIECE, Taker};

/// Longest answer that is read whole before its head is sent, in bytes.
pub(super) const MAX_WHOLE: usize = 64 * 1024;
/// What a request that waits for its client takes beside its answer, in bytes.
const STREAM: usize = 2 * 1024;
/// Longest silence of a server amid an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// The body of an answer.
#[derive(Debug)]
pub struct Body(Inner);

#[derive(Debug)]
enum Inner {
    Whole(Bytes),
    Held { taker: Taker, left: u64 },
}

/// The answer was cut off: the database was lost, or the client took it too slowly.
#[derive(Debug)]
pub struct CutOff;

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer was cut off")
    }
}

impl std::error::Error for CutOff {}

/// A long answer that is still in the socket. Dropped, its connection is closed.
pub(super) struct Delivery {
    checkout: Checkout,
    length: usize,
    share: Share,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({} bytes)", self.length)
    }
}

impl Delivery {
    /// The connection's current value has so many bytes, and what stands behind it ends the transaction.
    pub(super) fn new(checkout: Checkout, length: usize, share: Share) -> Self {
        Self { checkout, length, share }
    }

    /// Begins to read, in a task of its own, at the database's pace.
    pub(super) fn start(mut self) -> Body {
        let (mut giver, taker) = Giver::new(&self.share, self.length);
        let left = self.length as u64;
        tokio::spawn(async move {
            while self.length > 0 {
                let next = self.length.min(PIECE);
                let Some(room) = giver.room(next).await else {
                    tracing::debug!("an answer was cut off: its client takes it too slowly, or is gone");
                    return;
                };
                match heard(self.checkout.wire().bytes(next)).await {
                    Ok(bytes) => {
                        self.length -= bytes.len();
                        giver.give(bytes, room);
                        // Others have their turn on this thread.
                        yield_now().await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "an answer was cut off");
                        return;
                    }
                }
            }
            match heard(self.checkout.wire().settle()).await {
                Ok(()) => self.checkout.clean(),
                Err(error) => tracing::warn!(%error, "a connection broke behind its answer"),
            }
        });
        Body(Inner::Held { taker, left })
    }
}

impl Share {
    /// Reads so many bytes of the current value, which are given to the client later.
    ///
    /// There is room for all of them before the first is read. Until then the server waits, for as long as the request
    /// may take.
    pub(super) async fn hold(
        &self,
        wire: &mut crate::pg::wire::Connection,
        length: usize,
    ) -> Result<Body, WireError> {
        let (mut giver, taker) = Giver::new(self, length);
        let mut room = giver.whole(length).await;
        let mut missing = length;
        while missing > 0 {
            let bytes = wire.bytes(missing.min(PIECE)).await?;
            missing -= bytes.len();
            let own = room.split(bytes.len());
            giver.give(bytes, own);
            yield_now().await;
        }
        Ok(Body(Inner::Held { taker, left: length as u64 }))
    }
}

async fn heard<T>(answer: impl Future<Output = Result<T, WireError>>) -> Result<T, WireError> {
    timeout(SILENCE, answer)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::from(Bytes::new())
    }
}

impl Body {
    /// Bytes that are here, counted until the client's socket has taken them. A stream that waits for its client takes
    /// room itself.
    pub(super) fn whole(bytes: Bytes, share: &Share) -> Self {
        if bytes.is_empty() {
            return Self::empty();
        }
        let room = share.count(bytes.len() + STREAM);
        Self(Inner::Whole(room.of(bytes)))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Whole(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &mut self.get_mut().0 {
            Inner::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Inner::Held { left: 0, .. } => Poll::Ready(None),
            Inner::Held { taker, left } => taker.poll_take(cx).map(|taken| {
                Some(match taken {
                    Some(bytes) => {
                        *left -= bytes.len() as u64;
                        Ok(Frame::data(bytes))
                    }
                    None => Err(CutOff),
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.is_empty(),
            Inner::Held { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.0 {
            Inner::Whole(bytes) => bytes.len() as u64,
            Inner::Held { left, .. } => *left,
        })
    }
}
