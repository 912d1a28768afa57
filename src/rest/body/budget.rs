//! `Budget`: what long answers of all tenants may hold together, and which of them is cut off when that is used up.
//!
//! Clients that never take what they asked for would otherwise use it up for everybody. So an answer that needs room has
//! one cut off: of another tenant that holds more altogether, or of its own. For some seconds only those are cut whose
//! clients take nothing at all.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::tenant::TenantId;

/// Bytes read, held and handed on at a time.
pub(super) const PIECE: usize = 64 * 1024;
/// Pieces that all long answers of a process may hold together: 128 MiB.
const MAX_PIECES: usize = 2048;
/// How long an answer waits for room, altogether, while others' clients take theirs; then it or they are cut off.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client that still wants its answer takes to take a piece of it.
const STALLED: Duration = Duration::from_secs(1);
/// How often whoever waits for room looks for an answer to cut off.
const LOOK: Duration = Duration::from_millis(100);

/// What long answers may hold. A handle, cheap to clone.
#[derive(Clone)]
pub(in crate::rest) struct Budget(Arc<Books>);

struct Books {
    free: Arc<Semaphore>,
    most: usize,
    queues: Mutex<Slab<Weak<Queue>>>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(MAX_PIECES)
    }
}

impl Budget {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Books { free: Arc::new(Semaphore::new(most)), most, queues: Mutex::default() }))
    }

    /// The budget as one tenant's answers have it.
    pub(in crate::rest) fn of(&self, tenant: &TenantId) -> Share {
        Share { books: Arc::clone(&self.0), tenant: tenant.clone() }
    }
}

/// The budget as the answers of one tenant have it.
#[derive(Clone)]
pub(in crate::rest) struct Share {
    books: Arc<Books>,
    tenant: TenantId,
}

impl Share {
    /// The two ends of an answer of so many bytes.
    pub(super) fn queue(&self, length: usize) -> (Giver, Taker) {
        let state = State { pieces: VecDeque::new(), is_cut: false, taken: Instant::now(), waker: None };
        let queue = Arc::new_cyclic(|queue| Queue {
            tenant: self.tenant.clone(),
            books: Arc::clone(&self.books),
            key: lock(&self.books.queues).insert(Weak::clone(queue)),
            state: Mutex::new(state),
        });
        (Giver { queue: Arc::clone(&queue), missing: length, patience: PATIENCE }, Taker(queue))
    }
}

/// An answer that is held.
struct Queue {
    tenant: TenantId,
    books: Arc<Books>,
    key: usize,
    state: Mutex<State>,
}

struct State {
    pieces: VecDeque<(Bytes, Option<Place>)>,
    /// Nobody gives, or nobody takes any more.
    is_cut: bool,
    /// When its client took the last piece.
    taken: Instant,
    waker: Option<Waker>,
}

/// Room for a piece; free again when it is dropped.
pub(super) struct Place(#[allow(dead_code)] OwnedSemaphorePermit);

/// Room for several pieces.
pub(super) struct Places(Option<OwnedSemaphorePermit>);

impl Places {
    /// One of them. There may be fewer than pieces: an answer longer than the whole budget has it all.
    pub(super) fn next(&mut self) -> Option<Place> {
        self.0.as_mut()?.split(1).map(Place)
    }
}

/// Whoever reads an answer. Dropped before its end, the answer is cut off.
pub(super) struct Giver {
    queue: Arc<Queue>,
    missing: usize,
    patience: Duration,
}

impl Giver {
    /// Room for one piece; `None` when there was none for too long, or nobody takes the answer any more.
    pub(super) async fn place(&mut self) -> Option<Place> {
        let begun = Instant::now();
        let acquire = Arc::clone(&self.queue.books.free).acquire_owned();
        tokio::pin!(acquire);
        let mut wait = Duration::ZERO;
        while !lock(&self.queue.state).is_cut {
            if let Ok(place) = timeout(wait, &mut acquire).await {
                self.patience = self.patience.saturating_sub(begun.elapsed());
                return place.ok().map(Place);
            }
            wait = LOOK;
            let patient = begun.elapsed() < self.patience;
            if !self.queue.makes_room(1, patient) && !patient {
                return None;
            }
        }
        None
    }

    /// Room for so many pieces, however long that takes.
    pub(super) async fn places(&mut self, pieces: usize) -> Places {
        let books = &self.queue.books;
        let begun = Instant::now();
        let wanted = pieces.min(books.most);
        let acquire = Arc::clone(&books.free).acquire_many_owned(u32::try_from(wanted).unwrap_or(u32::MAX));
        tokio::pin!(acquire);
        let mut wait = Duration::ZERO;
        loop {
            if let Ok(places) = timeout(wait, &mut acquire).await {
                return Places(places.ok());
            }
            wait = LOOK;
            self.queue.makes_room(wanted, begun.elapsed() < self.patience);
        }
    }

    /// Gives a piece to whoever takes the answer.
    pub(super) fn give(&mut self, bytes: Bytes, place: Option<Place>) {
        self.missing = self.missing.saturating_sub(bytes.len());
        let waker = {
            let mut state = lock(&self.queue.state);
            if state.is_cut {
                return;
            }
            state.pieces.push_back((bytes, place));
            state.waker.take()
        };
        waker.iter().for_each(Waker::wake_by_ref);
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        if self.missing > 0 {
            self.queue.cut();
        }
    }
}

/// Whoever hands an answer on to its client. Dropped, it lets go of what is held.
pub(super) struct Taker(Arc<Queue>);

impl Taker {
    /// The next piece; `None` when the answer was cut off. What it held is free: how much clients' sockets hold is bounded
    /// there.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = lock(&self.0.state);
        if state.is_cut {
            return Poll::Ready(None);
        }
        state.taken = Instant::now();
        match state.pieces.pop_front() {
            Some((bytes, _)) => Poll::Ready(Some(bytes)),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pieces", self.0.held())
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.0.cut();
    }
}

impl Queue {
    fn held(&self) -> usize {
        lock(&self.state).pieces.len()
    }

    fn is_stalled(&self) -> bool {
        lock(&self.state).taken.elapsed() > STALLED
    }

    fn cut(&self) {
        let (pieces, waker) = {
            let mut state = lock(&self.state);
            state.is_cut = true;
            (std::mem::take(&mut state.pieces), state.waker.take())
        };
        drop(pieces);
        waker.iter().for_each(Waker::wake_by_ref);
    }

    /// Cuts another answer off, for room for so many pieces of this one; whether there was one. `patient`: only one whose
    /// client takes nothing.
    fn makes_room(&self, pieces: usize, patient: bool) -> bool {
        // Their last handle may be dropped here, which takes them out of the list: not under its lock.
        let queues: Vec<_> =
            lock(&self.books.queues).iter().filter_map(|(_, queue)| queue.upgrade()).collect();
        let mut tenants = HashMap::<_, usize>::new();
        for queue in &queues {
            *tenants.entry(&queue.tenant).or_default() += queue.held();
        }
        let of = |tenant: &TenantId| tenants.get(tenant).copied().unwrap_or_default();
        let (own, this) = (of(&self.tenant) + pieces, self.held() + pieces);
        let gives_way = |queue: &&Arc<Self>| {
            let held = queue.held();
            let is_stalled = queue.is_stalled();
            let may = if queue.tenant == self.tenant {
                is_stalled || (!patient && held >= this)
            } else {
                of(&queue.tenant) > own && (is_stalled || !patient)
            };
            queue.key != self.key && held > 0 && may
        };
        let most = queues.iter().filter(gives_way).max_by_key(|queue| (of(&queue.tenant), queue.held()));
        most.inspect(|queue| queue.cut()).is_some()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        lock(&self.books.queues).try_remove(self.key);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
