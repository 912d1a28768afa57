//! The ledger under random schedules: requests, their deaths at any moment, a server's good and bad days.

#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use proptest::prelude::*;

use super::turns::PROTECTED;
use super::*;
use crate::policy::Limits;
use world::{Update, World, tenant};

#[derive(Debug, Clone)]
enum Step {
    Ask(usize),
    Abandon(usize),
    End(usize, bool),
    Open(usize, u8),
    Free(usize),
    Crash,
    Drain(usize),
    Update(usize, Update),
    Budget(u32),
    Pass(u64),
}

fn update() -> impl Strategy<Value = Update> {
    prop_oneof![
        (1..6_u32).prop_map(Update::MaxConnections),
        (1..9_u64).prop_map(Update::StatementTimeout),
        Just(Update::Password),
        Just(Update::Server),
        Just(Update::Lineage),
    ]
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
        2 => (0..6_usize, update()).prop_map(|(tenant, update)| Step::Update(tenant, update)),
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
                Step::Update(tenant, update) => world.update(tenant, update),
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
