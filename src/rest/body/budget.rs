//! `Budget`: what bodies of requests and answers may hold in memory, and which of them is cut off when that is used up.
//!
//! Whoever needs room takes it before the bytes are there, and they are counted until the last of them has left: for an
//! answer, until the client's socket took them. A tenant has half of the room at most, and the last quarter is for tenants
//! that hold little, so that none can take what all the others need.
//!
//! Where room is short, a body gives way whose client moves nothing: of another tenant that holds more altogether, or of
//! its own. Who waits for room with a long answer cuts off the slow ones too, after some seconds.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::tenant::TenantId;

/// Bytes read, held and handed on at a time.
pub(super) const PIECE: usize = 64 * 1024;
/// How long an answer waits for room, altogether, while others' clients take theirs; then it or they are cut off.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client that still wants its answer takes to take a piece of it.
const STALLED: Duration = Duration::from_secs(1);
/// How often whoever waits for room looks for a body to cut off.
const LOOK: Duration = Duration::from_millis(100);
/// How long nobody of a tenant looks for a body that gives way after one has looked in vain: an attacker may have thousands of
/// bodies under way, and each of them looked at all the others whenever it wanted more room.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Room that a tenant must have left for a request to be begun.
const LEAST: usize = 4 * 1024;

/// How much may be held, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) all: usize,
    pub(super) per_tenant: usize,
    /// The part of all that is for tenants that hold no more than `little`.
    pub(super) kept: usize,
    pub(super) little: usize,
}

/// What bodies may hold. A handle, cheap to clone.
#[derive(Clone)]
pub(in crate::rest) struct Budget(Arc<Books>);

struct Books {
    bounds: Bounds,
    held: AtomicUsize,
    accounts: DashMap<TenantId, Arc<Account>>,
    queues: Mutex<Slab<Weak<Queue>>>,
    freed: Notify,
    /// Answers that wait for that.
    waiting: AtomicUsize,
}

/// What the bodies of one tenant hold.
#[derive(Default)]
struct Account {
    held: AtomicUsize,
    /// When it last looked in vain for a body that gives way, and whether among its own only.
    looked: Mutex<Option<(Instant, bool)>>,
}

impl Account {
    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Budget {
    /// So many bytes over all tenants.
    pub(in crate::rest) fn new(all: usize) -> Self {
        Self::with(Bounds { all, per_tenant: all / 2, kept: all / 4, little: all / 1024 })
    }

    pub(super) fn with(bounds: Bounds) -> Self {
        Self(Arc::new(Books {
            bounds,
            held: AtomicUsize::new(0),
            accounts: DashMap::new(),
            queues: Mutex::default(),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// The budget as one tenant's bodies have it.
    pub(in crate::rest) fn of(&self, tenant: &TenantId) -> Share {
        let known = self.0.accounts.get(tenant).map(|account| Arc::clone(&account));
        let account =
            known.unwrap_or_else(|| Arc::clone(&self.0.accounts.entry(tenant.clone()).or_default()));
        Share { books: Arc::clone(&self.0), account }
    }

    /// Forgets a tenant that left; what its bodies still hold stays counted.
    pub(in crate::rest) fn forget(&self, tenant: &TenantId) {
        self.0.accounts.remove(tenant);
    }
}

/// The budget as the bodies of one tenant have it.
#[derive(Clone)]
pub(in crate::rest) struct Share {
    books: Arc<Books>,
    account: Arc<Account>,
}

impl Share {
    /// The most that one body can have.
    pub(super) fn largest(&self) -> usize {
        self.books.bounds.per_tenant
    }

    /// Whether the tenant has no room for another answer, though none is stalled that could give way.
    pub(in crate::rest) fn is_used_up(&self) -> bool {
        let has_room = self.take(LEAST);
        if has_room {
            self.release(LEAST);
        }
        !has_room
    }

    /// Room for so many bytes, if there is some or can be made at once.
    pub(super) fn room(&self, bytes: usize) -> Option<Room> {
        self.take(bytes).then(|| Room { share: self.clone(), bytes })
    }

    fn take(&self, bytes: usize) -> bool {
        self.reserve(bytes) || (self.makes_room(None, bytes, true) && self.reserve(bytes))
    }

    /// Counts bytes that are there already.
    pub(super) fn count(&self, bytes: usize) -> Room {
        self.books.held.fetch_add(bytes, Ordering::Relaxed);
        self.account.held.fetch_add(bytes, Ordering::Relaxed);
        Room { share: self.clone(), bytes }
    }

    /// A body that can be cut off, which holds nothing yet.
    pub(super) fn queue(&self) -> Arc<Queue> {
        let state =
            State { pieces: VecDeque::new(), held: 0, is_cut: false, moved: Instant::now(), waker: None };
        Arc::new_cyclic(|queue| Queue {
            share: self.clone(),
            key: lock(&self.books.queues).insert(Weak::clone(queue)),
            state: Mutex::new(state),
        })
    }

    fn reserve(&self, bytes: usize) -> bool {
        let bounds = &self.books.bounds;
        let Some(own) = add_within(&self.account.held, bytes, bounds.per_tenant) else { return false };
        let most = if own <= bounds.little { bounds.all } else { bounds.all - bounds.kept };
        let has_room = add_within(&self.books.held, bytes, most).is_some();
        if !has_room {
            self.account.held.fetch_sub(bytes, Ordering::Relaxed);
        }
        has_room
    }

    fn release(&self, bytes: usize) {
        self.account.held.fetch_sub(bytes, Ordering::Relaxed);
        self.books.held.fetch_sub(bytes, Ordering::Relaxed);
        if self.books.waiting.load(Ordering::Relaxed) > 0 {
            self.books.freed.notify_waiters();
        }
    }

    /// Cuts another body off, for room for so many bytes of this one; whether there was one. `patient`: only one whose
    /// client moves nothing.
    fn makes_room(&self, this: Option<&Queue>, bytes: usize, patient: bool) -> bool {
        let own = self.account.held() + bytes;
        // What others hold is of no use to a tenant that is at its own limit.
        let own_only = own > self.books.bounds.per_tenant;
        let (now, looked) = (Instant::now(), *lock(&self.account.looked));
        let in_vain = |(at, among_own): (Instant, bool)| now < at + LOOK_PAUSE && (own_only || !among_own);
        if patient && looked.is_some_and(in_vain) {
            return false;
        }
        // Their last handle may be dropped here, which takes them out of the list: not under its lock.
        let queues: Vec<_> =
            lock(&self.books.queues).iter().filter_map(|(_, queue)| queue.upgrade()).collect();
        let held_by_this = this.map_or(0, |queue| lock(&queue.state).held) + bytes;
        let gives_way = |queue: &Arc<Queue>| {
            let is_own = Arc::ptr_eq(&queue.share.account, &self.account);
            if !is_own && (own_only || queue.share.account.held() <= own) {
                return None;
            }
            let state = lock(&queue.state);
            let is_stalled = now.duration_since(state.moved) > STALLED;
            let may = is_stalled || (!patient && (!is_own || state.held >= held_by_this));
            let is_other = this.is_none_or(|this| this.key != queue.key);
            (is_other && state.held > 0 && may).then_some((queue.share.account.held(), state.held))
        };
        let most = queues.iter().filter_map(|queue| Some((gives_way(queue)?, queue)));
        let most = most.max_by_key(|(held, _)| *held);
        if most.is_none() {
            *lock(&self.account.looked) = Some((now, own_only));
        }
        most.inspect(|(_, queue)| queue.cut()).is_some()
    }
}

/// The sum, if it is within this.
fn add_within(to: &AtomicUsize, bytes: usize, most: usize) -> Option<usize> {
    let sum = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= most);
    to.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).ok().map(|held| held + bytes)
}

/// Room for so many bytes; free again when it is dropped.
pub(in crate::rest) struct Room {
    share: Share,
    bytes: usize,
}

impl Room {
    /// How many bytes it is for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Room for more.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let Some(mut more) = self.share.room(bytes) else { return false };
        self.bytes += std::mem::take(&mut more.bytes);
        true
    }

    /// Room for so many of these bytes, or for as many as there are.
    pub(super) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { share: self.share.clone(), bytes }
    }

    /// The bytes, which have this room for as long as anybody has them: also where they wait for a client's socket.
    pub(super) fn of(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Counted { bytes, _room: self })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.share.release(self.bytes);
        }
    }
}

struct Counted {
    bytes: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body that is held, and can be cut off.
pub(super) struct Queue {
    share: Share,
    key: usize,
    state: Mutex<State>,
}

struct State {
    /// Of an answer, what its client has not taken.
    pieces: VecDeque<(Bytes, Room)>,
    /// Bytes that would be free if it were cut off.
    held: usize,
    /// Nobody gives, or nobody takes any more.
    is_cut: bool,
    /// When its client sent or took the last piece.
    moved: Instant,
    waker: Option<Waker>,
}

impl Queue {
    /// The client sent some of a request's body, which holds so many bytes by now.
    pub(super) fn grown(&self, held: usize) {
        let mut state = lock(&self.state);
        (state.held, state.moved) = (held, Instant::now());
    }

    /// Ready when it was cut off.
    pub(super) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.is_cut {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn cut(&self) {
        let (pieces, waker) = {
            let mut state = lock(&self.state);
            (state.is_cut, state.held) = (true, 0);
            (std::mem::take(&mut state.pieces), state.waker.take())
        };
        drop(pieces);
        waker.iter().for_each(Waker::wake_by_ref);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        lock(&self.share.books.queues).try_remove(self.key);
    }
}

/// Whoever reads an answer. Dropped before its end, the answer is cut off.
pub(super) struct Giver {
    queue: Arc<Queue>,
    missing: usize,
    patience: Duration,
}

impl Giver {
    /// The two ends of an answer of so many bytes.
    pub(super) fn new(share: &Share, length: usize) -> (Self, Taker) {
        let queue = share.queue();
        (Self { queue: Arc::clone(&queue), missing: length, patience: PATIENCE }, Taker(queue))
    }

    /// Room for so many bytes of it; `None` when there was none for too long, or nobody takes the answer any more.
    pub(super) async fn room(&mut self, bytes: usize) -> Option<Room> {
        let begun = Instant::now();
        while !lock(&self.queue.state).is_cut {
            if self.queue.share.reserve(bytes) {
                self.patience = self.patience.saturating_sub(begun.elapsed());
                return Some(Room { share: self.queue.share.clone(), bytes });
            }
            let patient = begun.elapsed() < self.patience;
            if !self.queue.share.makes_room(Some(&self.queue), bytes, patient) && !patient {
                return None;
            }
            self.until_freed().await;
        }
        None
    }

    /// Room for all of its bytes, however long that takes. What is longer than a tenant may hold has all of that.
    pub(super) async fn whole(&mut self, bytes: usize) -> Room {
        let begun = Instant::now();
        let bytes = bytes.min(self.queue.share.largest());
        while !self.queue.share.reserve(bytes) {
            self.queue.share.makes_room(Some(&self.queue), bytes, begun.elapsed() < self.patience);
            self.until_freed().await;
        }
        Room { share: self.queue.share.clone(), bytes }
    }

    async fn until_freed(&self) {
        let books = &self.queue.share.books;
        books.waiting.fetch_add(1, Ordering::Relaxed);
        // What was missed is seen a moment later.
        let _ = timeout(LOOK, books.freed.notified()).await;
        books.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives a piece to whoever takes the answer.
    pub(super) fn give(&mut self, bytes: Bytes, room: Room) {
        self.missing = self.missing.saturating_sub(bytes.len());
        let waker = {
            let mut state = lock(&self.queue.state);
            if state.is_cut {
                return;
            }
            state.held += room.bytes;
            state.pieces.push_back((bytes, room));
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
    /// The next piece; `None` when the answer was cut off.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = lock(&self.0.state);
        if state.is_cut {
            return Poll::Ready(None);
        }
        state.moved = Instant::now();
        match state.pieces.pop_front() {
            Some((bytes, room)) => {
                state.held -= room.bytes;
                Poll::Ready(Some(room.of(bytes)))
            }
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", lock(&self.0.state).held)
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.0.cut();
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
