//! The budget: never more connections than it says, for whatever tenants do, and nobody is forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use manybox::pool::{Breaker, Budget, End, Error, Pools, ServerStatus, Timeouts, Wait, end_batch};
use manybox::tenant::Tenant;

use crate::support::{TestFleet, eventually, private_server};

const SLUGS: &[&str] = &["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"];

async fn tenants(fleet: &TestFleet) -> Vec<Arc<Tenant>> {
    futures_util::future::join_all(SLUGS.iter().map(|slug| fleet.tenant(slug))).await
}

fn limited(tenant: &Tenant, change: impl FnOnce(&mut manybox::policy::Limits)) -> Arc<Tenant> {
    let mut tenant = tenant.clone();
    change(&mut tenant.limits);
    Arc::new(tenant)
}

fn budget(total: u32) -> Budget {
    Budget { total: Some(total), ..Budget::default() }
}

fn status(pools: &Pools) -> ServerStatus {
    pools.servers().remove(0)
}

/// Numbers that look random and are the same each time.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Requests that end in every way there is, at random moments, on more tenants than the budget has connections.
async fn storm(pools: Pools, tenants: Vec<Arc<Tenant>>, mut seed: u64, served: Arc<AtomicU32>) {
    for _ in 0..60 {
        let tenant = &tenants[random(&mut seed) as usize % tenants.len()];
        let way = random(&mut seed) % 8;
        let request = async {
            let mut checkout = pools.checkout(tenant).await?;
            let wire = checkout.wire();
            match way {
                0 => drop(wire.run("SELECT pg_sleep(60)").await),
                1 => drop(checkout),
                2 => {
                    let _ = wire.run("BEGIN; SELECT 1/0").await;
                    wire.run(&end_batch(End::Rollback)).await.unwrap();
                    checkout.clean();
                }
                _ => {
                    wire.run("BEGIN").await.unwrap();
                    wire.run(&end_batch(End::Commit)).await.unwrap();
                    checkout.clean();
                }
            }
            served.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Error>(())
        };
        let patience = Duration::from_micros(if way < 3 { random(&mut seed) % 20_000 } else { 20_000_000 });
        if let Ok(Err(error)) = tokio::time::timeout(patience, request).await {
            panic!("{error}");
        }
    }
}

/// The referees: PostgreSQL's own limit leaves room for not one connection more than the budget, and each login may
/// have just as many as its tier says. A slot that were given away before the server has let go of it would be
/// refused (53300), and the request with it.
#[tokio::test]
async fn a_storm_of_dying_requests_stays_within_the_budget_and_loses_no_slot() {
    const BUDGET: u32 = 6;
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("own"), false).await;
    let fleet = TestFleet::builder().tenants(SLUGS).build_on(&server.admin_url()).await;
    let admin = fleet.admin("t0").await;
    let mut tenants = tenants(&fleet).await;
    for tenant in &mut tenants {
        *tenant = limited(tenant, |limits| {
            limits.max_connections = 2;
            limits.acquire_timeout = Duration::from_secs(60);
        });
        let login = tenant.id.database();
        admin.batch_execute(&format!("ALTER ROLE {login} CONNECTION LIMIT 2")).await.unwrap();
    }
    let pools = fleet.pools(budget(BUDGET));
    let (over, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let watcher = {
        let (over, stop, pools) = (Arc::clone(&over), Arc::clone(&stop), pools.clone());
        tokio::spawn(async move {
            let sql =
                "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'mb\\_%' AND datname LIKE 'mb\\_%'
                       AND usename = datname";
            while !stop.load(Ordering::Relaxed) {
                let seen: i64 = admin.query_one(sql, &[]).await.unwrap().get(0);
                over.fetch_max(u32::try_from(seen).unwrap(), Ordering::Relaxed);
                assert!(status(&pools).open <= BUDGET);
            }
        })
    };
    let served = Arc::new(AtomicU32::new(0));
    let clients =
        (0..40).map(|n| tokio::spawn(storm(pools.clone(), tenants.clone(), n, Arc::clone(&served))));
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    eventually("everything is at rest", || async {
        let now = status(&pools);
        now.open == now.idle && now.waiting == 0
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    watcher.await.unwrap();
    let (over, end) = (over.load(Ordering::Relaxed), status(&pools));
    assert!(over <= BUDGET, "{over} backends");
    assert!(over >= BUDGET - 1, "the storm was a breeze: {over} backends");
    assert_eq!((end.connect_failures, end.timeouts), (0, Timeouts::default()), "{end:?}");
    assert!(end.evictions > 0 && served.load(Ordering::Relaxed) > 1000, "{end:?}");
    // Every slot can be used again.
    let tenant = |n: usize| Arc::clone(&tenants[n % tenants.len()]);
    let all: Vec<_> = (0..BUDGET as usize).map(tenant).collect();
    let all = futures_util::future::join_all(all.iter().map(|tenant| pools.checkout(tenant))).await;
    assert!(all.iter().all(Result::is_ok));
    drop(all);
    pools.close().await;
    assert_eq!(status(&pools).open, 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn each_wait_says_what_ran_out() {
    let fleet = TestFleet::builder().tenants(&["acme", "other"]).build().await;
    let limits = |limits: &mut manybox::policy::Limits| {
        limits.max_connections = 2;
        limits.max_waiting = 1;
        limits.acquire_timeout = Duration::from_millis(200);
    };
    let (acme, other) =
        (limited(&*fleet.tenant("acme").await, limits), limited(&*fleet.tenant("other").await, limits));
    let pools = fleet.pools(budget(2));
    let first = pools.checkout(&acme).await.unwrap();
    let second = pools.checkout(&acme).await.unwrap();
    let (own, foreign) = tokio::join!(pools.checkout(&acme), pools.checkout(&other));
    assert!(matches!(own.err(), Some(Error::Wait { wait: Wait::Tenant, .. })));
    assert!(matches!(foreign.err(), Some(Error::Wait { wait: Wait::Budget, .. })));
    // The queue is bounded, and whoever goes away leaves his place to the next.
    for _ in 0..3 {
        let waiting = pools.checkout(&acme);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let refused = pools.checkout(&acme).await.err();
        assert!(matches!(refused, Some(Error::Queue { max: 1, .. })), "{refused:?}");
    }
    assert_eq!(status(&pools).waiting, 0);
    first.clean();
    second.clean();
    assert_eq!(status(&pools).timeouts, Timeouts { budget: 1, tenant: 1, connect: 0, queue: 3 });
}

#[tokio::test]
async fn who_is_idle_gives_way_and_comes_back() {
    let fleet = TestFleet::builder().tenants(SLUGS).build().await;
    let tenants = tenants(&fleet).await;
    let pools = fleet.pools(budget(2));
    for _ in 0..2 {
        for tenant in &tenants {
            pools.checkout(tenant).await.unwrap().clean();
        }
    }
    let end = status(&pools);
    assert_eq!((end.open, end.idle, end.connects, end.evictions), (2, 2, 20, 18));
}

#[tokio::test]
async fn the_budget_is_what_the_server_has_less_the_reserve() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let acme = fleet.tenant("acme").await;
    let pools = fleet.pools(Budget { reserve: 250, ..Budget::default() });
    assert_eq!(status(&pools).budget, 4, "until the server was asked");
    pools.checkout(&acme).await.unwrap().clean();
    // 300, of which PostgreSQL keeps 3 for superusers.
    assert_eq!(status(&pools).budget, 47);
}

#[tokio::test]
async fn a_tenant_that_is_refused_fails_alone() {
    let fleet = TestFleet::builder().tenants(&["acme", "gone"]).build().await;
    let (acme, gone) = (fleet.tenant("acme").await, fleet.tenant("gone").await);
    let admin = fleet.admin("acme").await;
    admin.batch_execute(&format!("DROP DATABASE {}", gone.id.database())).await.unwrap();
    let pools = fleet.pools(budget(4));
    let refused = futures_util::future::join_all((0..50).map(|_| pools.checkout(&gone))).await;
    assert!(refused.iter().all(|r| matches!(r, Err(Error::Fenced { .. }))));
    assert_eq!(status(&pools).breaker, Breaker::Closed);
    assert!(status(&pools).connect_failures <= 4, "one refusal answers all who wait");
    pools.checkout(&acme).await.unwrap().clean();
}

/// A server that takes connections and says nothing, and one whose tenants must not notice.
#[tokio::test]
async fn a_silent_server_stalls_nobody_elses_tenants() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let acme = fleet.tenant("acme").await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://{}/postgres", silent.local_addr().unwrap());
    let dead = manybox::pg::Endpoint::parse("dead", &url, None).unwrap().0;
    let mut servers: std::collections::HashMap<_, _> =
        fleet.fleet.servers.endpoints().into_iter().map(|(name, e)| (name, (e, budget(4)))).collect();
    servers.insert("dead".into(), (dead, budget(4)));
    let pools = Pools::new(servers, Arc::clone(&fleet.fleet.keys));
    let mut record = (**acme).clone();
    record.server = "dead".into();
    let stuck = Arc::new(Tenant::new(record, acme.limits.clone(), acme.api.clone()));
    let stuck = futures_util::future::join_all((0..50).map(|_| pools.checkout(&stuck)));
    tokio::pin!(stuck);
    assert!(futures_util::poll!(&mut stuck).is_pending());
    for _ in 0..100 {
        pools.checkout(&acme).await.unwrap().clean();
    }
    assert!(futures_util::poll!(&mut stuck).is_pending(), "acme was served meanwhile");
}

/// Each client asks without a pause while PostgreSQL is killed and restarted: what was in flight may fail as 503, and
/// nothing else ever does.
#[tokio::test]
async fn a_killed_server_under_load_costs_503s_and_no_more() {
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("own"), false).await;
    let mut fleet = TestFleet::builder().tenants(&SLUGS[..5]).build_on(&server.admin_url()).await;
    fleet.start_router().await;
    let fleet = Arc::new(fleet);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..20)
        .map(|n| {
            let (fleet, stop) = (Arc::clone(&fleet), Arc::clone(&stop));
            tokio::spawn(async move {
                let path = format!("/t{}/items", n % 5);
                let (mut down, mut good) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let answer = fleet.get(&path).await;
                    match answer.status.as_u16() {
                        200 => good += 1,
                        503 => {
                            assert!(answer.headers.contains_key("retry-after"), "{}", answer.text);
                            down += 1;
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        other => panic!("{other} {}", answer.text),
                    }
                }
                (down, good)
            })
        })
        .collect();
    let pools = fleet.app.as_ref().unwrap().pools.clone();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let pid = server.postmaster_pid().unwrap();
        std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        eventually("the router has noticed", || async { status(&pools).breaker != Breaker::Closed }).await;
        let supervisor = server.supervise();
        eventually("it runs again", || async { server.postmaster_pid().is_some_and(|now| now != pid) }).await;
        eventually("service is whole", || async {
            status(&pools).breaker == Breaker::Closed && fleet.get("/t0/items").await.status == 200
        })
        .await;
        supervisor.abort();
        // From now on nobody is refused: no connection of before the crash is handed out.
        for slug in &SLUGS[..5] {
            let answer = fleet.get(&format!("/{slug}/items")).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (down, good) = client.await.unwrap();
        assert!(down > 0 && good > 0, "{down} {good}");
    }
    eventually("everything is at rest", || async { status(&pools).open == status(&pools).idle }).await;
    server.stop().await.unwrap();
}

/// Two routers beside each other, as during a deploy: their shares never add up to more than the total.
#[tokio::test]
async fn routers_share_the_budget_and_leave_it_to_each_other() {
    const TOTAL: u32 = 12;
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("own"), false).await;
    let toml = format!("[servers.main.budget]\nmax_connections = {TOTAL}");
    let fleet = TestFleet::builder().toml(&toml).tenants(SLUGS).build_on(&server.admin_url()).await;
    let tenants = tenants(&fleet).await;
    let first = fleet.app().await;
    eventually("the first has all", || async { status(&first.pools).budget == TOTAL }).await;
    let held = futures_util::future::join_all(tenants.iter().map(|t| first.pools.checkout(t))).await;
    assert_eq!(status(&first.pools).open, 10);
    let second = fleet.app().await;
    // What the first still uses is not given to the second, which wants nothing, but has the minimum.
    eventually("the first's share has shrunk", || async { status(&first.pools).budget == 8 }).await;
    eventually("the second has the rest", || async { status(&second.pools).budget == 2 }).await;
    for mut checkout in held.into_iter().flatten() {
        let both = status(&first.pools).open + status(&second.pools).budget;
        assert!(both <= TOTAL, "{both}");
        checkout.wire().run(&end_batch(End::Rollback)).await.unwrap();
        checkout.clean();
    }
    eventually("the second has the minimum", || async { status(&second.pools).budget == 4 }).await;
    // Now it wants more.
    let held = futures_util::future::join_all(tenants[..6].iter().map(|t| second.pools.checkout(t))).await;
    assert!(held.iter().all(Result::is_ok));
    let both = status(&first.pools).open + status(&second.pools).open;
    assert!(both <= TOTAL, "{both}");
    drop(held);
    first.stop().await;
    eventually("the second has all", || async { status(&second.pools).budget == TOTAL }).await;
    second.stop().await;
    server.stop().await.unwrap();
}
