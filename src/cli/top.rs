//! `manybox top`: what a running router does, tenant by tenant, as its admin port tells.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::keys::TerminalKeys;
use super::output::{json_line, line, screen, table};
use super::{Done, Failure, Output, arguments};
use crate::admin::{ServerLine, TenantLine};
use crate::policy::Secret;
use crate::settings::Settings;

/// Longest wait for an answer of the router.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest answer of the router, bytes: a line of some 300 for each of 200,000 tenants.
const MAX_REPORT: usize = 64 * 1024 * 1024;

/// The shortest time between two looks.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub(super) struct Top {
    /// The router's admin port; listen.admin when not given
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// Time from one look to the next
    #[arg(long, default_value = "2s", value_parser = arguments::time, value_name = "TIME")]
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
    servers: Vec<ServerSample>,
    tenants: Vec<TenantSample>,
}

#[derive(Serialize)]
struct ServerSample {
    #[serde(flatten)]
    now: ServerLine,
    evictions_per_second: f64,
    connects_per_second: f64,
}

#[derive(Serialize)]
struct TenantSample {
    slug: String,
    server: String,
    requests_per_second: f64,
    /// Mean time of a request.
    milliseconds: f64,
    open: u32,
    idle: u32,
    busy: u32,
    waiting: u32,
    /// Requests that waited for a connection and got one, since the last look.
    waits: u64,
    /// Since the last look.
    errors: u64,
    refusals: u64,
}

impl Top {
    /// Until `q`, Ctrl-C or SIGTERM when live. A router that stops answering is asked again; it must answer once.
    pub(super) async fn run(self, settings: &Settings, output: Output) -> Done {
        let address = self.admin.clone().unwrap_or_else(|| settings.listen.admin.to_string());
        let live = !self.once && !output.json && std::io::stdout().is_terminal();
        let token = settings
            .listen
            .read_admin_token()
            .map_err(|error| Failure(format!("listen.admin_token_file: {error}")))?;
        let router = Router { address: address.clone(), token };
        let mut before = Some(look(&router).await?);
        let mut keys = if live { TerminalKeys::read() } else { None };
        let mut terminate = signal(SignalKind::terminate())?;
        let mut clock = interval(self.interval.max(MIN_INTERVAL));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        clock.tick().await;
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                key = TerminalKeys::next(keys.as_mut()) => match key {
                    b'q' | b'Q' => return Ok(()),
                    _ => continue,
                },
                // Returned from, so that the terminal is given back as it was.
                interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
                _ = terminate.recv() => return Ok(()),
            }
            let now = look(&router).await;
            // Whoever asked for JSON on a pipe wants a stream of it; a table on a pipe is asked for once.
            let once = self.once || (!live && !output.json);
            let now = match now {
                Ok(now) => now,
                Err(failure) if once => return Err(failure),
                Err(_) => {
                    // It may be restarted, and its counts begin again then.
                    before = None;
                    let said = format!("no answer from {address}, trying again");
                    if live {
                        screen(&said, "q quits")?
                    } else {
                        tracing::warn!("{said}")
                    }
                    continue;
                }
            };
            if let Some(before) = &before {
                let sample = self.sample(before, &now);
                if output.json {
                    if !json_line(&sample)? {
                        return Ok(());
                    }
                } else if live {
                    screen(&text(&sample), "q quits")?;
                } else {
                    line(&text(&sample));
                }
                if once {
                    return Ok(());
                }
            }
            before = Some(now);
        }
    }

    fn sample(&self, before: &Look, now: &Look) -> Sample {
        let seconds = now.at.duration_since(before.at).as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let old: HashMap<_, _> = before.servers.iter().map(|server| (&server.server, server)).collect();
        let servers = now.servers.iter().map(|server| ServerSample {
            evictions_per_second: rate(server.evictions, old.get(&server.server).map_or(0, |s| s.evictions)),
            connects_per_second: rate(server.connects, old.get(&server.server).map_or(0, |s| s.connects)),
            now: server.clone(),
        });
        let old: HashMap<_, _> = before.tenants.iter().map(|tenant| (&tenant.id, tenant)).collect();
        let tenants = now.tenants.iter().map(|tenant| {
            let old = old.get(&tenant.id);
            let earlier = old.map(|tenant| tenant.flow.clone()).unwrap_or_default();
            let flow = &tenant.flow;
            let requests = flow.requests.saturating_sub(earlier.requests);
            TenantSample {
                slug: tenant.slug.clone(),
                server: tenant.server.clone(),
                requests_per_second: rate(flow.requests, earlier.requests),
                milliseconds: flow.micros.saturating_sub(earlier.micros) as f64
                    / 1e3
                    / requests.max(1) as f64,
                open: tenant.open,
                idle: tenant.idle,
                busy: tenant.busy,
                waiting: tenant.waiting,
                waits: tenant.waits.saturating_sub(old.map_or(0, |tenant| tenant.waits)),
                errors: flow.errors.saturating_sub(earlier.errors),
                refusals: flow.refusals.saturating_sub(earlier.refusals),
            }
        });
        let mut tenants: Vec<_> = tenants.collect();
        let key = |tenant: &TenantSample| match self.sort {
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

/// The router that is asked.
struct Router {
    address: String,
    token: Option<Secret>,
}

async fn look(router: &Router) -> Result<Look, Failure> {
    let (servers, tenants) = (get(router, "/servers").await?, get(router, "/tenants").await?);
    Ok(Look { at: Instant::now(), servers, tenants })
}

async fn get<T: DeserializeOwned>(router: &Router, path: &str) -> Result<T, Failure> {
    let address = &router.address;
    let body = match timeout(ANSWER_TIMEOUT, ask(router, path)).await {
        Ok(body) => body,
        Err(_) => Err(Failure(format!("no answer within {} seconds", ANSWER_TIMEOUT.as_secs()))),
    };
    body.and_then(|body| Ok(serde_json::from_slice(&body)?)).map_err(|Failure(reason)| {
        Failure(format!(
            "http://{address}{path}: {reason}; is `manybox serve` running, and is this its admin port (listen.admin, \
             or --admin)?"
        ))
    })
}

/// The body of the answer.
async fn ask(router: &Router, path: &str) -> Result<Bytes, Failure> {
    let stream = TcpStream::connect(&router.address).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with the sender.
    tokio::spawn(connection);
    let mut request = hyper::Request::get(path).header("host", &router.address);
    if let Some(token) = &router.token {
        request = request.header("authorization", format!("Bearer {}", token.expose()));
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    if !answer.status().is_success() {
        let hint = match answer.status().as_u16() {
            401 => ": give the router's listen.admin_token",
            403 => ": the router's listen.admin_hosts lack this name",
            _ => "",
        };
        return Err(Failure(format!("the answer is {}{hint}", answer.status())));
    }
    let body = Limited::new(answer.into_body(), MAX_REPORT).collect().await;
    Ok(body.map_err(|error| Failure(error.to_string()))?.to_bytes())
}

fn text(sample: &Sample) -> String {
    let servers = sample.servers.iter().map(|server| {
        let now = &server.now;
        vec![
            now.server.clone(),
            format!("{}/{}", now.open, now.budget),
            now.total.map_or_else(|| "?".to_owned(), |total| total.to_string()),
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
            tenant.idle.to_string(),
            tenant.busy.to_string(),
            tenant.waiting.to_string(),
            tenant.waits.to_string(),
            tenant.errors.to_string(),
            tenant.refusals.to_string(),
        ]
    });
    let head = ["SERVER", "OPEN", "TOTAL", "IDLE", "BUSY", "WAITING", "CONNECTS/S", "EVICTIONS/S", "BREAKER"];
    let columns =
        ["TENANT", "SERVER", "REQ/S", "MS", "OPEN", "IDLE", "BUSY", "WAITING", "WAITED", "ERRORS", "REFUSED"];
    let mut text = table(&head, servers);
    for server in &sample.servers {
        text.push_str(&holders(&server.now));
    }
    format!("{text}\n\n{}", table(&columns, tenants))
}

/// Who has the connections of a server, where it is not this router alone.
fn holders(server: &ServerLine) -> String {
    if server.holders.iter().all(|holder| holder.own) {
        return String::new();
    }
    let parts = server.holders.iter().map(|holder| {
        let (who, lost) = (
            if holder.own { "this router" } else { &holder.router },
            if holder.lost { ", lost" } else { "" },
        );
        format!("{who} (at {}{lost}) {}, wants {}", holder.address, holder.share, holder.wanted)
    });
    format!("\n{} is shared: {}", server.server, parts.collect::<Vec<_>>().join("; "))
}
