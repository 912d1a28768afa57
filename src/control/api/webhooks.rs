//! `/v1/webhooks`: who is told of what happens to tenants and rollouts.

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::super::access::Acting;
use super::super::outgoing::{Inside, wrong_url};
use super::super::{Problem, ProblemCode, webhooks};
use super::read::{Body, Given, Nothing};
use crate::catalog::{OperatorRole, WebhookRow};
use crate::tenant::TenantId;

/// Most webhooks of a fleet.
const MOST: usize = 50;
/// Longest URL, and most kinds of events.
const MAX_URL: usize = 2000;
const MAX_EVENTS: usize = 50;

/// A webhook to be.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewWebhook {
    /// Where messages go: https, outside of private networks unless `control.webhook_networks` allows them.
    url: String,
    /// Kinds of events, such as `tenant.suspend` or `rollout.halted`; all when not given.
    #[serde(default)]
    events: Vec<String>,
}

/// A webhook with its secret, which is told once.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Added {
    webhook: WebhookRow,
    /// What its messages are signed with: `whsec_...`, as standard-webhooks has it.
    secret: String,
}

/// Some webhooks.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Webhooks {
    webhooks: Vec<WebhookRow>,
}

/// Add a webhook; its secret is in the answer, and never again.
#[utoipa::path(post, path = "/webhooks", tag = "webhooks", request_body = NewWebhook,
    responses((status = 201, body = Added)))]
pub(super) async fn add(acting: Acting, Body(new): Body<NewWebhook>) -> Result<Response, Problem> {
    acting.caller.needs_all(OperatorRole::Owner)?;
    let fleet = &acting.fleet;
    let inside = Inside::of_webhooks(&fleet.settings.control);
    let wrong =
        wrong_url(&new.url, inside).or_else(|| (new.url.len() > MAX_URL).then(|| "it is too long".into()));
    if let Some(wrong) = wrong {
        return Err(Problem::new(ProblemCode::Invalid, format!("url: {wrong}")));
    }
    let is_kind = |kind: &String| {
        let rest = kind.strip_prefix("tenant.").or_else(|| kind.strip_prefix("rollout."));
        rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
    };
    if new.events.len() > MAX_EVENTS || !new.events.iter().all(is_kind) {
        let detail = format!("events: expected up to {MAX_EVENTS} such as tenant.suspend or rollout.halted");
        return Err(Problem::new(ProblemCode::Invalid, detail));
    }
    if fleet.catalog.webhooks().await?.len() >= MOST {
        return Err(Problem::new(ProblemCode::Invalid, format!("there are {MOST} webhooks already")));
    }
    let (id, secret) = (TenantId::random()?, webhooks::new_secret()?);
    let sealed = fleet.seal_webhook(&id, &secret)?;
    let webhook = fleet.catalog.webhook_add(id.as_str(), &new.url, &new.events, &sealed).await?;
    let added = Added { webhook, secret: secret.expose().to_owned() };
    Ok((StatusCode::CREATED, Json(added)).into_response())
}

/// List webhooks: how far each has heard, and what hinders it.
#[utoipa::path(get, path = "/webhooks", tag = "webhooks", responses((status = 200, body = Webhooks)))]
pub(super) async fn list(acting: Acting) -> Result<Json<Webhooks>, Problem> {
    acting.caller.needs_all(OperatorRole::Owner)?;
    Ok(Json(Webhooks { webhooks: acting.fleet.catalog.webhooks().await? }))
}

/// Take a webhook away.
#[utoipa::path(delete, path = "/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 204)))]
pub(super) async fn remove(acting: Acting, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    acting.caller.needs_all(OperatorRole::Owner)?;
    there(acting.fleet.catalog.webhook_remove(&id).await?)
}

/// Try again at once, also one that nobody tries any more.
#[utoipa::path(post, path = "/webhooks/{id}/retry", tag = "webhooks", params(("id" = String, Path)),
    request_body(content = Option<Nothing>), responses((status = 204)))]
pub(super) async fn retry(
    acting: Acting,
    Path(id): Path<String>,
    Given(Nothing {}): Given<Nothing>,
) -> Result<StatusCode, Problem> {
    acting.caller.needs_all(OperatorRole::Owner)?;
    there(acting.fleet.catalog.webhook_retry(&id).await?)
}

fn there(was: bool) -> Result<StatusCode, Problem> {
    was.then_some(StatusCode::NO_CONTENT).ok_or_else(|| Problem::not_found("such webhook"))
}
