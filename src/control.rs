//! Control: the control service: the fleet by HTTP for pipelines, and a console for people, by the functions that commands run.

pub mod access;
mod answer;
mod api;
mod change;
mod console;
mod jobs;
mod keys;
mod layers;
mod look;
mod oidc;
mod once;
mod outgoing;
mod problem;
mod random;
mod request_id;
mod streams;
mod token;
mod trace;
mod wanted;
mod webhooks;

pub use api::openapi;
pub use jobs::{Begun, Jobs, Work};
pub use problem::{Problem, ProblemCode};
pub use token::issue as issue_token;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use tokio::sync::Semaphore;

use crate::fleet::Fleet;
use crate::otlp::Tracer;
use look::LastLook;
use oidc::Oidc;
use streams::Streams;

/// Most streams of jobs at the same time.
const MAX_WATCHERS: usize = 200;
/// Longest body of a request, bytes.
const MAX_BODY: usize = 1024 * 1024;

/// What the control service works with. All that must outlive it is in the catalog, so that others of its kind may run
/// beside it.
pub struct Control {
    /// The fleet, by nobody's order: requests work with one that [acts](Fleet::acting) for its caller.
    pub fleet: Fleet,
    /// Long work.
    pub jobs: Jobs,
    watchers: Arc<Semaphore>,
    look: LastLook,
    oidc: Oidc,
    streams: Streams,
    tracer: Option<Tracer>,
}

impl Control {
    /// A control service over this fleet, which begins to work on the fleet's jobs. Requests and jobs are traced by `tracer`. It
    /// takes a tokio runtime.
    pub fn new(fleet: Fleet, tracer: Option<Tracer>) -> Self {
        let jobs = Jobs::start(fleet.clone(), tracer.clone());
        jobs.seal_the_journal();
        webhooks::start(fleet.clone(), jobs.clone());
        keys::follow(fleet.clone(), jobs.clone());
        Self {
            fleet,
            jobs,
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            look: LastLook::default(),
            oidc: Oidc::default(),
            streams: Streams::default(),
            tracer,
        }
    }

    /// Takes up no further work, and waits for what is under way: what can be cut off ends, and whoever is alive goes on with it.
    pub async fn stop(&self) {
        self.jobs.stop();
        self.jobs.ended().await;
    }
}

/// The routes: `/healthz`, `/openapi.json`, the API below `/v1`, the console everywhere else.
pub fn router(control: &Arc<Control>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/openapi.json", get(|| async { axum::Json(openapi()) }))
        .nest("/v1", api::router())
        .merge(console::router())
        .layer(from_fn_with_state(Arc::clone(control), once::once))
        .layer(from_fn_with_state(Arc::clone(control), layers::journal))
        .layer(from_fn_with_state(Arc::clone(control), access::identify))
        .layer(from_fn_with_state(Arc::clone(control), access::known_host))
        .layer(from_fn_with_state(Arc::clone(control), trace::request))
        .layer(from_fn(layers::request_id))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::clone(control))
}

/// Whether the catalog answers.
async fn healthz(
    axum::extract::State(control): axum::extract::State<Arc<Control>>,
) -> Result<axum::Json<serde_json::Value>, Problem> {
    let made = control.fleet.catalog.made().await?;
    Ok(axum::Json(
        serde_json::json!({ "status": "ok", "catalog_migration": made.map(|made| made.migration) }),
    ))
}
