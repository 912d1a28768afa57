//! Scrape: the router's state as Prometheus reads it. No server is asked; all of it is known here.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::Admin;
use super::report::TenantLine;
use crate::pool::{Breaker, ServerStatus};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    server: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    server: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    server: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    server: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantLabels {
    tenant: String,
}

/// Numbers that go up and down.
type Gauges<L> = Family<L, Gauge<f64, AtomicU64>>;
/// Numbers that were counted elsewhere.
type Counters<L> = Family<L, Counter<f64, AtomicU64>>;

/// The text of one scrape.
///
/// # Errors
/// Never in practice: the text is written to memory.
pub(super) fn scrape(admin: &Admin) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("manybox");
    admin.metrics.register(&mut registry);
    let known = i64::try_from(admin.directory.len()).unwrap_or(i64::MAX);
    registry.register("tenants", "Tenants in the directory", ConstGauge::new(known));
    if let Some(bytes) = resident() {
        registry.register("resident_memory_bytes", "Memory of this process", ConstGauge::new(bytes));
    }
    servers(&mut registry, &admin.pools.servers());
    tenants(&mut registry, admin);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn servers(registry: &mut Registry, all: &[ServerStatus]) {
    let (connections, ended) = (Gauges::<StateLabels>::default(), Counters::<ReasonLabels>::default());
    let connects = Counters::<OutcomeLabels>::default();
    for status in all {
        let states = [
            ("idle", status.idle),
            ("busy", status.busy),
            ("opening", status.opening),
            ("closing", status.closing),
        ];
        for (state, count) in states {
            connections
                .get_or_create(&StateLabels { server: status.server.clone(), state })
                .set(f64::from(count));
        }
        for (outcome, count) in [("ok", status.connects), ("failed", status.connect_failures)] {
            connects
                .get_or_create(&OutcomeLabels { server: status.server.clone(), outcome })
                .inc_by(count as f64);
        }
        for (reason, count) in [
            ("budget", status.timeouts.budget),
            ("tenant", status.timeouts.tenant),
            ("connect", status.timeouts.connect),
            ("queue", status.timeouts.queue),
        ] {
            ended.get_or_create(&ReasonLabels { server: status.server.clone(), reason }).inc_by(count as f64);
        }
    }
    registry.register("connections", "Connections by state; together never above the budget", connections);
    registry.register("connects", "Connections opened, and those that could not be", connects);
    registry.register("waits_ended", "Requests that got no connection, by what they waited for", ended);
    let of = |status: &ServerStatus| ServerLabels { server: status.server.clone() };
    gauge(registry, "budget", "Most connections this router may hold", all, of, |s| f64::from(s.budget));
    gauge(registry, "waiting", "Requests that wait for a connection", all, of, |s| f64::from(s.waiting));
    gauge(registry, "breaker_open", "1 while the server is not asked for connections", all, of, |s| {
        f64::from(u8::from(s.breaker != Breaker::Closed))
    });
    let mut count =
        |name, help, value: fn(&ServerStatus) -> f64| counter(registry, name, help, all, of, value);
    count("evictions", "Idle connections closed for another tenant", |s| s.evictions as f64);
    count("connect_seconds", "Time spent on opening connections", |s| s.connect_time.as_secs_f64());
    count("checkouts", "Connections given to requests", |s| s.checkouts as f64);
    count("waits", "Requests that waited for a connection and got one", |s| s.waits as f64);
    count("wait_seconds", "Time they waited", |s| s.wait_time.as_secs_f64());
}

/// The busiest tenants only: a label for each of thousands is what kills a Prometheus.
fn tenants(registry: &mut Registry, admin: &Admin) {
    let mut lines = admin.tenants();
    lines.sort_by_key(|line| std::cmp::Reverse((line.flow.recent, line.flow.requests)));
    lines.truncate(admin.top);
    let of = |line: &TenantLine| TenantLabels { tenant: line.slug.clone() };
    let help = "Connections of the busiest tenants";
    gauge(registry, "tenant_connections", help, &lines, of, |l| f64::from(l.open));
    let mut count =
        |name, help, value: fn(&TenantLine) -> f64| counter(registry, name, help, &lines, of, value);
    count("tenant_requests", "Requests of the busiest tenants", |l| l.flow.requests as f64);
    count("tenant_errors", "Of these, with 5xx but for 503", |l| l.flow.errors as f64);
    count("tenant_refusals", "Of these, with 429 or 503", |l| l.flow.refusals as f64);
    count("tenant_seconds", "Time they took", |l| l.flow.micros as f64 / 1e6);
}

/// A label set that can be a metric's.
trait Labels: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static {}
impl<L: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static> Labels
    for L
{
}

fn gauge<T, L: Labels>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    all: &[T],
    labels: impl Fn(&T) -> L,
    value: fn(&T) -> f64,
) {
    let family = Gauges::<L>::default();
    for one in all {
        family.get_or_create(&labels(one)).set(value(one));
    }
    registry.register(name, help, family);
}

/// The format adds `_total` to the name.
fn counter<T, L: Labels>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    all: &[T],
    labels: impl Fn(&T) -> L,
    value: fn(&T) -> f64,
) {
    let family = Counters::<L>::default();
    for one in all {
        family.get_or_create(&labels(one)).inc_by(value(one));
    }
    registry.register(name, help, family);
}

/// Where the system tells.
fn resident() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<i64>().ok()? * 1024)
}
