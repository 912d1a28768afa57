//! Clients: whose connections have a place, and which of them gives it up when places run short.
//!
//! Nothing that a client does, or does not do, may keep others out. So the places are counted three ways (all, by address,
//! by tenant), and where one count is used up, the connection that has been idle for longest gives its place to the
//! newcomer. A connection that has not sent its first request yet is idle too. Only where nobody is idle, the newcomer is
//! refused.

mod group;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::{Notify, watch};

use self::group::{Idle, Kind, Places};
use crate::settings::{AccessLog, ClientSettings, ListenSettings};
use crate::telemetry::Metrics;
use crate::tenant::TenantId;

/// Most connections whose read buffer has grown: by a long head, or by a body that came fast. hyper keeps it for the
/// connection's life.
const MAX_GROWN: usize = 1024;
/// Most connections to the admin port; it answers a few programs and people.
const MAX_ADMIN: usize = 256;
/// Most connections to the control service.
const MAX_CONTROL: usize = 1024;
/// How often the log tells of refusals.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The clients of one port: a handle, cheap to clone.
#[derive(Clone)]
pub struct Clients(Arc<Books>);

struct Books {
    port: &'static str,
    settings: ClientSettings,
    trusted: RwLock<Vec<IpNet>>,
    metrics: Metrics,
    begun: Instant,
    under_way: AtomicUsize,
    places: Mutex<Places<Client>>,
    refused: Mutex<Refused>,
    /// Whether this router is about to stop.
    winding_down: watch::Sender<bool>,
    logs_refusals: AtomicBool,
}

/// Refusals that the log has not told of yet.
#[derive(Default)]
struct Refused {
    count: u64,
    told: Option<Instant>,
}

impl Clients {
    /// Those of the data port.
    pub fn new(listen: &ListenSettings, metrics: Metrics) -> Self {
        let proxies = listen.trusted_proxies.clone();
        Self::on("http", listen.clients.clone(), proxies, listen.access_log, metrics)
    }

    /// Those of the admin port: few, and with the data port's deadlines.
    pub fn of_admin(listen: &ListenSettings, metrics: Metrics) -> Self {
        let max_connections = listen.clients.max_connections.min(MAX_ADMIN);
        let settings =
            ClientSettings { max_connections, max_per_address: MAX_ADMIN / 2, ..listen.clients.clone() };
        Self::on("admin", settings, Vec::new(), listen.access_log, metrics)
    }

    /// Those of the control service: as few, and with the same deadlines.
    pub fn of_control(listen: &ListenSettings, metrics: Metrics) -> Self {
        let max_connections = listen.clients.max_connections.min(MAX_CONTROL);
        let settings =
            ClientSettings { max_connections, max_per_address: max_connections, ..listen.clients.clone() };
        Self::on("control", settings, Vec::new(), listen.access_log, metrics)
    }

    fn on(
        port: &'static str,
        settings: ClientSettings,
        trusted: Vec<IpNet>,
        access_log: AccessLog,
        metrics: Metrics,
    ) -> Self {
        metrics.clients(port, 0);
        Self(Arc::new(Books {
            port,
            settings,
            trusted: RwLock::new(trusted),
            metrics,
            begun: Instant::now(),
            under_way: AtomicUsize::new(0),
            places: Mutex::default(),
            refused: Mutex::default(),
            winding_down: watch::Sender::new(false),
            logs_refusals: AtomicBool::new(access_log != AccessLog::Off),
        }))
    }

    /// Tells clients that this router is about to stop: over HTTP/1 each answer closes its connection, over HTTP/2 clients
    /// get a GOAWAY. Whoever connects and asks all the same is served.
    pub fn wind_down(&self) {
        self.0.winding_down.send_replace(true);
    }

    /// Becomes true when this router is about to stop.
    pub(super) fn winding_down(&self) -> watch::Receiver<bool> {
        self.0.winding_down.subscribe()
    }

    /// Whether refusals that are no answer of a route's have a line in the log.
    pub(super) fn logs_refusals(&self) -> bool {
        self.0.logs_refusals.load(Ordering::Relaxed)
    }

    /// Takes up which lines the log shall have, and who may have more connections than others, from their next one on.
    pub(super) fn reload(&self, listen: &ListenSettings) {
        self.0.logs_refusals.store(listen.access_log != AccessLog::Off, Ordering::Relaxed);
        let mut trusted = self.0.trusted.write().unwrap_or_else(PoisonError::into_inner);
        trusted.clone_from(&listen.trusted_proxies);
    }

    pub(super) fn settings(&self) -> &ClientSettings {
        &self.0.settings
    }

    /// A place for a new connection, if there is one or somebody idle gives up theirs.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Arc<Client>> {
        let books = &self.0;
        let address = address.to_canonical();
        let trusted = books.trusted.read().unwrap_or_else(PoisonError::into_inner);
        let is_trusted = trusted.iter().any(|network| network.contains(&address));
        drop(trusted);
        let mut places = lock(&books.places);
        let mut kinds = vec![Kind::All];
        if !is_trusted {
            // First: an address that is at its own limit takes nobody else's place.
            kinds.insert(0, Kind::of_address(address));
        }
        for kind in &kinds {
            if !self.make_room(&mut places, kind) {
                drop(places);
                self.refused(kind);
                return None;
            }
        }
        let client = places.insert(kinds, |key| Client {
            key,
            books: Arc::clone(books),
            is_trusted,
            tenant: Mutex::default(),
            accepted: Instant::now(),
            has_asked: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            since: AtomicU64::new(books.now()),
            requests: AtomicU32::new(0),
            is_evicted: AtomicBool::new(false),
            evicted: Notify::new(),
            flow: Flow::default(),
        });
        books.metrics.clients(books.port, places.len());
        Some(client)
    }

    /// Closes the connection that was idle for longest: the system has no file descriptor for a newcomer.
    pub(super) fn close_oldest(&self) {
        let mut places = lock(&self.0.places);
        if let Some(client) = places.take_oldest(&Kind::All, self.0.now()) {
            self.evict(&client);
        }
    }

    /// Whether the group has a place left, after its oldest idle member has perhaps given up its own.
    fn make_room(&self, places: &mut Places<Client>, kind: &Kind) -> bool {
        let settings = &self.0.settings;
        let most = match kind {
            Kind::All => settings.max_connections,
            Kind::Address(_) => settings.max_per_address,
            Kind::Tenant(_) => settings.max_per_tenant,
            Kind::Grown => MAX_GROWN,
        };
        if places.count(kind) < most {
            return true;
        }
        match places.take_oldest(kind, self.0.now()) {
            Some(client) => {
                self.evict(&client);
                true
            }
            None => false,
        }
    }

    fn evict(&self, client: &Client) {
        self.closed("evicted");
        client.is_evicted.store(true, Ordering::Release);
        client.evicted.notify_one();
    }

    /// Counts a connection that the router closes.
    pub(super) fn closed(&self, reason: &'static str) {
        self.0.metrics.client_closed(self.0.port, reason);
    }

    fn refused(&self, kind: &Kind) {
        let reason = kind.name();
        self.0.metrics.client_refused(self.0.port, reason);
        let mut refused = lock(&self.0.refused);
        refused.count += 1;
        if refused.told.is_none_or(|told| told.elapsed() >= LOG_INTERVAL) {
            let (count, port) = (std::mem::take(&mut refused.count), self.0.port);
            refused.told = Some(Instant::now());
            drop(refused);
            tracing::warn!(
                port,
                reason,
                count,
                "clients were refused: too many connections (listen.clients)"
            );
        }
    }
}

/// A client's connection, which has a place until it is dropped by whoever serves it.
pub(super) struct Client {
    key: usize,
    books: Arc<Books>,
    is_trusted: bool,
    /// Whom the latest request was for.
    tenant: Mutex<Option<TenantId>>,
    accepted: Instant,
    has_asked: AtomicBool,
    /// Requests under way, up to the end of their answers' bodies.
    active: AtomicUsize,
    /// When the last of them ended, or when the connection was accepted.
    since: AtomicU64,
    requests: AtomicU32,
    is_evicted: AtomicBool,
    evicted: Notify,
    pub(super) flow: Flow,
}

/// What a connection has moved, and whether its client is being waited for.
#[derive(Default)]
pub(super) struct Flow {
    written: AtomicU64,
    /// The socket takes no more now.
    is_blocked: AtomicBool,
    /// Answers of which the client has not taken all that is there.
    waiting: AtomicUsize,
    /// How often nobody had to wait for the client any more.
    cleared: AtomicU32,
}

impl Flow {
    pub(super) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn blocked(&self) {
        self.is_blocked.store(true, Ordering::Relaxed);
    }

    /// All that was written so far has left.
    pub(super) fn flushed(&self) {
        if self.is_blocked.load(Ordering::Relaxed) {
            self.is_blocked.store(false, Ordering::Relaxed);
            self.cleared.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An answer waits for the client.
    pub(super) fn begin_wait(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// It does so no more.
    pub(super) fn end_wait(&self) {
        if self.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.cleared.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waits(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed) || self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// What a connection had moved when it was last looked at, if its client was waited for.
#[derive(Default)]
pub(super) struct Pace(Option<(u32, u64)>);

/// What is to be done about a connection.
pub(super) enum Look {
    /// It may go on; look again after so long.
    Again(Duration),
    /// It is to be closed.
    Close(&'static str),
}

impl Client {
    /// A request arrived, if so many may be under way.
    pub(super) fn begin(self: &Arc<Self>) -> Option<UnderWay> {
        self.has_asked.store(true, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::AcqRel);
        let under_way = UnderWay(Arc::clone(self));
        let most = self.books.settings.max_connections;
        if self.books.under_way.fetch_add(1, Ordering::Relaxed) < most {
            return Some(under_way);
        }
        drop(under_way);
        self.clients().refused(&Kind::All);
        None
    }

    /// Counts the connection as the tenant's; whether there is a place for it.
    pub(super) fn join(&self, tenant: &TenantId) -> bool {
        if self.is_trusted {
            return true;
        }
        let mut own = lock(&self.tenant);
        if own.as_ref() == Some(tenant) {
            return true;
        }
        let kind = Kind::Tenant(tenant.clone());
        let clients = self.clients();
        let mut places = lock(&self.books.places);
        let room = clients.make_room(&mut places, &kind);
        if room {
            if let Some(former) = own.replace(tenant.clone()) {
                places.remove_from(self, &Kind::Tenant(former));
            }
            places.add_to(self, kind);
        } else {
            drop(places);
            clients.refused(&kind);
        }
        room
    }

    /// Its read buffer has grown; whether there is room for that.
    pub(super) fn grow(&self) -> bool {
        let clients = self.clients();
        let mut places = lock(&self.books.places);
        let room = clients.make_room(&mut places, &Kind::Grown);
        if room {
            places.add_to(self, Kind::Grown);
        } else {
            drop(places);
            clients.refused(&Kind::Grown);
        }
        room
    }

    /// Requests so far, and whether none is under way.
    pub(super) fn requests(&self) -> (u32, bool) {
        (self.requests.load(Ordering::Relaxed), self.active.load(Ordering::Relaxed) == 0)
    }

    /// Waits until its place is given to another; whether it is busy by now.
    pub(super) async fn evicted(&self) -> bool {
        while !self.is_evicted.load(Ordering::Acquire) {
            self.evicted.notified().await;
        }
        self.active.load(Ordering::Acquire) > 0
    }

    /// Whether it is late with its first head, idle for too long, or slow in taking what it asked for.
    pub(super) fn look(&self, pace: &mut Pace) -> Look {
        let settings = &self.books.settings;
        if !self.has_asked.load(Ordering::Relaxed) {
            let late = settings.head_timeout.saturating_sub(self.accepted.elapsed());
            return if late.is_zero() { Look::Close("head_timeout") } else { Look::Again(late) };
        }
        let stall = settings.stall_timeout;
        if self.flow.waits() {
            let cleared = self.flow.cleared.load(Ordering::Relaxed);
            let written = self.flow.written.load(Ordering::Relaxed);
            if let Some((then, before)) = pace.0.replace((cleared, written))
                && then == cleared
                && ((written - before) as f64) < f64::from(settings.min_rate) * stall.as_secs_f64()
            {
                return Look::Close("slow_reader");
            }
            return Look::Again(stall);
        }
        pace.0 = None;
        let Some(since) = self.idle_since() else { return Look::Again(stall) };
        let idle = Duration::from_nanos(self.books.now().saturating_sub(since));
        let left = settings.idle_timeout.saturating_sub(idle);
        if left.is_zero() { Look::Close("idle") } else { Look::Again(left.min(stall)) }
    }

    fn clients(&self) -> Clients {
        Clients(Arc::clone(&self.books))
    }

    /// Gives up its place.
    pub(super) fn leave(&self) {
        let mut places = lock(&self.books.places);
        places.remove(self);
        self.books.metrics.clients(self.books.port, places.len());
    }
}

impl Idle for Client {
    fn key(&self) -> usize {
        self.key
    }

    fn idle_since(&self) -> Option<u64> {
        (self.active.load(Ordering::Acquire) == 0).then(|| self.since.load(Ordering::Relaxed))
    }
}

/// A request under way, until its answer has ended.
pub(super) struct UnderWay(Arc<Client>);

impl UnderWay {
    pub(super) fn client(&self) -> &Arc<Client> {
        &self.0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let client = &self.0;
        client.books.under_way.fetch_sub(1, Ordering::Relaxed);
        client.since.store(client.books.now(), Ordering::Relaxed);
        client.active.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Books {
    /// Nanoseconds since the port was opened.
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
