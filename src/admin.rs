//! Admin: the control-plane HTTP on its own port: whether the process lives, can serve, and what it does.

mod access;
mod report;
mod scrape;

pub use access::{Access, AccessError};
pub use report::{HolderLine, ServerLine, TenantLine};

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::directory::{Directory, Freshness};
use crate::pool::Pools;
use crate::telemetry::{Metrics, Traffic};
use crate::tenant::Host;
use crate::vault::KeyRing;

/// What the admin port can tell of. It needs no connection to any server.
pub struct Admin {
    /// Every tenant.
    pub directory: Directory,
    /// Every connection.
    pub pools: Pools,
    /// Counts of all requests.
    pub metrics: Metrics,
    /// Counts by tenant.
    pub traffic: Traffic,
    /// The master keys.
    pub keys: Arc<KeyRing>,
    /// How many tenants, the busiest, have metrics of their own.
    pub top: usize,
    /// How far the router is.
    pub phase: watch::Receiver<Phase>,
}

/// How far a router is: a load balancer sends requests to one that is open, and to no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The data ports are closed still.
    Opening,
    /// Clients can connect.
    Open,
    /// It is about to stop.
    Stopping,
}

/// The routes: `/live`, `/ready`, `/allowed`, `/metrics`, `/servers`, `/tenants`, for those who have access.
pub fn router(admin: impl Into<Arc<Admin>>, access: Access) -> Router {
    let admin = admin.into();
    let registry = Arc::new(scrape::registry(&admin));
    Router::new()
        .route("/live", get(|| async { Json(json!({ "status": "live" })) }))
        .route("/ready", get(ready))
        .route("/allowed", get(allowed))
        .route("/metrics", get(move || std::future::ready(metrics(&registry))))
        .route("/servers", get(|State(admin): State<Arc<Admin>>| async move { Json(admin.servers()) }))
        .route("/tenants", get(|State(admin): State<Arc<Admin>>| async move { Json(admin.tenants()) }))
        .with_state(admin)
        .layer(from_fn_with_state(Arc::new(access), access::check))
}

/// What gives the text of `/metrics` as it is now.
pub fn scrape(admin: &Arc<Admin>) -> impl Fn() -> String + Send + Sync + 'static {
    let registry = scrape::registry(admin);
    move || {
        let mut text = String::new();
        // Cut short where it fails; nothing of ours does.
        let _ = encode(&mut text, &registry);
        text
    }
}

async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, Json<Value>) {
    let not_ready = |status: &str, reason: &str| {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": status, "reason": reason })))
    };
    let phase = *admin.phase.borrow();
    if phase == Phase::Stopping {
        return not_ready("stopping", "this router is about to stop: send requests to others");
    }
    if let Some(misfit) = admin.keys.misfit() {
        return not_ready("wrong-key", &misfit.to_string());
    }
    match admin.directory.freshness() {
        Freshness::Followed | Freshness::Snapshot(_) if phase == Phase::Opening => {
            not_ready("starting", "the data ports are about to open")
        }
        Freshness::Unread => match admin.directory.obstacle() {
            Some(obstacle) => {
                not_ready("starting", &format!("the catalog has not been read yet: {}", obstacle.reason))
            }
            None => not_ready("starting", "the catalog has not been read yet"),
        },
        Freshness::Stale => not_ready(
            "stale",
            "the task that follows the catalog failed (see the log) and has not read it again yet: tenants' changes since \
             are missing",
        ),
        Freshness::Snapshot(taken_at) => (
            StatusCode::OK,
            Json(json!({
                "status": "ready",
                "tenants": admin.directory.len(),
                "directory": "on disk: the catalog is away",
                "directory_age_s": (OffsetDateTime::now_utc() - taken_at).whole_seconds(),
            })),
        ),
        Freshness::Followed => {
            let mut answer = json!({ "status": "ready", "tenants": admin.directory.len() });
            // What would keep it from being ready after a restart.
            if let Some(warning) = admin.keys.warning() {
                answer["warning"] = warning.into();
            }
            (StatusCode::OK, Json(answer))
        }
    }
}

#[derive(Deserialize)]
struct Asked {
    domain: String,
}

/// Whether a certificate for this host may be asked for: what Caddy's `on_demand_tls` calls `ask`. It looks at the
/// status alone. A host that only forms of `listen.base_urls` would lead to is nobody's.
async fn allowed(
    State(admin): State<Arc<Admin>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> (StatusCode, Json<Value>) {
    let answer = |status, reason: &str| (status, Json(json!({ "reason": reason })));
    let host = asked.ok().and_then(|Query(asked)| Host::parse_authority(&asked.domain).ok());
    let Some((host, None)) = host else {
        return answer(StatusCode::BAD_REQUEST, "expected ?domain= and a host name without a port");
    };
    if !admin.directory.is_ready() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "the catalog has not been read yet");
    }
    if admin.directory.has_host(&host) {
        answer(StatusCode::OK, "a tenant has a base URL on this host")
    } else {
        answer(StatusCode::NOT_FOUND, "no tenant has a base URL on this host")
    }
}

fn metrics(registry: &Registry) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
