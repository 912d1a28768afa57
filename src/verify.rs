//! Verify: asks the live fleet, without changing anything, whether tenants are kept apart as the security model says.
//!
//! Nothing of a tenant's is run with more rights than the tenant's own. What is asked as the admin is asked of
//! PostgreSQL's catalogs alone, with a search path that no tenant writes to; rows are asked for by the tenant's login, as
//! an API role.

mod check;
mod login;
mod report;
mod router;
mod server;
mod tenant;

pub use check::{CHECKS, Check, check};
pub use report::page;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::catalog::{Filter, Template, TenantRow};
use crate::fleet::{Fleet, FleetError};
use crate::tenant::State;

/// Tenants looked into at the same time. Each takes one session of the admin and one of the tenant's own, so requests
/// keep the server.
const TENANTS_AT_A_TIME: usize = 4;

/// Longest look into one tenant's database. Its tenant may hold locks and write functions that do not end.
const TENANT_TIMEOUT: Duration = Duration::from_secs(30);

/// Most findings of one check in a report. Whoever has more has one cause for them.
const MAX_FINDINGS: usize = 200;

/// Longest text of what was seen, characters: a tenant's function writes its own errors.
const MAX_SEEN: usize = 1000;

/// Which tenants are looked into. Servers are looked at whole in any case.
#[derive(Debug, Clone)]
pub enum Scope {
    /// All.
    All,
    /// As many as this, spread over the fleet.
    Sample(usize),
    /// The one with this slug.
    Tenant(String),
}

/// What is to be verified.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which tenants.
    pub scope: Scope,
    /// Where a router listens; without one V4x are left out.
    pub router: Option<String>,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Of which check.
    pub code: &'static str,
    /// The server.
    pub server: String,
    /// The tenant, if it is one's.
    pub tenant: Option<String>,
    /// The database, if it is one's.
    pub database: Option<String>,
    /// What was seen.
    pub seen: String,
    /// What mends it: SQL as the admin or a superuser (in that database), or a command.
    pub remedy: String,
}

/// What was verified, and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// How long it took, seconds.
    pub seconds: f64,
    /// manybox's version.
    pub version: &'static str,
    /// The servers that were looked at, with their PostgreSQL's version.
    pub servers: BTreeMap<String, String>,
    /// Tenants in the catalog, but for purged ones.
    pub tenants: usize,
    /// Those whose databases were looked into.
    pub looked_into: Vec<String>,
    /// How much was tried, by check: pairs, databases, connections, requests.
    pub tried: BTreeMap<&'static str, usize>,
    /// What is not as it must be, by code.
    pub findings: Vec<Finding>,
    /// What was not looked at, and why.
    pub left_out: Vec<String>,
}

impl Verification {
    /// Whether everything that was tried is as it must be.
    pub fn is_green(&self) -> bool {
        self.findings.is_empty()
    }
}

/// What one part of the work gives.
#[derive(Debug, Default)]
struct Outcome {
    findings: Vec<Finding>,
    tried: BTreeMap<&'static str, usize>,
    left_out: Vec<String>,
}

impl Outcome {
    fn tried(&mut self, code: &'static str, times: usize) {
        *self.tried.entry(code).or_default() += times;
    }

    fn add(&mut self, other: Self) {
        self.findings.extend(other.findings);
        self.left_out.extend(other.left_out);
        other.tried.into_iter().for_each(|(code, times)| self.tried(code, times));
    }
}

/// What the catalog says there is.
struct Known {
    /// But for purged ones.
    tenants: Vec<TenantRow>,
    templates: Vec<Template>,
}

/// Verifies. `progress` is called once for each tenant that was looked into.
///
/// # Errors
/// When the catalog can't be read, or there is no such tenant. What can't be looked at on a server is a finding.
pub async fn verify(
    fleet: &Fleet,
    request: &Request,
    progress: impl Fn(usize),
) -> Result<Verification, FleetError> {
    let (at, begun) = (OffsetDateTime::now_utc(), std::time::Instant::now());
    let known = Known {
        tenants: fleet.catalog.tenants(&Filter::default()).await?,
        templates: fleet.catalog.templates().await?,
    };
    let chosen = choose(&known, &request.scope)?;
    progress(0);
    let (mut outcome, mut servers) = (Outcome::default(), BTreeMap::new());
    // A server that is silent would have each of its tenants waited for.
    let mut away = BTreeSet::new();
    for (name, server) in fleet.servers.iter() {
        let looked = server::look(fleet, name, server, &known).await;
        if looked.version.is_empty() {
            away.insert(name.to_owned());
        }
        servers.insert(name.to_owned(), looked.version);
        outcome.add(looked.outcome);
    }
    let done = std::sync::atomic::AtomicUsize::new(0);
    let mut looks = stream::iter(&chosen)
        .map(|row| {
            let (done, progress, known, away) = (&done, &progress, &known, &away);
            async move {
                if away.contains(&row.record.server) {
                    progress(1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
                    let finding = not_looked_at(row, "its server could not be looked at".into());
                    return Outcome { findings: vec![finding], ..Outcome::default() };
                }
                let looked = timeout(TENANT_TIMEOUT, look_into(fleet, row, known)).await;
                progress(1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
                looked.unwrap_or_else(|_| {
                    let seen = format!("no end within {} s", TENANT_TIMEOUT.as_secs());
                    Outcome { findings: vec![not_looked_at(row, seen)], ..Outcome::default() }
                })
            }
        })
        .buffer_unordered(TENANTS_AT_A_TIME);
    while let Some(looked) = looks.next().await {
        outcome.add(looked);
    }
    drop(looks);
    match &request.router {
        Some(address) => outcome.add(router::ask(fleet, address, &chosen).await),
        None => outcome.left_out.push("the router (V40, V41): none was named".into()),
    }
    let Outcome { findings, tried, left_out } = outcome;
    let unlooked = |slug: &str| findings.iter().any(|f| f.code == "V00" && f.tenant.as_deref() == Some(slug));
    let looked_into =
        chosen.iter().map(|row| row.record.slug.to_string()).filter(|slug| !unlooked(slug)).collect();
    Ok(Verification {
        at,
        seconds: begun.elapsed().as_secs_f64(),
        version: env!("CARGO_PKG_VERSION"),
        servers,
        tenants: known.tenants.len(),
        looked_into,
        tried,
        findings: bounded(findings),
        left_out,
    })
}

/// The tenants to look into: those that have a database.
fn choose<'a>(known: &'a Known, scope: &Scope) -> Result<Vec<&'a TenantRow>, FleetError> {
    let has_one =
        |row: &&TenantRow| matches!(row.record.state, State::Active | State::Suspended | State::Retired);
    let all: Vec<_> = known.tenants.iter().filter(has_one).collect();
    Ok(match scope {
        Scope::All => all,
        // Evenly spread, so that tenants of one day's creation are not all of them.
        Scope::Sample(most) if all.len() > *most => {
            (0..*most).filter_map(|i| all.get(i * all.len() / most).copied()).collect()
        }
        Scope::Sample(_) => all,
        Scope::Tenant(slug) => {
            let one = all.into_iter().find(|row| row.record.slug.as_str() == slug);
            vec![one.ok_or_else(|| FleetError::Unknown(slug.clone()))?]
        }
    })
}

/// Looks into one tenant's database, and tries its login.
async fn look_into(fleet: &Fleet, row: &TenantRow, known: &Known) -> Outcome {
    let mut outcome = Outcome::default();
    let inside = match tenant::look(fleet, row).await {
        Ok(inside) => inside,
        Err(error) => {
            outcome.findings.push(not_looked_at(row, error.to_string()));
            tenant::Inside::default()
        }
    };
    outcome.tried("V00", 1);
    outcome.add(inside.outcome);
    outcome.add(login::try_out(fleet, row, &inside.guarded, known).await);
    outcome
}

/// A finding about a tenant.
fn of_tenant(row: &TenantRow, code: &'static str, seen: String, remedy: String) -> Finding {
    Finding {
        code,
        server: row.record.server.clone(),
        tenant: Some(row.record.slug.to_string()),
        database: Some(row.record.database()),
        seen,
        remedy,
    }
}

fn not_looked_at(row: &TenantRow, why: String) -> Finding {
    let remedy = "see what holds it up (pg_stat_activity, pg_locks), and verify again".to_owned();
    of_tenant(row, "V00", why, remedy)
}

/// By code, and of each check no more than a reader can use: what is about a database first, because of roles there may be
/// hundreds.
fn bounded(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|a, b| {
        let key = |of: &Finding| (of.code, of.database.is_none());
        key(a)
            .cmp(&key(b))
            .then_with(|| (&a.server, &a.tenant, &a.seen).cmp(&(&b.server, &b.tenant, &b.seen)))
    });
    let mut counted: BTreeMap<&'static str, usize> = BTreeMap::new();
    for finding in &mut findings {
        if let Some((end, _)) = finding.seen.char_indices().nth(MAX_SEEN) {
            finding.seen.truncate(end);
            finding.seen.push('…');
        }
        *counted.entry(finding.code).or_default() += 1;
    }
    let mut kept: BTreeMap<&'static str, usize> = BTreeMap::new();
    findings.retain_mut(|finding| {
        let nth = kept.entry(finding.code).or_default();
        *nth += 1;
        let more = counted.get(finding.code).map_or(0, |all| all.saturating_sub(MAX_FINDINGS));
        if *nth == MAX_FINDINGS && more > 0 {
            finding.seen.push_str(&format!(" (and {more} more)"));
        }
        *nth <= MAX_FINDINGS
    });
    findings
}
