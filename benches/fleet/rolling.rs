//! What a rollout costs those who are served meanwhile: half of what the machine can do, while every tenant gets a column
//! and an index.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::load::{Client, Request};
use crate::report::Scenario;
use crate::setting::Setting;
use crate::{Done, Failure, Scale};

pub(crate) const TENANTS: usize = 100;
const CLIENTS: usize = 64;
/// A busy fleet is migrated one database at a time.
const POLICY: &str = "[[rollouts.default.waves]]\nname = 'all'\njobs = 1\n";

/// Latencies of requests from when they were due, and how many were answered otherwise than with 2xx.
struct Seen {
    latencies: Histogram<u64>,
    failed: Vec<u16>,
}

impl Seen {
    fn p99(&self) -> f64 {
        self.latencies.value_at_quantile(0.99) as f64 / 1e3
    }
}

/// Three reads of a row and one insert, each of another tenant.
fn request(number: usize) -> Request {
    let tenant = number.wrapping_mul(37) % TENANTS;
    match number % 4 {
        0 => Request {
            method: "POST",
            path: format!("/t{tenant}/orders"),
            body: r#"{"item":7,"quantity":1,"note":"x"}"#.into(),
        },
        _ => Request::get(format!("/t{tenant}/items?id=eq.{}", 1 + number % 1000)),
    }
}

/// Clients that send until they are told to stop: each its next request when it is due, every `interval` one of all of
/// them, or, without an interval, as soon as it has an answer.
async fn load(address: &str, interval: Option<Duration>, stop: &Arc<AtomicBool>) -> Done<Seen> {
    let begun = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (address, stop) = (address.to_owned(), Arc::clone(stop));
            tokio::spawn(async move {
                let mut connection = Client::connect(&address).await?;
                let mut seen = Seen { latencies: Histogram::new(3)?, failed: Vec::new() };
                for number in (client..).step_by(CLIENTS) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut waited = Duration::ZERO;
                    if let Some(interval) = interval {
                        let due = begun + interval.mul_f64(number as f64);
                        let now = Instant::now();
                        // Late because of the request before it: that is a wait of this one.
                        waited = now.saturating_duration_since(due);
                        tokio::time::sleep(due.saturating_duration_since(now)).await;
                    }
                    let (status, _, took) = connection.send(&request(number)).await?;
                    seen.latencies.record((waited + took).as_micros() as u64)?;
                    if !(200..300).contains(&status) {
                        seen.failed.push(status);
                    }
                }
                Ok::<_, Failure>(seen)
            })
        })
        .collect();
    let mut all = Seen { latencies: Histogram::new(3)?, failed: Vec::new() };
    for client in clients {
        let seen = client.await??;
        all.latencies.add(seen.latencies)?;
        all.failed.extend(seen.failed);
    }
    Ok(all)
}

/// The same for so long.
async fn load_for(address: &str, interval: Option<Duration>, lasts: Duration) -> Done<Seen> {
    let stop = Arc::new(AtomicBool::new(false));
    let (seen, ()) = tokio::join!(load(address, interval, &stop), async {
        tokio::time::sleep(lasts).await;
        stop.store(true, Ordering::Relaxed);
    });
    seen
}

/// p99 of all requests during a rollout against p99 before it, at half of what saturates the machine.
pub(crate) async fn rolling(setting: &mut Setting, scale: Scale) -> Done<Vec<Scenario>> {
    let router = setting.serve(POLICY).await?;
    // Everybody has been asked once, and has connections.
    load_for(&router.http, None, scale.run).await?;
    let most = load_for(&router.http, None, scale.run).await?;
    let per_second = most.latencies.len() as f64 / scale.run.as_secs_f64();
    let interval = Some(Duration::from_secs_f64(2.0 / per_second));
    let mut rounds = Vec::new();
    let (mut answered, mut took) = (0, 0.0);
    for round in 0..scale.rounds {
        let before = load_for(&router.http, interval, scale.run * 2).await?;
        let folder = setting.folder.path().join("migrations/bench");
        let next = std::fs::read_dir(&folder)?.count() + 1;
        let column = format!("ALTER TABLE items ADD COLUMN note_{round} text NOT NULL DEFAULT '';\n");
        std::fs::write(folder.join(format!("V{next}__note_{round}.sql")), column)?;
        let index = format!(
            "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY orders_by_item_{round} ON orders (item);\n"
        );
        std::fs::write(folder.join(format!("V{}__index_{round}.sql", next + 1)), index)?;
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let (during, migrated) = tokio::join!(load(&router.http, interval, &stop), async {
            let migrated = setting.manybox_beside(&["migrate"]).await;
            stop.store(true, Ordering::Relaxed);
            migrated
        });
        migrated?;
        took = begun.elapsed().as_secs_f64();
        let during = during?;
        for seen in [&before, &during] {
            if !seen.failed.is_empty() {
                return Err(
                    format!("rollout: {} requests failed: {:?}", seen.failed.len(), seen.failed).into()
                );
            }
        }
        answered += during.latencies.len();
        rounds.push((during.p99(), before.p99()));
    }
    let scenario = crate::middle("rollout", "ms p99", rounds).at_most(2.0);
    Ok(vec![
        scenario
            .detail("answered", answered)
            .detail("seconds", took)
            .detail("requests/s", per_second / 2.0)
            .detail("tenants", TENANTS),
    ])
}
