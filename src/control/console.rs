//! Console: the pages on which an operator sees the fleet.

use std::sync::Arc;

use axum::Router;
use axum::response::Html;
use axum::routing::get;

use super::Control;

/// The pages, from `/` on.
pub(super) fn router() -> Router<Arc<Control>> {
    Router::new().route("/", get(|| async { Html("<!doctype html><title>manybox</title><h1>manybox</h1>") }))
}
