//! Bounds: how small and how large numbers, sizes and times of the settings may be. What is beyond them was never meant, and
//! would overflow a clock, ask for memory that no machine has, or let nobody be served.

use std::time::Duration;

use super::Settings;
use super::rollouts::MAX_JOBS;
use crate::policy::quantity::{MAX_COUNT, MAX_TIME, wrong_time};

/// Longest time that something is kept.
const MAX_AGE: Duration = Duration::from_secs(3650 * 24 * 3600);
const MOMENT: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Most clients: a process has no more file descriptors on Linux, unless somebody raised `fs.nr_open`.
const MAX_CLIENTS: u64 = 1 << 20;
/// Most tenants with metrics of their own, each some ten series.
const MAX_METRICS: u64 = 100_000;
/// Most bytes that bodies may hold: 1 TB.
const MAX_BUFFERED: u64 = 1 << 40;
/// Most bytes a second that a client may be asked for: 1 GB.
const MAX_RATE: u64 = 1 << 30;

/// The first setting that is beyond its bounds, by its key, and what would be right.
pub(super) fn beyond(settings: &Settings) -> Option<(String, String)> {
    let Settings { listen, catalog, control, migrate, defaults, telemetry, .. } = settings;
    let clients = &listen.clients;
    let times = [
        ("listen.stop_delay", listen.stop_delay, Duration::ZERO, MAX_TIME),
        ("listen.drain_timeout", listen.drain_timeout, Duration::ZERO, MAX_TIME),
        ("listen.stale_directory", listen.stale_directory, Duration::ZERO, MAX_AGE),
        ("listen.clients.head_timeout", clients.head_timeout, MOMENT, MAX_TIME),
        ("listen.clients.idle_timeout", clients.idle_timeout, MOMENT, MAX_TIME),
        ("listen.clients.stall_timeout", clients.stall_timeout, MOMENT, MAX_TIME),
        ("catalog.poll_interval", catalog.poll_interval, MOMENT, MAX_TIME),
        ("control.session_idle", control.session_idle, MINUTE, MAX_AGE),
        ("control.session_lifetime", control.session_lifetime, MINUTE, MAX_AGE),
        ("control.drain_timeout", control.drain_timeout, Duration::ZERO, MAX_TIME),
        ("telemetry.metrics_interval", telemetry.metrics_interval, Duration::ZERO, MAX_TIME),
        // PostgreSQL takes 0 for no limit at all.
        ("migrate.lock_timeout", migrate.lock_timeout, MOMENT, MAX_TIME),
        ("migrate.statement_timeout", migrate.statement_timeout.unwrap_or(MOMENT), MOMENT, MAX_TIME),
        ("migrate.lock_patience", migrate.lock_patience, Duration::ZERO, MAX_TIME),
        ("defaults.purge_grace", defaults.purge_grace, Duration::ZERO, MAX_AGE),
    ];
    let counts = [
        ("listen.metrics_tenants", listen.metrics_tenants as u64, 0, MAX_METRICS),
        ("listen.clients.max_connections", clients.max_connections as u64, 1, MAX_CLIENTS),
        ("listen.clients.max_per_address", clients.max_per_address as u64, 1, MAX_CLIENTS),
        ("listen.clients.max_per_tenant", clients.max_per_tenant as u64, 1, MAX_CLIENTS),
        ("listen.clients.max_buffered", clients.max_buffered as u64, 1, MAX_BUFFERED),
        ("listen.clients.min_rate", clients.min_rate.into(), 0, MAX_RATE),
        ("migrate.jobs", migrate.jobs as u64, 1, MAX_JOBS as u64),
    ];
    let times = times
        .into_iter()
        .find_map(|(key, value, least, most)| Some((key.to_owned(), wrong_time(value, least, most)?)));
    let counts = counts
        .into_iter()
        .find_map(|(key, value, least, most)| Some((key.to_owned(), wrong_count(value, least, most)?)));
    times.or(counts).or_else(|| beyond_budget(settings))
}

fn beyond_budget(settings: &Settings) -> Option<(String, String)> {
    let of_servers =
        settings.servers.iter().map(|(name, server)| (format!("servers.{name}"), &server.budget));
    let budgets = of_servers.chain([("embedded".to_owned(), &settings.embedded.budget)]);
    budgets.into_iter().find_map(|(at, budget)| {
        let counts = [
            ("max_connections", budget.max_connections, 1),
            ("reserved_connections", Some(budget.reserved_connections), 0),
            ("max_connecting", Some(budget.max_connecting), 1),
            ("max_per_tenant", budget.max_per_tenant, 1),
        ];
        counts.into_iter().find_map(|(key, value, least)| {
            let reason = wrong_count(value?.into(), least, MAX_COUNT.into())?;
            Some((format!("{at}.budget.{key}"), reason))
        })
    })
}

fn wrong_count(value: u64, least: u64, most: u64) -> Option<String> {
    match value {
        value if value < least => Some(format!("expected {least} or more")),
        value if value > most => Some(format!("expected {most} at most")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_means_is_named_with_what_would_be_right() {
        for (text, key, expected) in [
            (
                "[listen.clients]\nmax_connections = 9223372036854775807",
                "listen.clients.max_connections",
                "1048576 at most",
            ),
            ("[listen.clients]\nmax_buffered = '9000TB'", "listen.clients.max_buffered", "at most"),
            ("[listen.clients]\nmin_rate = 4294967295", "listen.clients.min_rate", "at most"),
            ("[listen.clients]\nhead_timeout = '300y'", "listen.clients.head_timeout", "24 days at most"),
            ("[listen.clients]\nstall_timeout = '10us'", "listen.clients.stall_timeout", "1ms or more"),
            ("[listen]\nmetrics_tenants = 1000000000", "listen.metrics_tenants", "100000 at most"),
            ("[listen]\nstop_delay = '1y'", "listen.stop_delay", "24 days at most"),
            ("[listen]\nstale_directory = '90000y'", "listen.stale_directory", "3650 days at most"),
            ("[defaults]\npurge_grace = '90000y'", "defaults.purge_grace", "3650 days at most"),
            ("[catalog]\npoll_interval = '0s'", "catalog.poll_interval", "1ms or more"),
            ("[control]\nsession_lifetime = '90000y'", "control.session_lifetime", "3650 days at most"),
            ("[control]\nsession_idle = '1s'", "control.session_idle", "1m or more"),
            ("[migrate]\nstatement_timeout = '0s'", "migrate.statement_timeout", "1ms or more"),
            ("[migrate]\njobs = 0", "migrate.jobs", "1 or more"),
            ("[migrate]\njobs = 100000", "migrate.jobs", "1000 at most"),
            ("[migrate]\nlock_timeout = '0s'", "migrate.lock_timeout", "1ms or more"),
            ("[embedded.budget]\nmax_connecting = 4000000000", "embedded.budget.max_connecting", "at most"),
            (
                "[servers.main]\nurl = 'postgres://h/postgres'\nbudget.max_connections = 0",
                "servers.main.budget.max_connections",
                "1 or more",
            ),
        ] {
            let (at, reason) = beyond(&toml::from_str(text).unwrap()).unwrap();
            assert!(at == key && reason.contains(expected), "{text}: {at}: {reason}");
        }
        assert_eq!(beyond(&Settings::default()), None);
    }
}
