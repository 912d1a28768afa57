//! `Body`: the body of an answer, which is here, or comes from the database as the client takes it.
//!
//! A long answer is handed on as it comes from the socket. A client that takes it slowly must not keep the backend: a
//! task of its own reads the answer to its end, at the database's pace, and holds what the client has not taken yet,
//! within a budget over all answers. When that budget stays used up, the answer is cut off.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use crate::pg::wire::WireError;
use crate::pool::Checkout;

/// Longest answer that is read whole before its head is sent, in bytes.
pub(super) const LONGEST_WHOLE: usize = 64 * 1024;
/// Bytes read, held and handed on at a time.
const PIECE: usize = 64 * 1024;
/// Pieces that all long answers of a process may hold together: 128 MiB.
const MOST_PIECES: usize = 2048;
/// How long an answer may wait for clients to take what is held, altogether, before it is cut off.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest silence of a server amid an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// The body of an answer.
#[derive(Debug)]
pub struct Body(Inner);

#[derive(Debug)]
enum Inner {
    Whole(Bytes),
    Coming { pieces: mpsc::Receiver<Piece>, left: u64 },
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

/// Bytes that count in the budget until the client's socket has taken them.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    _held: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The pieces that may be held. A handle, cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_PIECES)))
    }
}

/// A long answer that is still in the socket. Dropped, its connection is closed.
pub(super) struct Delivery {
    checkout: Checkout,
    length: usize,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({} bytes)", self.length)
    }
}

impl Delivery {
    /// The connection's current value has so many bytes, and what stands behind it ends the transaction.
    pub(super) fn new(checkout: Checkout, length: usize) -> Self {
        Self { checkout, length }
    }

    /// Begins to read.
    pub(super) fn start(self, budget: &Budget) -> Body {
        // As many as the answer has, so that only the budget makes it wait.
        let (sender, pieces) = mpsc::channel(self.length.div_ceil(PIECE));
        let left = self.length as u64;
        let budget = Arc::clone(&budget.0);
        tokio::spawn(async move {
            match self.read(&budget, &sender).await {
                Ok(Some(checkout)) => checkout.clean(),
                Ok(None) => {
                    tracing::debug!("an answer was cut off: its client takes it too slowly, or is gone")
                }
                Err(error) => tracing::warn!(%error, "an answer was cut off"),
            }
        });
        Body(Inner::Coming { pieces, left })
    }

    /// Reads to the end of the transaction; `None` when nobody takes what is read.
    async fn read(
        mut self,
        budget: &Arc<Semaphore>,
        sender: &mpsc::Sender<Piece>,
    ) -> Result<Option<Checkout>, WireError> {
        let mut patience = PATIENCE;
        while self.length > 0 {
            let begun = Instant::now();
            let place = timeout_at(begun + patience, Arc::clone(budget).acquire_owned()).await;
            let Ok(Ok(held)) = place else { return Ok(None) };
            patience = patience.saturating_sub(begun.elapsed());
            let bytes = heard(self.checkout.wire().bytes(self.length.min(PIECE))).await?;
            self.length -= bytes.len();
            if sender.send(Piece { bytes, _held: held }).await.is_err() {
                return Ok(None);
            }
        }
        heard(self.checkout.wire().settle()).await?;
        Ok(Some(self.checkout))
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
            Inner::Coming { left: 0, .. } => Poll::Ready(None),
            Inner::Coming { pieces, left } => pieces.poll_recv(cx).map(|piece| match piece {
                Some(piece) => {
                    *left -= piece.bytes.len() as u64;
                    Some(Ok(Frame::data(Bytes::from_owner(piece))))
                }
                None => Some(Err(CutOff)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.is_empty(),
            Inner::Coming { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.0 {
            Inner::Whole(bytes) => bytes.len() as u64,
            Inner::Coming { left, .. } => *left,
        })
    }
}
