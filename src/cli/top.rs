//! `manybox top`: what a running router does, tenant by tenant, as its admin port tells.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use super::output::{line, table};
use super::{Done, Failure, Output};
use crate::admin::{ServerLine, TenantLine};
use crate::settings::Settings;

/// Longest wait for an answer of the router.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(super) struct Top {
    /// The router's admin port; listen.admin when not given
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// Time from one look to the next
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration, value_name = "TIME")]
    interval: Duration,
    /// Tenants shown
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// What the first tenant has most of
    #[arg(long, value_enum, default_value_t = Sort::Requests)]
    sort: Sort,
    /// Show what happens in one interval, and end; so does a table on an output that is no terminal
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    Requests,
    Time,
    Waiting,
    Errors,
}

/// One look at the router.
struct Look {
    at: Instant,
    servers: Vec<ServerLine>,
    tenants: Vec<TenantLine>,
}

/// What happened between two looks.
#[derive(Serialize)]
struct Sample {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// Time since the look before.
    seconds: f64,
    servers: Vec<Server>,
    tenants: Vec<Tenant>,
}

#[derive(Serialize)]
struct Server {
    #[serde(flatten)]
    now: ServerLine,
    evictions_per_second: f64,
    connects_per_second: f64,
}

#[derive(Serialize)]
struct Tenant {
    slug: String,
    server: String,
    requests_per_second: f64,
    /// Mean time of a request.
    milliseconds: f64,
    open: u32,
    busy: u32,
    waiting: u32,
    /// Since the last look.
    errors: u64,
    refusals: u64,
}

impl Top {
    pub(super) async fn run(self, settings: &Settings, output: Output) -> Done {
        let address = self.admin.clone().unwrap_or_else(|| settings.listen.admin.to_string());
        let live = !self.once && !output.json && std::io::stdout().is_terminal();
        // Written at once, so that nothing flickers.
        let terminal = console::Term::buffered_stdout();
        let mut before = look(&address).await?;
        loop {
            tokio::time::sleep(self.interval.max(Duration::from_millis(100))).await;
            let now = look(&address).await?;
            let sample = self.sample(&before, &now);
            if output.json {
                // A reader that went away ends the stream, which has no other end.
                if writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&sample)?).is_err() {
                    return Ok(());
                }
            } else if live {
                let rows = usize::from(terminal.size().0).saturating_sub(1);
                let shown = text(&sample).lines().take(rows).collect::<Vec<_>>().join("\n");
                terminal.clear_screen()?;
                terminal.write_line(&shown)?;
                terminal.flush()?;
            } else {
                line(&text(&sample));
            }
            // Whoever asked for JSON on a pipe wants a stream of it; a table on a pipe is asked for once.
            if self.once || (!live && !output.json) {
                return Ok(());
            }
            before = now;
        }
    }

    fn sample(&self, before: &Look, now: &Look) -> Sample {
        let seconds = now.at.duration_since(before.at).as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let old: HashMap<_, _> = before.servers.iter().map(|server| (&server.server, server)).collect();
        let servers = now.servers.iter().map(|server| Server {
            evictions_per_second: rate(server.evictions, old.get(&server.server).map_or(0, |s| s.evictions)),
            connects_per_second: rate(server.connects, old.get(&server.server).map_or(0, |s| s.connects)),
            now: server.clone(),
        });
        let old: HashMap<_, _> = before.tenants.iter().map(|tenant| (&tenant.id, &tenant.flow)).collect();
        let tenants = now.tenants.iter().map(|tenant| {
            let earlier = old.get(&tenant.id).map(|flow| (*flow).clone()).unwrap_or_default();
            let flow = &tenant.flow;
            let requests = flow.requests.saturating_sub(earlier.requests);
            Tenant {
                slug: tenant.slug.clone(),
                server: tenant.server.clone(),
                requests_per_second: rate(flow.requests, earlier.requests),
                milliseconds: flow.micros.saturating_sub(earlier.micros) as f64
                    / 1e3
                    / requests.max(1) as f64,
                open: tenant.open,
                busy: tenant.busy,
                waiting: tenant.waiting,
                errors: flow.errors.saturating_sub(earlier.errors),
                refusals: flow.refusals.saturating_sub(earlier.refusals),
            }
        });
        let mut tenants: Vec<_> = tenants.collect();
        let key = |tenant: &Tenant| match self.sort {
            Sort::Requests => tenant.requests_per_second,
            Sort::Time => tenant.requests_per_second * tenant.milliseconds,
            Sort::Waiting => f64::from(tenant.waiting),
            Sort::Errors => (tenant.errors + tenant.refusals) as f64,
        };
        tenants.sort_by(|a, b| key(b).total_cmp(&key(a)).then_with(|| a.slug.cmp(&b.slug)));
        tenants.truncate(self.limit);
        Sample { at: OffsetDateTime::now_utc(), seconds, servers: servers.collect(), tenants }
    }
}

async fn look(address: &str) -> Result<Look, Failure> {
    let (servers, tenants) = (get(address, "/servers").await?, get(address, "/tenants").await?);
    Ok(Look { at: Instant::now(), servers, tenants })
}

async fn get<T: DeserializeOwned + Send + 'static>(address: &str, path: &str) -> Result<T, Failure> {
    let url = format!("http://{address}{path}");
    let failed = |error: &dyn std::fmt::Display| {
        Failure(format!(
            "{url}: {error}; is `manybox serve` running, and is this its admin port (listen.admin, or --admin)?"
        ))
    };
    let asked = url.clone();
    let text = tokio::task::spawn_blocking(move || {
        let agent = ureq::Agent::config_builder().timeout_global(Some(ANSWER)).build().new_agent();
        agent.get(&asked).call()?.body_mut().read_to_string()
    });
    let text = text.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    serde_json::from_str(&text).map_err(|e| failed(&e))
}

fn text(sample: &Sample) -> String {
    let servers = sample.servers.iter().map(|server| {
        let now = &server.now;
        vec![
            now.server.clone(),
            format!("{}/{}", now.open, now.budget),
            now.idle.to_string(),
            now.busy.to_string(),
            now.waiting.to_string(),
            format!("{:.1}", server.connects_per_second),
            format!("{:.1}", server.evictions_per_second),
            now.breaker.clone(),
        ]
    });
    let tenants = sample.tenants.iter().map(|tenant| {
        vec![
            tenant.slug.clone(),
            tenant.server.clone(),
            format!("{:.1}", tenant.requests_per_second),
            format!("{:.1}", tenant.milliseconds),
            tenant.open.to_string(),
            tenant.busy.to_string(),
            tenant.waiting.to_string(),
            tenant.errors.to_string(),
            tenant.refusals.to_string(),
        ]
    });
    let head = ["SERVER", "OPEN", "IDLE", "BUSY", "WAITING", "CONNECTS/S", "EVICTIONS/S", "BREAKER"];
    let columns = ["TENANT", "SERVER", "REQ/S", "MS", "OPEN", "BUSY", "WAITING", "ERRORS", "REFUSED"];
    format!("{}\n\n{}", table(&head, servers), table(&columns, tenants))
}
