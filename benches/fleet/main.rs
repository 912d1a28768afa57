//! The bench: each scenario against a baseline of the same run, so that only the ratio counts.
//!
//! `make bench`; `ONLY=fair,cold make bench` for some; `FULL=1 make bench` for the large ones. docs/benchmarks.md says
//! what each ratio means.

#![allow(missing_docs)]

mod bare;
mod control;
mod embed;
mod growth;
mod load;
mod migrate;
mod report;
mod requests;
mod rolling;
mod setting;
mod siege;
mod throughput;

use std::time::Duration;

use report::{Report, Scenario};
use setting::Setting;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Done<T = ()> = Result<T, Failure>;

/// How much is done.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// One measured run under load.
    pub(crate) run: Duration,
    /// Runs of value and baseline, in turn; the median of each counts.
    pub(crate) rounds: usize,
    /// The same for what is bound to the disk.
    pub(crate) turns: usize,
    /// Tenants that are touched in `size-process`.
    pub(crate) touched: usize,
    /// Rows of the catalog in `size-tenant`.
    pub(crate) rows: u32,
    /// Tenants created at a time.
    pub(crate) changed: usize,
    /// Tenants migrated.
    pub(crate) migrated: usize,
}

const QUICK: Scale = Scale {
    run: Duration::from_secs(3),
    rounds: 3,
    turns: 5,
    touched: 300,
    rows: 20_000,
    changed: 60,
    migrated: 300,
};
const FULL: Scale = Scale {
    run: Duration::from_secs(10),
    rounds: 5,
    turns: 7,
    touched: 1_000,
    rows: 100_000,
    changed: 200,
    migrated: 1_000,
};

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A process of its own, because the router is one too.
    if let [word, url, port] = arguments.as_slice()
        && word == bare::WORD
    {
        return tokio::runtime::Runtime::new()?.block_on(bare::serve(url, port.parse()?));
    }
    if let [word, address, addresses, seconds] = arguments.as_slice()
        && word == siege::WORD
    {
        let lasts = Duration::from_secs(seconds.parse()?);
        return tokio::runtime::Runtime::new()?.block_on(siege::attack(address, addresses.parse()?, lasts));
    }
    // `cargo test --benches` builds and starts this without wanting any figures.
    if arguments.iter().any(|argument| argument == "--test") {
        return Ok(());
    }
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> Done {
    let full = std::env::var_os("FULL").is_some_and(|v| v != "0" && !v.is_empty());
    let scale = if full { FULL } else { QUICK };
    let only = std::env::var("ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only.split(',').any(|part| name.starts_with(part.trim()));
    let mut report = Report::default();
    let mut setting = Setting::start().await?;
    let any = |names: &[&str]| names.iter().any(|name| wanted(name));

    if wanted("create") {
        report.add(control::create(&mut setting, scale).await?);
    }
    if any(&["migrate", "migrate-again"]) {
        report.extend(migrate::migrate(&mut setting, scale).await?);
    }
    let cases: Vec<_> = throughput::CASES.iter().filter(|case| wanted(case.name)).collect();
    if let Some(tenants) = cases.iter().map(|case| case.tenants).max() {
        setting.tenants(tenants).await?;
        report.extend(throughput::throughput(&setting, scale, &cases).await?);
    }
    if wanted("embed") {
        setting.tenants(1).await?;
        report.add(embed::embed(&mut setting, scale).await?);
    }
    if wanted("cold") {
        setting.tenants(140).await?;
        report.add(requests::cold(&mut setting).await?);
    }
    if wanted("fair") {
        setting.tenants(2).await?;
        report.extend(requests::fair(&mut setting, scale).await?);
    }
    if any(&["many-uniform", "many-zipf"]) {
        setting.tenants(requests::MANY).await?;
        report.extend(requests::many(&mut setting, scale).await?);
    }
    if any(&["size-process", "size-touched"]) {
        setting.tenants(scale.touched).await?;
        report.extend(growth::process(&mut setting, scale).await?);
    }
    if wanted("rollout") {
        setting.tenants(rolling::TENANTS).await?;
        report.extend(rolling::rolling(&mut setting, scale).await?);
    }
    if wanted("size-tenant") {
        report.add(growth::tenant(&mut setting, scale).await?);
    }
    // Two minutes and more, which only whoever asks for it wants to wait.
    if full || (wanted("siege") && !only.is_empty()) {
        setting.tenants(2).await?;
        report.extend(siege::siege(&mut setting, scale).await?);
    }
    if wanted("resolve") {
        report.add(growth::resolve()?);
    }
    setting.stop().await?;
    report.finish()
}

/// The middle one; the measured runs are few and one of them may have met somebody else's work.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Value and baseline in turn, and the median of each.
pub(crate) fn scenario(
    name: &'static str,
    unit: &'static str,
    values: Vec<f64>,
    baselines: Vec<f64>,
) -> Scenario {
    Scenario::new(name, unit, median(values), median(baselines))
}

/// The round in the middle by its ratio. How fast the disk takes what is written changes by the minute: only what was
/// measured side by side can be compared.
pub(crate) fn middle(name: &'static str, unit: &'static str, mut rounds: Vec<(f64, f64)>) -> Scenario {
    rounds.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let ratio = |round: Option<&(f64, f64)>| round.map_or(f64::NAN, |(value, baseline)| value / baseline);
    let (value, baseline) = rounds.get(rounds.len() / 2).copied().unwrap_or((f64::NAN, f64::NAN));
    Scenario::new(name, unit, value, baseline)
        .detail("lowest", ratio(rounds.first()))
        .detail("highest", ratio(rounds.last()))
}
