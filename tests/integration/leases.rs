//! Leases: routers share a server's connections exactly, by what they can use, and a dead one holds nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use manybox::catalog::{Demand, Lease, Leases, Reader};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::support::router::Router;
use crate::support::{TestFleet, eventually, private_server};

const TOTAL: u32 = 12;

fn reader(fleet: &TestFleet) -> Reader {
    let endpoint = fleet.fleet.servers.endpoints().remove("main").unwrap();
    Reader::new(endpoint, Arc::clone(&fleet.fleet.keys), fleet.fleet.settings.catalog.database.clone())
}

/// A router that obeys its leases, without anything that it leases.
struct Model {
    name: String,
    leases: Leases,
    /// What it may hold.
    budget: u32,
    held: u32,
    wanted: u32,
}

impl Model {
    async fn open(reader: &Reader, name: &str, wanted: u32) -> Self {
        let leases = reader.open_leases(name).await.unwrap();
        Self { name: name.into(), leases, budget: 0, held: 0, wanted }
    }

    /// The most that it may hold until it takes up another share.
    fn used(&self) -> u32 {
        self.budget.max(self.held)
    }

    async fn ask(&mut self) -> Lease {
        let demand = Demand { total: Some(TOTAL), used: self.used(), wanted: self.wanted, minimum: 4 };
        self.leases.renew("main", demand).await.unwrap()
    }

    async fn renew(&mut self) -> Lease {
        let lease = self.ask().await;
        self.budget = lease.share;
        lease
    }

    /// Twice: what a smaller share leaves is free for others once the router has taken it up.
    async fn settle(&mut self) -> u32 {
        self.renew().await;
        self.renew().await.share
    }
}

#[tokio::test]
async fn shares_follow_what_routers_can_use() {
    let fleet = TestFleet::builder().build().await;
    let reader = reader(&fleet);
    let mut first = Model::open(&reader, "first", 0).await;
    assert_eq!(first.settle().await, TOTAL, "alone it has all");
    let mut second = Model::open(&reader, "second", 0).await;
    assert_eq!(second.settle().await, 0, "the other one has not let go of any");
    assert_eq!(
        (first.settle().await, second.settle().await),
        (6, 6),
        "who wants nothing has as much as the other"
    );
    first.wanted = 20;
    assert_eq!(first.settle().await, 6);
    assert_eq!((second.settle().await, first.settle().await), (4, 8), "but the minimum");
    second.wanted = 5;
    second.settle().await;
    assert_eq!((first.settle().await, second.settle().await), (7, 5));
    second.wanted = 30;
    second.settle().await;
    assert_eq!((first.settle().await, second.settle().await), (6, 6), "both want too much");
    (first.wanted, second.wanted) = (1, 2);
    first.settle().await;
    second.settle().await;
    assert_eq!((first.settle().await, second.settle().await), (6, 6), "what nobody wants is divided");
    let mut third = Model::open(&reader, "third", 1).await;
    third.settle().await;
    first.settle().await;
    second.settle().await;
    assert_eq!(third.settle().await, 4);
    second.leases.end().await.unwrap();
    drop(second);
    first.settle().await;
    third.settle().await;
    let lease = first.renew().await;
    assert_eq!((lease.share, lease.total), (6, TOTAL));
    let mut holders: Vec<_> = lease.holders.iter().map(|h| (h.router.as_str(), h.share, h.lost)).collect();
    holders.sort_unstable();
    assert_eq!(holders, [("first", 6, false), ("third", 6, false)]);
}

#[tokio::test]
async fn a_router_whose_session_is_gone_holds_nothing() {
    let fleet = TestFleet::builder().build().await;
    let reader = reader(&fleet);
    let mut dead = Model::open(&reader, "dead", 20).await;
    assert_eq!(dead.settle().await, TOTAL);
    let mut next = Model::open(&reader, "next", 20).await;
    assert_eq!(next.settle().await, 0);
    // As kill -9 does: nothing is said.
    drop(dead);
    let next = Arc::new(tokio::sync::Mutex::new(next));
    eventually("the next one has what it needs to serve", || async {
        next.lock().await.renew().await.share >= 4
    })
    .await;
    eventually("and then all", || async { next.lock().await.renew().await.share == TOTAL }).await;
    assert_eq!(next.lock().await.renew().await.holders.len(), 1);
}

#[tokio::test]
async fn a_router_that_lost_its_session_finds_its_lease_again() {
    let fleet = TestFleet::builder().build().await;
    let reader = reader(&fleet);
    let mut first = Model::open(&reader, "first", 20).await;
    let mut second = Model::open(&reader, "second", 20).await;
    first.settle().await;
    second.settle().await;
    assert_eq!((first.settle().await, second.settle().await), (6, 6));
    let admin = fleet.admin_of_catalog().await;
    let sql = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
               WHERE datname = current_database() AND usename = current_database() || '_router'";
    admin.query_one(sql, &[]).await.unwrap();
    let asked =
        second.leases.renew("main", Demand { total: Some(TOTAL), used: 6, wanted: 20, minimum: 4 }).await;
    assert!(asked.is_err(), "it had a session");
    second.leases = reader.open_leases("second").await.unwrap();
    let lease = second.renew().await;
    let lost: Vec<_> = lease.holders.iter().filter(|h| h.lost).map(|h| h.router.as_str()).collect();
    assert_eq!((lease.share, lost), (6, vec!["first"]), "the other one is there, for all that anybody knows");
}

/// Whatever routers do, and whenever their sessions break: what all may hold is never more than there is.
#[tokio::test]
async fn the_budget_is_exact_at_each_moment() {
    let fleet = TestFleet::builder().build().await;
    let reader = reader(&fleet);
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut routers: Vec<Model> = Vec::new();
        let mut names = 0;
        for step in 0..120 {
            let (count, act) = (routers.len(), random.random_range(0..10));
            let which = random.random_range(0..count.max(1));
            if count == 0 || (act == 0 && count < 5) {
                names += 1;
                let wanted = random.random_range(0..20);
                routers.push(Model::open(&reader, &format!("{seed}-{names}"), wanted).await);
                continue;
            }
            if act == 6 && count > 1 {
                let gone = routers.swap_remove(which);
                if random.random_bool(0.5) {
                    gone.leases.end().await.unwrap();
                }
                continue;
            }
            let router = &mut routers[which];
            match act {
                // Its answer is lost.
                1 => drop(router.ask().await),
                // It has a new session, before the old one has ended.
                2 => router.leases = reader.open_leases(&router.name).await.unwrap(),
                3 => router.wanted = random.random_range(0..20),
                4 => router.held = router.held.saturating_sub(random.random_range(0..6)),
                5 => router.held = router.held.max(random.random_range(0..=router.budget)),
                _ => drop(router.renew().await),
            }
            let all: u32 = routers.iter().map(Model::used).sum();
            assert!(all <= TOTAL, "seed {seed}, step {step}: {all} of {TOTAL}");
        }
        for router in routers {
            router.leases.end().await.unwrap();
        }
    }
}

/// A crash of the catalog's server ends all sessions at once, and tells nothing of routers.
#[tokio::test]
async fn after_a_crash_of_the_catalogs_server_old_shares_count() {
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("own"), false).await;
    let fleet = TestFleet::builder().build_on(&server.admin_url()).await;
    let reader = reader(&fleet);
    let mut first = Model::open(&reader, "first", 20).await;
    let mut second = Model::open(&reader, "second", 20).await;
    first.settle().await;
    second.settle().await;
    assert_eq!((first.settle().await, second.settle().await), (6, 6));
    // One process of the server dies, and it starts all others anew: the postmaster's own start stays what it was.
    let victim = fleet.admin_of_catalog().await;
    let pid: i32 = victim.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    eventually("all sessions have ended", || async { !first.leases.is_open() && !second.leases.is_open() })
        .await;
    eventually("it is up again", || async { reader.open_leases("second").await.is_ok() }).await;
    second.leases = reader.open_leases("second").await.unwrap();
    // Longer than a lost session's lease lasts otherwise.
    for _ in 0..12 {
        assert_eq!(second.renew().await.share, 6, "the other one may live");
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    first.leases = reader.open_leases("first").await.unwrap();
    assert_eq!(first.renew().await.share, 6);
    server.stop().await.unwrap();
}

/// Killed under load and started again, it serves: its dead predecessor holds nothing.
#[tokio::test]
async fn a_killed_router_serves_again_when_it_is_back() {
    let slugs = ["t0", "t1", "t2", "t3", "t4"];
    let toml = format!("[servers.main.budget]\nmax_connections = {TOTAL}");
    for others in [0, 1] {
        let fleet = TestFleet::builder().toml(&toml).tenants(&slugs).build().await;
        let mut beside = Vec::new();
        for _ in 0..others {
            beside.push(Router::start(&fleet, &[]).await);
        }
        let router = Router::start(&fleet, &[]).await;
        let (http, stop) = (router.http.clone(), Arc::new(AtomicBool::new(false)));
        let clients: Vec<_> = (0..20)
            .map(|n| {
                let (url, stop) = (format!("http://{http}/t{}/items", n % 5), Arc::clone(&stop));
                tokio::spawn(async move {
                    let client = reqwest::Client::new();
                    while !stop.load(Ordering::Relaxed) {
                        if client.get(&url).send().await.is_err() {
                            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                        }
                    }
                })
            })
            .collect();
        let servers = router.of_admin("/servers");
        let holds = |least: u64| {
            let servers = servers.clone();
            move || {
                let servers = servers.clone();
                async move {
                    let Ok(answer) = reqwest::get(&servers).await else { return false };
                    answer
                        .json::<serde_json::Value>()
                        .await
                        .is_ok_and(|told| told[0]["budget"].as_u64() >= Some(least))
                }
            }
        };
        let least = if others == 0 { u64::from(TOTAL) } else { 4 };
        eventually("it has its share", holds(least)).await;
        let addresses = router.kill();
        let router = Router::begin(&fleet, addresses, &[]);
        eventually("it serves", || async {
            reqwest::get(router.url("/t0/items")).await.is_ok_and(|a| a.status() == 200)
        })
        .await;
        eventually("and has its whole share again", holds(least)).await;
        let told = router.told("/servers").await;
        eventually("its dead predecessor is forgotten", || async {
            let told = router.told("/servers").await;
            told[0]["holders"].as_array().is_some_and(|all| all.len() == others + 1)
        })
        .await;
        assert_eq!(told[0]["total"], u64::from(TOTAL));
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
    }
}

#[tokio::test]
async fn who_holds_the_budget_is_named() {
    let toml = "[servers.main.budget]\nmax_connections = 4\n[tiers.standard]\nacquire_timeout = '300ms'";
    let fleet = TestFleet::builder().toml(toml).tenants(&["acme"]).build().await;
    let reader = reader(&fleet);
    let mut hog = reader.open_leases("hog").await.unwrap();
    let demand = Demand { total: Some(4), used: 0, wanted: 4, minimum: 4 };
    assert_eq!(hog.renew("main", demand).await.unwrap().share, 4);
    let router = Router::start(&fleet, &[]).await;
    let refused = reqwest::get(router.url("/acme/items")).await.unwrap();
    assert_eq!(refused.status(), 503);
    let refused: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(refused["code"], "MBX204");
    let details = refused["details"].as_str().unwrap();
    assert!(
        details.contains("0 of the 4 connections") && details.contains("router hog holds up to 4"),
        "{details}"
    );
    assert!(!details.contains("local"), "where it is tells nobody's client anything: {details}");
    let mut top = fleet.program(&["top", "--once", "--interval", "100ms", "--admin", &router.admin]);
    let top = tokio::task::spawn_blocking(move || top.output()).await.unwrap().unwrap();
    let top = String::from_utf8_lossy(&top.stdout).into_owned();
    assert!(top.contains("main is shared: hog (at local) 4, wants 4"), "{top}");
    let metrics = reqwest::get(router.of_admin("/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("manybox_budget_held{server=\"main\",holder=\"others\"} 4"), "{metrics}");
    assert!(metrics.contains("manybox_budget_total{server=\"main\"} 4"), "{metrics}");
}
