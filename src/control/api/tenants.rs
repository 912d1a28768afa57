//! `/v1/tenants`: create, list, get, suspend, resume.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use super::super::access::Acting;
use super::super::{Problem, ProblemCode};
use super::read::{Asked, Body};
use crate::catalog::{Filter, OperatorRole, TenantRow};
use crate::fleet::{Fleet, TenantSpec};
use crate::policy::Overrides;
use crate::tenant::{BaseUrl, Slug, State, Verb};

/// Which tenants to list.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// In this state.
    state: Option<String>,
    /// Of this edition.
    edition: Option<String>,
    /// With this text in slug or base URL.
    search: Option<String>,
}

/// Some tenants.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct TenantList {
    tenants: Vec<TenantRow>,
}

/// A tenant to be.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTenant {
    /// Its name: a-z, 0-9 and dashes.
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
    slug: String,
    /// Its line of schema versions; `defaults.edition` when not given.
    edition: Option<String>,
    /// Its limits; `defaults.tier` when not given.
    tier: Option<String>,
    /// Where its database is made; `defaults.server` when not given.
    server: Option<String>,
    /// Base URLs beside those from `listen.base_urls`.
    #[serde(default)]
    base_urls: Vec<String>,
    /// Labels, by which rollouts choose tenants and operators are for some.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// What it has different from its tier and from the defaults.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    settings: Overrides,
}

/// List tenants.
#[utoipa::path(get, path = "/tenants", tag = "tenants", params(ListQuery), responses((status = 200, body = TenantList)))]
pub(super) async fn list(
    acting: Acting,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<TenantList>, Problem> {
    let state = query.state.map(|state| state.parse::<State>()).transpose()?;
    let filter = Filter { state, edition: query.edition, search: query.search };
    let mut tenants = acting.fleet.catalog.tenants(&filter).await?;
    tenants.retain(|row| acting.caller.scopes.admits(row));
    Ok(Json(TenantList { tenants }))
}

/// Create a tenant, or finish a creation that was interrupted. One that is there as it is asked for is returned as it is.
#[utoipa::path(post, path = "/tenants", tag = "tenants", request_body = NewTenant, responses(
    (status = 201, body = TenantRow, description = "It serves.", headers(("location" = String), ("etag" = String)))
))]
pub(super) async fn create(acting: Acting, Body(new): Body<NewTenant>) -> Result<Response, Problem> {
    let Acting { caller, fleet } = acting;
    caller.needs(OperatorRole::Operator)?;
    let slug: Slug = new.slug.parse()?;
    let edition = new.edition.as_ref().or(fleet.settings.defaults.edition.as_ref());
    let labels: BTreeMap<_, _> = new.labels.into_iter().chain(caller.scopes.labels.clone()).collect();
    if !caller.scopes.admits_edition(edition.map(String::as_str)) {
        let detail = format!("`{}` is for tenants of other editions", caller.name);
        return Err(Problem::new(ProblemCode::Forbidden, detail));
    }
    if fleet.catalog.tenant_by_slug(slug.as_str()).await?.is_some_and(|row| !caller.scopes.admits(&row)) {
        return Err(Problem::new(ProblemCode::Taken, format!("the name `{slug}` is taken")));
    }
    let base_urls = new.base_urls.iter().map(|url| url.parse()).collect::<Result<Vec<BaseUrl>, _>>()?;
    let spec = TenantSpec {
        edition: new.edition,
        tier: new.tier,
        server: new.server,
        base_urls,
        overrides: new.settings,
        filling: None,
    };
    let row = to_its_end(async move {
        let row = fleet.create(&slug, &spec).await?;
        if labels.is_empty() || row.labels == labels {
            return Ok(row);
        }
        fleet.catalog.tenant_label(&row.record.id, &labels).await?;
        Ok(fleet.tenant(slug.as_str()).await?)
    })
    .await?;
    let location = format!("/v1/tenants/{}", row.record.slug);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(row)).into_response())
}

/// Show one tenant.
#[utoipa::path(get, path = "/tenants/{slug}", tag = "tenants", params(("slug" = String, Path)),
    responses((status = 200, body = TenantRow, headers(("etag" = String)))))]
pub(super) async fn get(acting: Acting, Path(slug): Path<String>) -> Result<Json<TenantRow>, Problem> {
    Ok(Json(acting.caller.tenant(&acting.fleet, &slug).await?))
}

/// Refuse its requests (403), data untouched.
#[utoipa::path(post, path = "/tenants/{slug}/suspend", tag = "tenants", params(("slug" = String, Path)),
    responses((status = 200, body = TenantRow)))]
pub(super) async fn suspend(acting: Acting, Path(slug): Path<String>) -> Result<Json<TenantRow>, Problem> {
    carry_out(acting, slug, Verb::Suspend).await
}

/// Serve it again after `suspend`.
#[utoipa::path(post, path = "/tenants/{slug}/resume", tag = "tenants", params(("slug" = String, Path)),
    responses((status = 200, body = TenantRow)))]
pub(super) async fn resume(acting: Acting, Path(slug): Path<String>) -> Result<Json<TenantRow>, Problem> {
    carry_out(acting, slug, Verb::Resume).await
}

async fn carry_out(acting: Acting, slug: String, verb: Verb) -> Result<Json<TenantRow>, Problem> {
    let Acting { caller, fleet } = acting;
    caller.needs(OperatorRole::Operator)?;
    caller.tenant(&fleet, &slug).await?;
    to_its_end(async move { Ok(Fleet::carry_out(&fleet, &slug, verb).await?) }).await.map(Json)
}

/// Work that goes on when the client goes away: half done it would wait for somebody to finish it.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let joined = tokio::spawn(work).await;
    joined.map_err(|error| Problem::new(ProblemCode::Internal, error.to_string()))?
}
