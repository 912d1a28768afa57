//! What tenants stand on: editions, tiers, servers; and whether a name or a base URL is free.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::super::access::Acting;
use super::super::{Problem, ProblemCode};
use super::read::Asked;
use crate::catalog::OperatorRole;
use crate::tenant::{BaseUrl, Slug};

/// How long a server may take to show that it lives.
const ALIVE: Duration = Duration::from_secs(3);

/// An edition.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Edition {
    name: String,
    /// The version of its newest file; null when its files can't be used.
    version: Option<i64>,
    /// Its files, in order.
    files: Vec<String>,
    /// Why its files can't be used.
    broken: Option<String>,
}

/// A tier.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Tier {
    name: String,
    /// Its limits, as in the settings.
    #[schema(value_type = Object)]
    limits: Value,
}

/// A server.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Server {
    name: String,
    /// Whether it answers the admin now.
    answers: bool,
    /// Tenants that are not purged.
    tenants: u64,
    /// Its budget of connections, as in the settings.
    #[schema(value_type = Object)]
    budget: Value,
    /// The most that live routers may hold together, as they know it.
    total: Option<u32>,
}

/// Some editions.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Editions {
    editions: Vec<Edition>,
}

/// Some tiers.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Tiers {
    tiers: Vec<Tier>,
}

/// Some servers.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Servers {
    servers: Vec<Server>,
}

/// List editions that the caller is for.
#[utoipa::path(get, path = "/editions", tag = "fleet", responses((status = 200, body = Editions)))]
pub(super) async fn editions(acting: Acting) -> Result<Json<Editions>, Problem> {
    let read = acting.fleet.editions();
    let sound = read.sound.iter().map(|(name, edition)| Edition {
        name: name.clone(),
        version: Some(edition.latest()),
        files: edition.files.iter().map(|file| file.name.clone()).collect(),
        broken: None,
    });
    let broken = read.broken.iter().map(|(name, error)| Edition {
        name: name.clone(),
        version: None,
        files: Vec::new(),
        broken: Some(error.to_string()),
    });
    let mut editions: Vec<_> = sound.chain(broken).collect();
    editions.retain(|edition| acting.caller.scopes.admits_edition(Some(&edition.name)));
    editions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(Editions { editions }))
}

/// List tiers.
#[utoipa::path(get, path = "/tiers", tag = "fleet", responses((status = 200, body = Tiers)))]
pub(super) async fn tiers(acting: Acting) -> Result<Json<Tiers>, Problem> {
    let tiers = acting.fleet.settings.tiers.iter();
    let tiers = tiers.map(|(name, limits)| Tier {
        name: name.clone(),
        limits: serde_json::to_value(limits).unwrap_or_default(),
    });
    Ok(Json(Tiers { tiers: tiers.collect() }))
}

/// List servers: whether they answer, how many tenants they have, their budgets.
#[utoipa::path(get, path = "/servers", tag = "fleet", responses((status = 200, body = Servers)))]
pub(super) async fn servers(acting: Acting) -> Result<Json<Servers>, Problem> {
    acting.caller.needs_all(OperatorRole::Viewer)?;
    let fleet = &acting.fleet;
    let tenants: BTreeMap<_, _> = fleet
        .catalog
        .uses(crate::catalog::Named::Server)
        .await?
        .into_iter()
        .map(|u| (u.name, u.tenants))
        .collect();
    let mut totals = BTreeMap::new();
    for known in fleet.catalog.known_budgets().await? {
        totals
            .entry(known.server)
            .and_modify(|total: &mut u32| *total = known.total.max(*total))
            .or_insert(known.total);
    }
    let servers = fleet.servers.iter().map(|(name, server)| {
        let (tenants, total) = (tenants.get(name).copied().unwrap_or(0), totals.get(name).copied());
        let budget = serde_json::to_value(fleet.settings.budget(name)).unwrap_or_default();
        async move {
            let asked = tokio::time::timeout(ALIVE, server.connect_admin());
            let answers = asked.await.is_ok_and(|connected| connected.is_ok());
            Server { name: name.to_owned(), answers, tenants, budget, total }
        }
    });
    Ok(Json(Servers { servers: futures_util::future::join_all(servers).await }))
}

/// What to ask about.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FreeQuery {
    /// A name.
    slug: Option<String>,
    /// A base URL.
    base_url: Option<String>,
}

/// Whether something could be a new tenant's.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Free {
    free: bool,
    /// Why not.
    why: Option<String>,
}

impl Free {
    fn unless(why: Option<String>) -> Self {
        Self { free: why.is_none(), why }
    }
}

/// Whether a name, a base URL could be a new tenant's.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct WhatIsFree {
    slug: Option<Free>,
    base_url: Option<Free>,
}

/// Ask whether a name or a base URL is free.
#[utoipa::path(get, path = "/free", tag = "fleet", params(FreeQuery), responses((status = 200, body = WhatIsFree)))]
pub(super) async fn free(
    acting: Acting,
    Asked(query): Asked<FreeQuery>,
) -> Result<Json<WhatIsFree>, Problem> {
    acting.caller.needs(OperatorRole::Operator)?;
    let catalog = &acting.fleet.catalog;
    let mut answer = WhatIsFree { slug: None, base_url: None };
    if let Some(text) = &query.slug {
        answer.slug = Some(Free::unless(match text.parse::<Slug>() {
            Err(invalid) => Some(invalid.0),
            Ok(slug) => catalog.tenant_by_slug(slug.as_str()).await?.map(|_| "it is a tenant's".to_owned()),
        }));
    }
    if let Some(text) = &query.base_url {
        answer.base_url = Some(Free::unless(match text.parse::<BaseUrl>() {
            Err(invalid) => Some(invalid.0),
            Ok(url) => {
                let taken = catalog.base_url_is_taken(&url).await?;
                taken.then(|| "it is a tenant's, or nested with one".to_owned())
            }
        }));
    }
    Ok(Json(answer))
}

/// Over how long.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct MetricsQuery {
    /// Minutes until now, 60 when not given; reports are kept for two hours.
    #[param(minimum = 1, maximum = 120)]
    minutes: Option<u32>,
}

/// What a tenant's requests came to, as routers reported it.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct TenantMetrics {
    requests: u64,
    /// Of these, those answered with 5xx.
    errors: u64,
    /// Milliseconds within which half of them were answered.
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
}

/// What a tenant's requests came to.
#[utoipa::path(get, path = "/tenants/{slug}/metrics", tag = "tenants", params(("slug" = String, Path), MetricsQuery),
    responses((status = 200, body = TenantMetrics)))]
pub(super) async fn metrics(
    acting: Acting,
    Path(slug): Path<String>,
    Asked(query): Asked<MetricsQuery>,
) -> Result<Json<TenantMetrics>, Problem> {
    let minutes = query.minutes.unwrap_or(60);
    if !(1..=120).contains(&minutes) {
        return Err(Problem::new(ProblemCode::Invalid, "minutes: expected 1 to 120"));
    }
    let id = acting.caller.tenant(&acting.fleet, &slug).await?.record.id;
    let now = OffsetDateTime::now_utc();
    let from = now - Duration::from_secs(u64::from(minutes) * 60);
    let mut traffic = acting.fleet.catalog.traffic(std::slice::from_ref(&id), from, now).await?;
    let traffic = traffic.tenants.remove(&id).unwrap_or_default();
    let ms = |share: f64| traffic.latencies.quantile(share).map(|time| time.as_secs_f64() * 1e3);
    Ok(Json(TenantMetrics {
        requests: traffic.requests(),
        errors: traffic.errors,
        p50_ms: ms(0.5),
        p95_ms: ms(0.95),
        p99_ms: ms(0.99),
    }))
}
