//! Scrape: the router's state as Prometheus reads it. No server is asked; all of it is known here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use time::OffsetDateTime;

use super::Admin;
use super::report::TenantLine;
use crate::directory::Freshness;
use crate::pool::{Breaker, Holder, ServerStatus};

/// All metrics of a router: those that are counted all along, and those that are looked up when they are scraped.
pub(super) fn registry(admin: &Arc<Admin>) -> Registry {
    let mut registry = Registry::with_prefix("manybox");
    admin.metrics.register(&mut registry);
    registry.register_collector(Box::new(Live(Arc::clone(admin))));
    registry
}

/// What is looked up at each scrape.
struct Live(Arc<Admin>);

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(&mut encoder);
        let build = [([("version", env!("CARGO_PKG_VERSION"))], 1.0)];
        families.gauge("build_info", "1, with what this program is", build.into_iter())?;
        let known = i64::try_from(self.0.directory.len()).unwrap_or(i64::MAX);
        families.single("tenants", "Tenants in the directory", known)?;
        let age = match self.0.directory.freshness() {
            Freshness::Snapshot(taken_at) => (OffsetDateTime::now_utc() - taken_at).whole_seconds(),
            _ => 0,
        };
        families.single("directory_age_seconds", "Age of the directory, where it is that on disk", age)?;
        if let Some(bytes) = resident() {
            families.single("resident_memory_bytes", "Memory of this process", bytes)?;
        }
        servers(&mut families, &self.0.pools.servers())?;
        tenants(&mut families, &self.0)?;
        databases(&mut families, &self.0)
    }
}

fn servers(families: &mut Families<'_, '_>, all: &[ServerStatus]) -> fmt::Result {
    let connections = all.iter().flat_map(|s| {
        [("idle", s.idle), ("busy", s.busy), ("opening", s.opening), ("closing", s.closing)]
            .map(|(state, count)| ([("server", s.server.as_str()), ("state", state)], f64::from(count)))
    });
    let connects = all.iter().flat_map(|s| {
        [("ok", s.connects), ("failed", s.connect_failures)]
            .map(|(outcome, count)| ([("server", s.server.as_str()), ("outcome", outcome)], count as f64))
    });
    let ended = all.iter().flat_map(|s| {
        let ended = &s.timeouts;
        let reasons = [
            ("budget", ended.budget),
            ("tenant", ended.tenant),
            ("connect", ended.connect),
            ("queue", ended.queue),
        ];
        reasons.map(|(reason, count)| ([("server", s.server.as_str()), ("reason", reason)], count as f64))
    });
    families.gauge("connections", "Connections by state; together never above the budget", connections)?;
    families.counter("connects", "Connections opened, and those that could not be", connects)?;
    families.counter("waits_ended", "Requests that got no connection, by what they waited for", ended)?;
    let each = |value: fn(&ServerStatus) -> f64| {
        all.iter().map(move |s| ([("server", s.server.as_str())], value(s)))
    };
    families.gauge("budget", "Most connections this router may hold", each(|s| f64::from(s.budget)))?;
    let totals = all.iter().filter_map(|s| Some(([("server", s.server.as_str())], f64::from(s.total?))));
    families.gauge("budget_total", "Most connections that all routers may hold", totals)?;
    let holders = all.iter().filter_map(|s| Some((s.server.as_str(), s.lease.as_deref()?)));
    let held = holders.flat_map(|(server, lease)| {
        let sum =
            |of: fn(&Holder) -> bool| lease.holders.iter().filter(|h| of(h)).map(|h| h.share).sum::<u32>();
        let parts = [
            ("this", sum(|h| h.is_own)),
            ("others", sum(|h| !h.is_own && !h.is_lost)),
            ("lost", sum(|h| !h.is_own && h.is_lost)),
        ];
        parts.map(|(holder, count)| ([("server", server), ("holder", holder)], f64::from(count)))
    });
    families.gauge("budget_held", "Connections leased to this router, to others, and to lost ones", held)?;
    families.gauge("wanted", "Connections that this router could use", each(|s| f64::from(s.wanted)))?;
    families.gauge("waiting", "Requests that wait for a connection", each(|s| f64::from(s.waiting)))?;
    let open = each(|s| f64::from(u8::from(s.breaker != Breaker::Closed)));
    families.gauge("breaker_open", "1 while the server is not asked for connections", open)?;
    families.counter(
        "evictions",
        "Idle connections closed for another tenant",
        each(|s| s.evictions as f64),
    )?;
    let opening = each(|s| s.connect_time.as_secs_f64());
    families.counter("connect_seconds", "Time spent on opening connections", opening)?;
    families.counter("checkouts", "Connections given to requests", each(|s| s.checkouts as f64))?;
    families.counter(
        "waits",
        "Requests that waited for a connection and got one",
        each(|s| s.waits as f64),
    )?;
    families.counter("wait_seconds", "Time they waited", each(|s| s.wait_time.as_secs_f64()))
}

/// The busiest tenants only: a label for each of thousands is what kills a Prometheus.
fn tenants(families: &mut Families<'_, '_>, admin: &Admin) -> fmt::Result {
    let mut lines = admin.tenants();
    lines.sort_by_key(|line| std::cmp::Reverse((line.flow.recent, line.flow.requests)));
    lines.truncate(admin.top);
    let each =
        |value: fn(&TenantLine) -> f64| lines.iter().map(move |l| ([("tenant", l.slug.as_str())], value(l)));
    families.gauge(
        "tenant_connections",
        "Connections of the busiest tenants",
        each(|l| f64::from(l.open)),
    )?;
    let requests = each(|l| l.flow.requests as f64);
    families.counter("tenant_requests", "Requests of the busiest tenants", requests)?;
    families.counter("tenant_errors", "Of these, with 5xx but for 503", each(|l| l.flow.errors as f64))?;
    families.counter("tenant_refusals", "Of these, with 429 or 503", each(|l| l.flow.refusals as f64))?;
    families.counter("tenant_seconds", "Time they took", each(|l| l.flow.micros as f64 / 1e6))
}

/// Sizes of databases, as they were measured last: sums, and those that matter most.
fn databases(families: &mut Families<'_, '_>, admin: &Admin) -> fmt::Result {
    let mut known: Vec<_> = admin
        .pools
        .disk()
        .sizes()
        .into_iter()
        .filter_map(|(id, bytes)| {
            let tenant = admin.directory.get(&id)?;
            let part = tenant.limits.max_database_size.map_or(0.0, |most| bytes as f64 / most as f64);
            Some((tenant, bytes, part))
        })
        .collect();
    let mut servers: BTreeMap<String, f64> = BTreeMap::new();
    for (tenant, bytes, _) in &known {
        *servers.entry(tenant.server.clone()).or_default() += *bytes as f64;
    }
    let sums = servers.iter().map(|(server, bytes)| ([("server", server.as_str())], *bytes));
    families.gauge("database_bytes", "Tenants' databases on a server's disk", sums)?;
    let levels = [("80", 0.8), ("90", 0.9), ("100", 1.0)].map(|(percent, part)| {
        ([("percent", percent)], known.iter().filter(|(.., used)| *used >= part).count() as f64)
    });
    families.gauge("quota_tenants", "Tenants that use this much of max_database_size", levels.into_iter())?;
    // Those nearest to their quota, then the largest.
    known.sort_by(|(_, a_bytes, a), (_, b_bytes, b)| b.total_cmp(a).then(b_bytes.cmp(a_bytes)));
    known.truncate(admin.top);
    let bytes = known.iter().map(|(tenant, bytes, _)| ([("tenant", tenant.slug.as_str())], *bytes as f64));
    families.gauge(
        "tenant_database_bytes",
        "Of the tenants nearest to their quota, and the largest",
        bytes,
    )?;
    let most = known.iter().filter_map(|(tenant, ..)| {
        Some(([("tenant", tenant.slug.as_str())], tenant.limits.max_database_size? as f64))
    });
    families.gauge("tenant_max_database_bytes", "Their max_database_size", most)
}

/// Writes one metric after another.
struct Families<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Families<'_, '_> {
    /// A number that goes up and down, without labels.
    fn single(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    /// Numbers that go up and down.
    fn gauge<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = ([(&'static str, &'l str); N], f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Numbers that were counted elsewhere. The format adds `_total` to the name.
    fn counter<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = ([(&'static str, &'l str); N], f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Where the system tells.
fn resident() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<i64>().ok()? * 1024)
}
