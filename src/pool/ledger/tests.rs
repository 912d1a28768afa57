//! The ledger under random schedules: requests, their deaths at any moment, a server's good and bad days.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::cell::Cell;
use std::rc::Rc;

use proptest::prelude::*;

use super::turns::PROTECTED;
use super::*;
use crate::policy::{Api, Limits, Overrides};
use crate::tenant::{Lineage, Origin, Record, Sealed, State};

/// A connection of the pretended server.
#[derive(Debug)]
struct Fake {
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

struct Lent {
    key: Key,
    session: Fake,
}

struct Waiting {
    tenant: usize,
    key: Key,
    ticket: u64,
    receiver: oneshot::Receiver<Offer<Fake>>,
}

/// The ledger, the server it believes in, and the requests.
struct World {
    ledger: Ledger<Fake>,
    tenants: Vec<Arc<Tenant>>,
    now: Instant,
    opening: Vec<Open>,
    /// Connections whose backends have not exited yet: account, and whether it was evicted.
    closing: Vec<(Key, bool)>,
    lent: Vec<Lent>,
    waiting: Vec<Waiting>,
    broken: Vec<Rc<Cell<bool>>>,
    served: Vec<usize>,
}

fn tenant(number: usize, limits: &Limits) -> Arc<Tenant> {
    let record = Record {
        id: format!("{number:0>16}").parse().unwrap(),
        slug: format!("t{number}").parse().unwrap(),
        state: State::Active,
        tier: "standard".into(),
        server: "main".into(),
        generation: 1,
        key: 1,
        origin: Origin::Lineage(Lineage { edition: "shop".into(), version: 1, history: String::new() }),
        sealed: Sealed::new(),
        reloads: 0,
        base_urls: Vec::new(),
        overrides: Overrides::default(),
    };
    Arc::new(Tenant::new(record, limits.clone(), Api::default()))
}

impl World {
    fn new(budget: u32, connects: u32, busy: u32, tenants: usize, limits: &Limits) -> Self {
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

    fn with<R>(&mut self, act: impl FnOnce(&mut Ledger<Fake>, Instant, &mut Orders<Fake>) -> R) -> R {
        let mut orders = Orders::default();
        let before = self.ledger.taken;
        let result = act(&mut self.ledger, self.now, &mut orders);
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
    fn key_of(&self, session: &Fake) -> Key {
        self.ledger.keys[&self.tenants[session.tenant].id]
    }

    fn number(&self, tenant: &Tenant) -> usize {
        tenant.id.as_str().parse().unwrap()
    }

    fn ask(&mut self, tenant: usize) {
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

    fn lend(&mut self, tenant: usize, key: Key, session: Fake) {
        assert_eq!(session.tenant, tenant, "a connection of another tenant");
        self.served[tenant] += 1;
        self.lent.push(Lent { key, session });
    }

    /// Requests whose offer has arrived go on, some time.
    fn collect(&mut self) {
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
    fn abandon(&mut self, which: usize) {
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

    fn end(&mut self, which: usize, clean: bool) {
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

    fn open(&mut self, which: usize, outcome: u8) {
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

    fn free(&mut self, which: usize) {
        if !self.closing.is_empty() {
            let (key, evicted) = self.closing.swap_remove(which % self.closing.len());
            self.with(|ledger, now, orders| ledger.freed(key, evicted, now, orders));
        }
    }

    fn crash(&mut self) {
        for broken in std::mem::take(&mut self.broken) {
            broken.set(true);
        }
        self.with(|ledger, now, orders| ledger.reap(now, orders));
    }

    fn check(&self) {
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
        assert!(self.ledger.opening <= self.ledger.connects);
        for account in accounts() {
            assert!(account.taken <= account.most(self.ledger.busy), "a tenant above its own limit");
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
    fn settle(&mut self) {
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
                self.now += BARRED;
                self.with(|ledger, now, orders| ledger.reap(now, orders));
            } else {
                return;
            }
        }
        panic!("{} requests wait for ever", self.waiting.len());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ask(usize),
    Abandon(usize),
    End(usize, bool),
    Open(usize, u8),
    Free(usize),
    Crash,
    Drain(usize),
    Budget(u32),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6_usize).prop_map(Step::Ask),
        2 => any::<usize>().prop_map(Step::Abandon),
        6 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, clean)| Step::End(which, clean)),
        8 => (any::<usize>(), any::<u8>()).prop_map(|(which, outcome)| Step::Open(which, outcome)),
        6 => any::<usize>().prop_map(Step::Free),
        1 => Just(Step::Crash),
        1 => (0..6_usize).prop_map(Step::Drain),
        1 => (1..8_u32).prop_map(Step::Budget),
        2 => (0..3000_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_books_balance(
        budget in 1..8_u32,
        connects in 1..4_u32,
        busy in 1..5_u32,
        max_connections in 1..4_u32,
        max_waiting in 1..6_u32,
        weight in 1..3_u32,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let limits = Limits { max_connections, max_waiting, weight, ..Limits::default() };
        let mut world = World::new(budget, connects, busy, 6, &limits);
        for step in steps {
            match step {
                Step::Ask(tenant) => world.ask(tenant),
                Step::Abandon(which) => world.abandon(which),
                Step::End(which, clean) => world.end(which, clean),
                Step::Open(which, outcome) => world.open(which, outcome),
                Step::Free(which) => world.free(which),
                Step::Crash => world.crash(),
                Step::Drain(tenant) => {
                    let id = world.tenants[tenant].id.clone();
                    world.with(|ledger, _, orders| ledger.drain(&id, orders));
                }
                Step::Budget(budget) => {
                    world.with(|ledger, now, orders| ledger.set_budget(budget, now, orders));
                }
                Step::Pass(ms) => {
                    world.now += Duration::from_millis(ms);
                    world.with(|ledger, now, orders| ledger.reap(now, orders));
                }
            }
            world.check();
        }
        world.settle();
        // At rest every connection that is open is idle.
        let idle: usize = world.ledger.accounts.iter().map(|(_, account)| account.idle.len()).sum();
        prop_assert_eq!(world.ledger.taken as usize, idle);
        // And after the idle timeout nothing is left, not even an account.
        world.now += Duration::from_secs(3600);
        world.with(|ledger, now, orders| ledger.reap(now, orders));
        while !world.closing.is_empty() {
            world.free(0);
        }
        world.with(|ledger, now, orders| ledger.reap(now, orders));
        prop_assert_eq!((world.ledger.taken, world.ledger.accounts.len(), world.ledger.keys.len()), (0, 0, 0));
    }
}

fn limits(max_connections: u32) -> Limits {
    Limits { max_connections, ..Limits::default() }
}

#[test]
fn a_cold_tenant_hit_by_a_hundred_opens_what_it_may_and_few_at_a_time() {
    let mut world = World::new(50, 4, 8, 1, &limits(6));
    for _ in 0..100 {
        world.ask(0);
    }
    assert_eq!(world.opening.len(), 4);
    for _ in 0..4 {
        world.open(0, 15);
    }
    assert_eq!(world.opening.len(), 2, "up to its maximum");
    world.settle();
    assert_eq!(world.served[0], 100);
}

#[test]
fn one_request_opens_one_connection_and_its_end_leaves_no_more() {
    let mut world = World::new(50, 4, 8, 1, &limits(6));
    world.ask(0);
    assert_eq!(world.opening.len(), 1);
    world.settle();
    assert_eq!(world.ledger.taken, 1);
}

#[test]
fn a_flood_leaves_a_quiet_tenant_its_connection() {
    let mut world = World::new(4, 2, 8, 2, &limits(10));
    world.ask(0);
    world.settle();
    // The quiet one pauses, and the flood wants all four.
    for _ in 0..50 {
        world.ask(1);
    }
    world.now += PROTECTED / 2;
    for _ in 0..20 {
        world.open(0, 15);
        world.free(0);
        world.collect();
    }
    assert_eq!(world.ledger.keys.len(), 2);
    let quiet = world.ledger.keys[&world.tenants[0].id];
    assert_eq!(world.ledger.accounts[quiet].idle.len(), 1, "protected");
    world.now += PROTECTED;
    world.with(|ledger, now, orders| ledger.reap(now, orders));
    assert_eq!(world.ledger.accounts[quiet].idle.len(), 0, "but not for ever");
    world.settle();
}

#[test]
fn who_has_none_comes_before_who_wants_more() {
    let mut world = World::new(2, 1, 8, 3, &limits(10));
    for _ in 0..10 {
        world.ask(0);
    }
    world.open(0, 15);
    world.open(0, 15);
    world.collect();
    assert_eq!(world.lent.len(), 2, "the whole budget");
    world.ask(1);
    // The flood's queue is served on, in batches, and then it gives a connection up.
    let mut returns = 0;
    while world.closing.is_empty() {
        for _ in 0..2 {
            world.ask(0);
        }
        world.end(0, true);
        world.collect();
        returns += 1;
        assert!(returns < 100, "it starves");
    }
    assert!(returns >= BATCH - 2, "serving its own first");
    world.free(0);
    assert_eq!(world.number(&world.opening[0].tenant), 1);
    world.settle();
}

#[test]
fn turns_go_round_by_weight() {
    let mut world = World::new(300, 1, 300, 2, &limits(100));
    let heavy = Limits { weight: 3, ..limits(100) };
    world.tenants[1] = tenant(1, &heavy);
    for _ in 0..60 {
        world.ask(0);
        world.ask(1);
    }
    let mut opened = [0, 0];
    for _ in 0..40 {
        opened[world.number(&world.opening[0].tenant)] += 1;
        world.open(0, 15);
    }
    assert_eq!(opened[0], 10);
}

#[test]
fn a_dead_server_is_told_of_at_once_and_one_asks_it_again() {
    let mut world = World::new(10, 4, 8, 3, &limits(4));
    world.ask(0);
    world.ask(1);
    world.open(0, 3);
    world.collect();
    assert!(world.waiting.is_empty(), "both were told");
    world.ask(2);
    assert!(world.waiting.is_empty(), "and so is whoever comes");
    world.now += Duration::from_secs(1);
    world.open(0, 15);
    world.settle();
    world.crash();
    while !world.closing.is_empty() {
        world.free(0);
    }
    world.ask(0);
    world.open(0, 3);
    world.now += Duration::from_secs(1);
    world.ask(1);
    world.ask(2);
    assert_eq!((world.opening.len(), world.waiting.len()), (1, 1), "one tries, for one");
    world.settle();
    assert_eq!(world.served[1], 1);
}
