//! `/v1/tenants`: create, list, get, change.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::access::Acting;
use super::super::change::{self, Changes};
use super::super::jobs::Work;
use super::super::{Problem, ProblemCode, answer};
use super::read::{Asked, Body};
use crate::catalog::{Cursor, JobRow, Listing, OperatorRole, Scopes, TenantRow};
use crate::fleet::TenantSpec;
use crate::policy::Overrides;
use crate::tenant::{BaseUrl, Slug, State, labelled};

/// Tenants of a page when nothing is said.
const PAGE: usize = 100;

/// Which tenants to list, and in which order.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// In this state; purged ones are listed only when asked for.
    state: Option<String>,
    /// Of this edition.
    edition: Option<String>,
    /// Of this tier.
    tier: Option<String>,
    /// On this server.
    server: Option<String>,
    /// With this label, as `name=value`.
    label: Option<String>,
    /// With this text in slug or base URL.
    search: Option<String>,
    /// `failed`, `quarantined`, `unsettled` or `lost-secrets`.
    trouble: Option<String>,
    /// `slug`, `newest` or `version`.
    order: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    /// How many at most: 100 when not given.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
}

/// Some tenants.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct TenantList {
    tenants: Vec<TenantRow>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
}

/// A tenant to be.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTenant {
    /// Its name: a-z, 0-9 and dashes.
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
    #[schema(value_type = BTreeMap<String, Value>)]
    settings: Overrides,
}

/// What is to be otherwise; what is left out stays.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    /// Its limits.
    tier: Option<String>,
    /// By key; null goes back to the default.
    #[serde(default)]
    settings: BTreeMap<String, Value>,
    /// By name; null takes it away.
    #[serde(default)]
    labels: BTreeMap<String, Option<String>>,
    /// Base URLs of its own, beside those from `listen.base_urls`.
    base_urls: Option<Vec<String>>,
}

/// List tenants, a page at a time.
#[utoipa::path(get, path = "/tenants", tag = "tenants", params(ListQuery), responses((status = 200, body = TenantList)))]
pub(super) async fn list(
    acting: Acting,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<TenantList>, Problem> {
    let scopes = &acting.caller.scopes;
    let mut labels = scopes.labels.clone();
    if let Some(label) = &query.label {
        let pair = label.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) =
            pair.ok_or_else(|| Problem::new(ProblemCode::Invalid, "label: expected name=value"))?;
        if labels.insert(name.to_owned(), value.to_owned()).is_some_and(|own| own != value) {
            return Ok(Json(TenantList { tenants: Vec::new(), next: None }));
        }
    }
    let asked = Scopes { editions: query.edition.map(|edition| [edition].into()), ..Scopes::default() };
    let editions = scopes.and(&asked).editions;
    let listing = Listing {
        search: query.search,
        state: query.state.map(|state| state.parse::<State>()).transpose()?,
        editions,
        tier: query.tier,
        server: query.server,
        labels,
        trouble: query.trouble.map(|trouble| trouble.parse()).transpose()?,
        order: query.order.map(|order| order.parse()).transpose()?.unwrap_or_default(),
        after: query.after.map(|after| after.parse::<Cursor>()).transpose()?,
    };
    let page = acting.fleet.catalog.tenants_page(&listing, query.limit.unwrap_or(PAGE)).await?;
    Ok(Json(TenantList { tenants: page.tenants, next: page.next.map(|next| next.to_string()) }))
}

/// Create a tenant, or finish a creation that was interrupted. One that is there as it is asked for is answered as it is.
#[utoipa::path(post, path = "/tenants", tag = "tenants", request_body = NewTenant, responses(
    (status = 201, body = TenantRow, description = "It serves."),
    (status = 202, body = JobRow, description = "It is being made: with `Prefer: respond-async`, or when it takes long.")
))]
pub(super) async fn create(acting: Acting, Body(new): Body<NewTenant>) -> Result<Response, Problem> {
    let Acting { caller, fleet, .. } = &acting;
    caller.needs(OperatorRole::Operator)?;
    let slug: Slug = new.slug.parse()?;
    let edition = new.edition.as_ref().or(fleet.settings.defaults.edition.as_ref());
    let mut labels = labelled(&BTreeMap::new(), &new.labels)?;
    labels.extend(caller.scopes.labels.clone());
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
        labels,
        ..TenantSpec::default()
    };
    let row = fleet.begin_create(&slug, &spec).await?;
    if row.record.state != State::Creating {
        return Ok(answer::tenant(StatusCode::CREATED, row));
    }
    let work = Work::Create { tenant: row.record.id.to_string() };
    answer::of_work(&acting, &row, &work, StatusCode::CREATED).await
}

/// Show one tenant.
#[utoipa::path(get, path = "/tenants/{slug}", tag = "tenants", params(("slug" = String, Path)),
    responses((status = 200, body = TenantRow), (status = 304, description = "It is as `If-None-Match` knows it.")))]
pub(super) async fn get(acting: Acting, Path(slug): Path<String>) -> Result<Response, Problem> {
    let row = acting.caller.tenant(&acting.fleet, &slug).await?;
    Ok(answer::shown(&acting, row))
}

/// Change tier, settings, labels or base URLs. With `If-Match` only if it is still as it was read.
#[utoipa::path(patch, path = "/tenants/{slug}", tag = "tenants", params(("slug" = String, Path)), request_body = Patch,
    responses((status = 200, body = TenantRow)))]
pub(super) async fn patch(
    acting: Acting,
    Path(slug): Path<String>,
    Body(patch): Body<Patch>,
) -> Result<Response, Problem> {
    acting.caller.needs(OperatorRole::Operator)?;
    let row = acting.caller.tenant(&acting.fleet, &slug).await?;
    acting.wanted.check(&row)?;
    let settings = patch.settings.into_iter().map(|(key, value)| {
        let value = text(value).ok_or_else(|| {
            Problem::new(
                ProblemCode::Invalid,
                format!("settings.{key}: expected a text, a number, true, false, a list of these, or null"),
            )
        })?;
        Ok((key, value))
    });
    let changes = Changes {
        tier: patch.tier,
        settings: settings.collect::<Result<_, Problem>>()?,
        labels: patch.labels.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect(),
        base_urls: patch
            .base_urls
            .map(|urls| urls.iter().map(|url| url.parse()).collect::<Result<Vec<BaseUrl>, _>>())
            .transpose()?,
    };
    let own = &acting.caller.scopes.labels;
    if changes.labels.iter().any(|(name, value)| own.get(name).is_some_and(|own| own != value)) {
        let detail = format!("`{}` is for tenants with that label as it is", acting.caller.name);
        return Err(Problem::new(ProblemCode::Forbidden, detail));
    }
    Ok(answer::tenant(StatusCode::OK, change::apply(&acting.fleet, &row, &changes).await?))
}

/// A setting's value as text; empty for null. `None` for what no setting has.
fn text(value: Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(items) => Some(items.into_iter().map(text).collect::<Option<Vec<_>>>()?.join(",")),
        Value::Object(_) => None,
    }
}
