//! Admin: the control-plane HTTP on its own port: whether the process lives, and whether it can serve.

use std::io;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::directory::Directory;

/// The routes: `/live`, `/ready`.
pub fn router(directory: Directory) -> Router {
    Router::new()
        .route("/live", get(|| async { Json(json!({ "status": "live" })) }))
        .route("/ready", get(ready))
        .with_state(directory)
}

async fn ready(State(directory): State<Directory>) -> (StatusCode, Json<Value>) {
    if directory.is_ready() {
        (StatusCode::OK, Json(json!({ "status": "ready", "tenants": directory.len() })))
    } else {
        let answer = json!({ "status": "starting", "reason": "the catalog has not been read yet" });
        (StatusCode::SERVICE_UNAVAILABLE, Json(answer))
    }
}

/// Serves until `shutdown` ends.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}
