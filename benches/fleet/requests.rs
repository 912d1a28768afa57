//! What requests see of other tenants: cold ones, many, and a neighbour's flood.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use manybox::pg::{self, Endpoint, Login};
use rand::distr::Distribution as _;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;

use crate::load::{Client, Request, wrk};
use crate::report::Scenario;
use crate::setting::{Setting, logins};
use crate::{Done, Scale, median, scenario};

/// Tenants of the scenarios `many-…`.
pub(crate) const MANY: usize = 300;
/// Their server's budget, and the clients that want more.
const BUDGET: u32 = 60;
const CLIENTS: usize = 600;

fn point(tenant: usize, id: usize) -> String {
    format!("/t{tenant}/items?id=eq.{}", 1 + id % 1000)
}

/// The first request of tenants that nobody has touched, against connecting and asking by hand.
pub(crate) async fn cold(setting: &mut Setting) -> Done<Scenario> {
    let router = setting.serve("").await?;
    let all = logins(setting, setting.has()).await?;
    let mut client = Client::connect(&router.http).await?;
    // The router itself is warm, and knows the edition's schema.
    client.get(&point(0, 0)).await?;
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    for (tenant, (endpoint, login, database)) in all.iter().enumerate().skip(1) {
        // Each on tenants of its own: the server, too, is faster at the second connection to a database.
        if tenant % 2 == 0 {
            let (status, _, took) = client.get(&point(tenant, 1)).await?;
            if status != 200 {
                return Err(format!("cold: {status}").into());
            }
            values.push(took.as_secs_f64() * 1e3);
        } else {
            let begun = Instant::now();
            let connection = pg::connect(endpoint, login, database).await?;
            connection.batch_execute("BEGIN READ ONLY; SET LOCAL ROLE anon").await?;
            connection
                .query("SELECT json_agg(i)::text FROM (SELECT * FROM public.items WHERE id = 1) i", &[])
                .await?;
            connection.batch_execute("COMMIT").await?;
            baselines.push(begun.elapsed().as_secs_f64() * 1e3);
            drop(connection);
        }
    }
    Ok(scenario("cold", "ms", values, baselines).at_most(1.1))
}

/// One client in a thread of its own, so that only the machine and not our runtime makes it wait.
fn quiet(address: String, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Done<Histogram<u64>>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut seen = Histogram::new(3)?;
            let mut client = Client::connect(&address).await?;
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (status, _, took) = client.get(&point(0, number)).await?;
                if status != 200 {
                    return Err(format!("the quiet tenant got {status}").into());
                }
                seen.record(took.as_micros() as u64)?;
                sleep(Duration::from_millis(2)).await;
            }
            Ok(seen)
        })
    })
}

/// A quiet tenant's latency, alone and beside another tenant's flood of 256 connections.
pub(crate) async fn fair(setting: &mut Setting, scale: Scale) -> Done<Vec<Scenario>> {
    let router = setting.serve("").await?;
    let points: Vec<_> = (0..1000).map(|n| Request::get(point(1, n))).collect();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let (mut alone50, mut beside50) = (Vec::new(), Vec::new());
    let (mut flood_alone, mut flood_beside) = (Vec::new(), Vec::new());
    let folder = setting.folder.path().to_owned();
    for round in 0..=scale.rounds {
        let listen = |stop: &Arc<AtomicBool>| quiet(router.http.clone(), Arc::clone(stop));
        let stop = Arc::new(AtomicBool::new(false));
        let client = listen(&stop);
        sleep(scale.run).await;
        stop.store(true, Ordering::Relaxed);
        let by_itself = client.join().map_err(|_| "the quiet client panicked")??;
        let undisturbed = wrk(&folder, &router.http, &points, 256, scale.run).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let client = listen(&stop);
        let flood = wrk(&folder, &router.http, &points, 256, scale.run).await?;
        stop.store(true, Ordering::Relaxed);
        let flooded = client.join().map_err(|_| "the quiet client panicked")??;
        if flood.failed + undisturbed.failed > 0 {
            return Err(format!("the flood: {} failed", flood.failed + undisturbed.failed).into());
        }
        if round > 0 {
            let at = |seen: &Histogram<u64>, q| seen.value_at_quantile(q) as f64 / 1e3;
            alone.push(at(&by_itself, 0.99));
            beside.push(at(&flooded, 0.99));
            alone50.push(at(&by_itself, 0.5));
            beside50.push(at(&flooded, 0.5));
            flood_alone.push(undisturbed.per_second);
            flood_beside.push(flood.per_second);
        }
    }
    Ok(vec![
        scenario("fair", "ms p99", beside, alone)
            .at_most(3.0)
            .detail("p50 ms", median(beside50))
            .detail("p50 alone ms", median(alone50)),
        scenario("fair-flood", "requests/s", flood_beside, flood_alone).at_least(0.8),
    ])
}

/// Which tenant a client asks next.
enum Choice {
    Uniform,
    /// Tenant n is asked in proportion to n^-1.1: a usual exponent for what is popular.
    Zipf,
}

/// 300 tenants, 60 connections, 600 clients, each of which asks another tenant each time.
pub(crate) async fn many(setting: &mut Setting, scale: Scale) -> Done<Vec<Scenario>> {
    let all = Arc::new(logins(setting, MANY).await?);
    let router = setting.serve(&format!("[servers.main.budget]\nmax_connections = {BUDGET}\n")).await?;
    let mut scenarios = Vec::new();
    for (name, choice, goal) in [("many-uniform", Choice::Uniform, 1.5), ("many-zipf", Choice::Zipf, 5.0)] {
        let (mut values, mut baselines) = (Vec::new(), Vec::new());
        let mut spread: Histogram<u64> = Histogram::new(3)?;
        let (mut most, mut evictions) = (0, 0.0);
        let weights: Vec<f64> = match choice {
            Choice::Uniform => vec![1.0; MANY],
            Choice::Zipf => (1..=MANY).map(|n| (n as f64).powf(-1.1)).collect(),
        };
        let weights = rand::distr::weighted::WeightedIndex::new(weights)?;
        for round in 0..scale.rounds {
            baselines.push(connects(&all, scale.run / 2).await?);
            let stop = Arc::new(AtomicBool::new(false));
            let referee = tokio::spawn(referee(setting.embedded.superuser_url(), Arc::clone(&stop)));
            let before = evicted(&router.admin).await;
            let begun = Instant::now();
            let clients: Vec<_> = (0..CLIENTS)
                .map(|n| {
                    let seed = (round * CLIENTS + n) as u64;
                    tokio::spawn(one_of_many(router.http.clone(), seed, weights.clone(), Arc::clone(&stop)))
                })
                .collect();
            sleep(scale.run).await;
            stop.store(true, Ordering::Relaxed);
            let mut served = 0;
            for client in clients {
                let own = client.await??;
                served += own;
                spread.record(own)?;
            }
            values.push(served as f64 / begun.elapsed().as_secs_f64());
            evictions += evicted(&router.admin).await - before;
            most = most.max(referee.await??);
        }
        if most > i64::from(BUDGET) {
            return Err(format!("{name}: {most} connections, and the budget is {BUDGET}").into());
        }
        let quantile = |q| spread.value_at_quantile(q) as f64;
        scenarios.push(
            scenario(name, "requests/s", values, baselines)
                .at_least(goal)
                .detail("most connections", most)
                .detail("evictions", evictions)
                .detail("requests of a client: least", spread.min() as f64)
                .detail("median", quantile(0.5))
                .detail("most", spread.max() as f64),
        );
    }
    Ok(scenarios)
}

/// Asks as fast as it is answered; how often it was. A request that fails fails the scenario.
async fn one_of_many(
    address: String,
    seed: u64,
    weights: rand::distr::weighted::WeightedIndex<f64>,
    stop: Arc<AtomicBool>,
) -> Done<u64> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut client = Client::connect(&address).await?;
    let mut served = 0;
    while !stop.load(Ordering::Relaxed) {
        let path = point(weights.sample(&mut random), random.random_range(0..1000));
        let (status, body, _) = client.get(&path).await?;
        if status != 200 {
            return Err(format!("{path}: {status} {}", String::from_utf8_lossy(&body)).into());
        }
        served += 1;
    }
    Ok(served)
}

/// Connections a second that the server opens and closes, four at a time, as the tenants.
async fn connects(all: &Arc<Vec<(Endpoint, Login, String)>>, run: Duration) -> Done<f64> {
    let begun = Instant::now();
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let all = Arc::clone(all);
            tokio::spawn(async move {
                let mut opened = 0_u32;
                for number in 0.. {
                    if begun.elapsed() >= run {
                        break;
                    }
                    let (endpoint, login, database) = &all[(number * 4 + worker) % all.len()];
                    let connection = pg::connect(endpoint, login, database).await?;
                    connection.batch_execute("SELECT 1").await?;
                    connection.close().await;
                    opened += 1;
                }
                Done::Ok(opened)
            })
        })
        .collect();
    let mut opened = 0;
    for worker in workers {
        opened += worker.await??;
    }
    Ok(f64::from(opened) / begun.elapsed().as_secs_f64())
}

/// The most connections of tenants that were seen at once.
async fn referee(superuser: String, stop: Arc<AtomicBool>) -> Done<i64> {
    let (endpoint, _) = Endpoint::parse("bench", &superuser, None)?;
    let nobody = Login { user: "postgres".into(), password: None };
    let connection = pg::connect(&endpoint, &nobody, "postgres").await?;
    let mut most = 0;
    while !stop.load(Ordering::Relaxed) {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = datname AND datname LIKE 'mb\\_%'";
        most = most.max(connection.query_one(sql, &[]).await?.try_get(0)?);
        sleep(Duration::from_millis(20)).await;
    }
    Ok(most)
}

/// Connections closed so far to make room for others; from the router's metrics.
async fn evicted(admin: &str) -> f64 {
    let metrics = crate::load::get(admin, "/metrics").await.map(|(_, body)| body).unwrap_or_default();
    let text = String::from_utf8_lossy(&metrics).into_owned();
    let line = text.lines().find(|line| line.starts_with("manybox_evictions_total"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}
