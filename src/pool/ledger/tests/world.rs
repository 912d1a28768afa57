//! A pretended server and its requests, with what must hold of the ledger after each step.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::policy::{Api, Limits};
use crate::pool::error::Error;
use crate::pool::ledger::{Answer, BAN, Failure, Key, Ledger, Offer, Open, Orders, Session};
use crate::tenant::{Lineage, Origin, Record, Tenant};

/// How a tenant's row changes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Update {
    MaxConnections(u32),
    StatementTimeout(u64),
    Password,
    Server,
    Lineage,
}

impl Update {
    pub(super) fn closes(self) -> bool {
        !matches!(self, Self::MaxConnections(_) | Self::Lineage)
    }

    pub(super) fn apply(self, number: usize, before: &Tenant) -> Arc<Tenant> {
        let (mut limits, mut record) = (before.limits.clone(), (**before).clone());
        match self {
            Self::MaxConnections(most) => limits.max_connections = most,
            Self::StatementTimeout(ms) => limits.statement_timeout += Duration::from_millis(ms),
            Self::Password => record.generation += 1,
            Self::Server => record.server.push('2'),
            Self::Lineage => {
                let history = format!("{number}");
                record.origin = Origin::Lineage(Lineage { edition: "shop".into(), version: 2, history });
            }
        }
        Arc::new(Tenant::new(record, limits, before.api.clone()))
    }
}

/// A connection of the pretended server.
#[derive(Debug)]
pub(super) struct Fake {
    tenant: usize,
    epoch: u64,
    broken: Rc<Cell<bool>>,
}

impl Session for Fake {
    fn is_usable(&mut self) -> bool {
        !self.broken.get()
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }
}

pub(super) struct Lent {
    key: Key,
    session: Fake,
}

pub(super) struct Waiting {
    tenant: usize,
    key: Key,
    ticket: u64,
    receiver: oneshot::Receiver<Offer<Fake>>,
}

/// The ledger, the server it believes in, and the requests.
pub(super) struct World {
    pub(super) ledger: Ledger<Fake>,
    pub(super) tenants: Vec<Arc<Tenant>>,
    pub(super) now: Instant,
    pub(super) opening: Vec<Open>,
    /// Connections whose backends have not exited yet: account, and whether it was evicted.
    pub(super) closing: Vec<(Key, bool)>,
    pub(super) lent: Vec<Lent>,
    pub(super) waiting: Vec<Waiting>,
    broken: Vec<Rc<Cell<bool>>>,
    pub(super) served: Vec<usize>,
}

pub(super) fn tenant(number: usize, limits: &Limits) -> Arc<Tenant> {
    let record = Record::example(&format!("{number:0>16}"), &format!("t{number}"));
    Arc::new(Tenant::new(record, limits.clone(), Api::default()))
}

impl World {
    pub(super) fn new(budget: u32, connects: u32, busy: u32, tenants: usize, limits: &Limits) -> Self {
        Self {
            ledger: Ledger::new(budget, connects, busy),
            tenants: (0..tenants).map(|number| tenant(number, limits)).collect(),
            now: Instant::now(),
            opening: Vec::new(),
            closing: Vec::new(),
            lent: Vec::new(),
            waiting: Vec::new(),
            broken: Vec::new(),
            served: vec![0; tenants],
        }
    }

    pub(super) fn with<R>(
        &mut self,
        act: impl FnOnce(&mut Ledger<Fake>, Instant, &mut Orders<Fake>) -> R,
    ) -> R {
        let mut orders = Orders::default();
        let before = self.ledger.taken;
        let held: HashMap<Key, u32> = self.ledger.accounts.iter().map(|(key, a)| (key, a.taken)).collect();
        let result = act(&mut self.ledger, self.now, &mut orders);
        for (key, account) in &self.ledger.accounts {
            let most =
                account.max_connections(self.ledger.max_per_tenant).max(held.get(&key).copied().unwrap_or(0));
            assert!(account.taken <= most, "a tenant grows above its own limit");
        }
        assert!(
            self.ledger.taken <= self.ledger.budget.max(before),
            "{} slots taken of {}",
            self.ledger.taken,
            self.ledger.budget
        );
        for session in orders.close {
            self.closing.push((self.key_of(&session), false));
        }
        for session in orders.evict {
            self.closing.push((self.key_of(&session), true));
        }
        self.opening.extend(orders.open);
        result
    }

    /// A session's account is that of its tenant for as long as it has a slot.
    pub(super) fn key_of(&self, session: &Fake) -> Key {
        self.ledger.keys[&self.tenants[session.tenant].id]
    }

    pub(super) fn number(&self, tenant: &Tenant) -> usize {
        tenant.id.as_str().parse().unwrap()
    }

    pub(super) fn ask(&mut self, tenant: usize) {
        let record = Arc::clone(&self.tenants[tenant]);
        match self.with(|ledger, now, orders| ledger.ask(&record, now, orders)) {
            Answer::Ready(key, session) => self.lend(tenant, key, session),
            Answer::Wait(key, ticket, receiver) => {
                self.waiting.push(Waiting { tenant, key, ticket, receiver });
            }
            Answer::Refused(_) => {}
        }
        self.collect();
    }

    pub(super) fn lend(&mut self, tenant: usize, key: Key, session: Fake) {
        assert_eq!(session.tenant, tenant, "a connection of another tenant");
        self.served[tenant] += 1;
        self.lent.push(Lent { key, session });
    }

    /// Requests whose offer has arrived go on, some time.
    pub(super) fn collect(&mut self) {
        let mut still = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            match waiting.receiver.try_recv() {
                Ok(Ok(session)) => self.lend(waiting.tenant, waiting.key, session),
                Ok(Err(_)) => {}
                Err(oneshot::error::TryRecvError::Empty) => still.push(waiting),
                Err(oneshot::error::TryRecvError::Closed) => panic!("forgotten"),
            }
        }
        self.waiting = still;
    }

    /// A request goes away; its offer may have arrived in the same moment.
    pub(super) fn abandon(&mut self, which: usize) {
        if self.waiting.is_empty() {
            return;
        }
        let mut waiting = self.waiting.swap_remove(which % self.waiting.len());
        waiting.receiver.close();
        match waiting.receiver.try_recv() {
            Ok(Ok(session)) => {
                self.with(|ledger, now, orders| ledger.give_back(waiting.key, session, now, orders));
            }
            _ => drop(self.with(|ledger, now, _| ledger.leave(waiting.key, waiting.ticket, now))),
        }
    }

    pub(super) fn end(&mut self, which: usize, clean: bool) {
        if self.lent.is_empty() {
            return;
        }
        let Lent { key, session } = self.lent.swap_remove(which % self.lent.len());
        if clean {
            self.with(|ledger, now, orders| ledger.give_back(key, session, now, orders));
        } else {
            self.with(|ledger, now, orders| ledger.lost(key, now, orders));
            self.closing.push((key, false));
        }
    }

    pub(super) fn open(&mut self, which: usize, outcome: u8) {
        if self.opening.is_empty() {
            return;
        }
        let open = self.opening.swap_remove(which % self.opening.len());
        let error = || Error::Server { server: "main".into(), reason: "refused".into() };
        let failure = match outcome % 16 {
            0 => Some(Failure::Again),
            1 => Some(Failure::NextLogin),
            2 => Some(Failure::Full),
            3 => Some(Failure::Outage(error())),
            4 => Some(Failure::Refused(error())),
            5 => Some(Failure::Stuck(error())),
            _ => None,
        };
        if let Some(failure) = failure {
            self.with(|ledger, now, orders| ledger.failed(&open, &failure, now, orders));
            self.closing.push((open.key, false));
        } else {
            let broken = Rc::new(Cell::new(false));
            self.broken.push(Rc::clone(&broken));
            let session = Fake { tenant: self.number(&open.tenant), epoch: open.epoch, broken };
            self.with(|ledger, now, orders| ledger.opened(&open, session, Duration::ZERO, now, orders));
        }
    }

    pub(super) fn free(&mut self, which: usize) {
        if !self.closing.is_empty() {
            let (key, evicted) = self.closing.swap_remove(which % self.closing.len());
            self.with(|ledger, now, orders| ledger.freed(key, evicted, now, orders));
        }
    }

    /// The directory has another version of the tenant: what closes at once is what the difference asks for.
    pub(super) fn update(&mut self, tenant: usize, update: Update) {
        let now = update.apply(tenant, &self.tenants[tenant]);
        self.tenants[tenant] = Arc::clone(&now);
        let Some(&key) = self.ledger.keys.get(&now.id) else {
            self.with(|ledger, at, orders| ledger.update(&now, at, orders));
            return assert!(!self.ledger.keys.contains_key(&now.id), "an account that nobody asked for");
        };
        let closing = |world: &Self| world.closing.iter().filter(|entry| **entry == (key, false)).count();
        let account = &self.ledger.accounts[key];
        let (before, epoch, idle) = (closing(self), account.epoch, account.idle.len());
        let held = (account.usable + account.opening) as usize;
        self.with(|ledger, at, orders| ledger.update(&now, at, orders));
        let account = &self.ledger.accounts[key];
        assert!(Arc::ptr_eq(&account.tenant, &now));
        let surplus = held.saturating_sub(account.max_connections(self.ledger.max_per_tenant) as usize);
        let closed = if update.closes() { idle } else { surplus.min(idle) };
        assert_eq!(closing(self) - before, closed);
        assert_eq!(account.epoch > epoch, update.closes());
    }

    pub(super) fn crash(&mut self) {
        for broken in std::mem::take(&mut self.broken) {
            broken.set(true);
        }
        self.with(|ledger, now, orders| ledger.reap(now, orders));
    }

    pub(super) fn check(&self) {
        let accounts = || self.ledger.accounts.iter().map(|(_, account)| account);
        let taken: u32 = accounts().map(|a| a.taken).sum();
        let usable: u32 = accounts().map(|a| a.usable).sum();
        let idle: usize = accounts().map(|a| a.idle.len()).sum();
        let opening: u32 = accounts().map(|a| a.opening).sum();
        let on_offer = self.waiting.len() - accounts().map(|a| a.waiters.len()).sum::<usize>();
        assert_eq!(taken, self.ledger.taken);
        assert_eq!((opening, self.opening.len()), (self.ledger.opening, opening as usize));
        // An offer that is not looked at yet may be a connection or a refusal.
        let known = idle + self.lent.len();
        assert!((known..=known + on_offer).contains(&(usable as usize)), "{usable} usable, {known} known");
        assert_eq!((taken - usable - opening) as usize, self.closing.len());
        assert_eq!(
            self.ledger.evicting as usize,
            self.closing.iter().filter(|(_, evicted)| *evicted).count()
        );
        assert!(self.ledger.opening <= self.ledger.max_connecting);
        let in_use = self.lent.len() + opening as usize;
        let wanted = self.ledger.wanted(self.now) as usize;
        assert!(wanted >= in_use, "{wanted} wanted, {in_use} in use");
        let queued: usize = accounts().map(|a| a.waiters.len()).sum();
        assert!(
            wanted <= usable as usize + opening as usize + queued,
            "{wanted} wanted: more than anybody asked for"
        );
        for account in accounts() {
            assert!(
                account.idle.is_empty() || !account.is_above_limit(self.ledger.max_per_tenant),
                "an idle connection above the tenant's own limit"
            );
            assert!(
                account.idle.is_empty() || account.waiters.is_empty(),
                "waiting beside an idle connection"
            );
        }
        for (class, ring) in self.ledger.rings.iter().enumerate() {
            for key in ring {
                let queued = self.ledger.accounts.get(*key).and_then(|a| a.queued);
                assert_eq!(queued.map(|c| c as usize), Some(class), "a stranger in line");
            }
        }
    }

    /// Everything under way ends well, and time goes on: whoever waits must be served or told.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            self.collect();
            self.check();
            if !self.closing.is_empty() {
                self.free(0);
            } else if !self.opening.is_empty() {
                self.open(0, 15);
            } else if !self.lent.is_empty() {
                self.end(0, true);
            } else if !self.waiting.is_empty() {
                self.now += BAN;
                self.with(|ledger, now, orders| ledger.reap(now, orders));
            } else {
                return;
            }
        }
        panic!("{} requests wait for ever", self.waiting.len());
    }
}
