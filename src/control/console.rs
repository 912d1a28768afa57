//! Console: the pages on which an operator sees the fleet, made here and sent whole: they need no build, no script and
//! nobody else's server.

mod assets;
mod chart;
mod document;
mod effective;
mod events;
mod fleet;
mod journal;
mod layout;
mod oidc;
mod rollout;
mod rollouts;
mod settings;
mod sign_in;
mod tenant;
mod tenants;
mod verify;
mod viewer;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use super::Control;

/// The pages, from `/` on.
pub(super) fn router() -> Router<Arc<Control>> {
    Router::new()
        .route("/", get(fleet::show))
        .route("/events", get(events::of_fleet))
        .route("/tenants", get(tenants::list).post(tenants::create))
        .route("/new-tenant", get(tenants::new))
        .route("/tenants/{slug}", get(tenant::show))
        .route("/tenants/{slug}/{word}", post(tenant::order))
        .route("/rollouts", get(rollouts::list).post(rollouts::plan))
        .route("/new-rollout", get(rollouts::new))
        .route("/rollouts/{id}", get(rollout::show))
        .route("/rollouts/{id}/events", get(events::of_rollout))
        .route("/rollouts/{id}/{word}", post(rollout::order))
        .route("/verify", get(verify::show).post(verify::run))
        .route("/verify/events", get(events::of_verification))
        .route("/journal", get(journal::list))
        .route("/settings", get(settings::show))
        .route("/settings/operators", post(settings::add))
        .route("/settings/operators/revoke", post(settings::revoke))
        .route("/settings/tokens", post(settings::add_token))
        .route("/settings/tokens/{id}/revoke", post(settings::revoke_token))
        .route("/sign-in", get(sign_in::show).post(sign_in::sign_in))
        .route("/sign-in/oidc", get(oidc::begin))
        .route(oidc::CALLBACK, get(oidc::finish))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/theme", post(sign_in::choose_theme))
        .route("/assets/{hash}/{name}", get(assets::serve))
        .fallback(tenants::missing)
}
