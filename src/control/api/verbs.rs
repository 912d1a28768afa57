//! `/v1/tenants/{slug}/...`: what is done to a tenant: its state, its name, copies of it, tokens for it.

use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::super::access::Acting;
use super::super::jobs::Work;
use super::super::{Problem, ProblemCode, answer, token};
use super::read::{Body, Given, Nothing};
use crate::catalog::{JobRow, OperatorRole, TenantRow};
use crate::fleet::moment;
use crate::tenant::{Slug, Verb};

/// Longest time that a token may hold.
const MAX_TOKEN: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long to keep a retired tenant.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Retire {
    /// Until then at least; `defaults.purge_grace` when not given.
    #[serde(default, with = "time::serde::rfc3339::option")]
    until: Option<OffsetDateTime>,
}

/// How to purge.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Purge {
    /// Before the time until which it is kept.
    #[serde(default)]
    now: bool,
}

/// The name of a tenant that is made from another, and what it has different.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Clone {
    /// Its name: a-z, 0-9 and dashes.
    slug: String,
    /// Its tier; that of the other when not given.
    tier: Option<String>,
    /// Its server; that of the other when not given.
    server: Option<String>,
}

/// Another name.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rename {
    /// a-z, 0-9 and dashes.
    slug: String,
}

/// What a token says.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// The API role to claim.
    role: String,
    /// Further claims.
    #[serde(default)]
    #[schema(value_type = Object)]
    claims: Map<String, Value>,
    /// How long it holds, seconds; an hour when not given, 30 days at most.
    #[schema(minimum = 1, maximum = 2_592_000)]
    seconds: Option<u64>,
}

/// A token.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Token {
    token: String,
}

/// Refuse its requests (403), data untouched.
#[utoipa::path(post, path = "/tenants/{slug}/suspend", tag = "tenants", params(("slug" = String, Path)),
    request_body(content = Option<Nothing>), responses((status = 200, body = TenantRow), (status = 202, body = JobRow)))]
pub(super) async fn suspend(
    acting: Acting,
    Path(slug): Path<String>,
    Given(Nothing {}): Given<Nothing>,
) -> Result<Response, Problem> {
    carry_out(acting, &slug, Verb::Suspend, OperatorRole::Operator, false, None).await
}

/// Serve it again after `suspend`.
#[utoipa::path(post, path = "/tenants/{slug}/resume", tag = "tenants", params(("slug" = String, Path)),
    request_body(content = Option<Nothing>), responses((status = 200, body = TenantRow), (status = 202, body = JobRow)))]
pub(super) async fn resume(
    acting: Acting,
    Path(slug): Path<String>,
    Given(Nothing {}): Given<Nothing>,
) -> Result<Response, Problem> {
    carry_out(acting, &slug, Verb::Resume, OperatorRole::Operator, false, None).await
}

/// Take it out of service (404) and keep its database.
#[utoipa::path(post, path = "/tenants/{slug}/retire", tag = "tenants", params(("slug" = String, Path)),
    request_body(content = Option<Retire>), responses((status = 200, body = TenantRow), (status = 202, body = JobRow)))]
pub(super) async fn retire(
    acting: Acting,
    Path(slug): Path<String>,
    Given(how): Given<Retire>,
) -> Result<Response, Problem> {
    carry_out(acting, &slug, Verb::Retire, OperatorRole::Operator, false, how.until).await
}

/// Bring it back into service after `retire`.
#[utoipa::path(post, path = "/tenants/{slug}/restore", tag = "tenants", params(("slug" = String, Path)),
    request_body(content = Option<Nothing>), responses((status = 200, body = TenantRow), (status = 202, body = JobRow)))]
pub(super) async fn restore(
    acting: Acting,
    Path(slug): Path<String>,
    Given(Nothing {}): Given<Nothing>,
) -> Result<Response, Problem> {
    carry_out(acting, &slug, Verb::Restore, OperatorRole::Operator, false, None).await
}

/// Drop a retired tenant's database and login for good. Takes an owner and a reason (`X-Reason`).
#[utoipa::path(post, path = "/tenants/{slug}/purge", tag = "tenants",
    params(("slug" = String, Path), ("x-reason" = String, Header)),
    request_body(content = Option<Purge>), responses((status = 200, body = TenantRow), (status = 202, body = JobRow)))]
pub(super) async fn purge(
    acting: Acting,
    Path(slug): Path<String>,
    Given(how): Given<Purge>,
) -> Result<Response, Problem> {
    acting.caller.needs(OperatorRole::Owner)?;
    acting.needs_reason()?;
    let row = acting.caller.tenant(&acting.fleet, &slug).await?;
    if let Some(until) = row.keep_until.filter(|until| !how.now && *until > OffsetDateTime::now_utc()) {
        let detail = format!(
            "tenant `{slug}` is kept until {}; restore it, or purge it with \"now\": true",
            moment(until)
        );
        return Err(Problem::new(ProblemCode::WrongState, detail));
    }
    carry_out(acting, &slug, Verb::Purge, OperatorRole::Owner, how.now, None).await
}

async fn carry_out(
    acting: Acting,
    slug: &str,
    verb: Verb,
    role: OperatorRole,
    now: bool,
    until: Option<OffsetDateTime>,
) -> Result<Response, Problem> {
    acting.caller.needs(role)?;
    let row = acting.caller.tenant(&acting.fleet, slug).await?;
    acting.wanted.check(&row)?;
    let state = row.record.state;
    if !verb.from().contains(&state) {
        let detail = format!("cannot {verb} `{slug}`: it is {state}; {}", verb.hint(state));
        return Err(Problem::new(ProblemCode::WrongState, detail));
    }
    let work = Work::CarryOut { tenant: row.record.id.to_string(), verb: verb.to_string(), now, until };
    answer::of_work(&acting, &row, &work, StatusCode::OK).await
}

/// Have routers read its schema and in-database configuration again.
#[utoipa::path(post, path = "/tenants/{slug}/reload", tag = "tenants", params(("slug" = String, Path)),
    request_body(content = Option<Nothing>), responses((status = 200, body = TenantRow)))]
pub(super) async fn reload(
    acting: Acting,
    Path(slug): Path<String>,
    Given(Nothing {}): Given<Nothing>,
) -> Result<Response, Problem> {
    acting.caller.needs(OperatorRole::Operator)?;
    let row = acting.caller.tenant(&acting.fleet, &slug).await?;
    acting.fleet.catalog.tenant_reload(&row.record.id).await?;
    Ok(answer::tenant(StatusCode::OK, row))
}

/// Give it another name, and the base URLs that go with it.
#[utoipa::path(post, path = "/tenants/{slug}/rename", tag = "tenants", params(("slug" = String, Path)),
    request_body = Rename, responses((status = 200, body = TenantRow)))]
pub(super) async fn rename(
    acting: Acting,
    Path(slug): Path<String>,
    Body(new): Body<Rename>,
) -> Result<Response, Problem> {
    acting.caller.needs(OperatorRole::Operator)?;
    let row = acting.caller.tenant(&acting.fleet, &slug).await?;
    acting.wanted.check(&row)?;
    let new: Slug = new.slug.parse()?;
    if acting
        .fleet
        .catalog
        .tenant_by_slug(new.as_str())
        .await?
        .is_some_and(|other| other.record.id != row.record.id)
    {
        return Err(Problem::new(ProblemCode::Taken, format!("the name `{new}` is taken")));
    }
    Ok(answer::tenant(StatusCode::OK, acting.fleet.rename(&slug, &new).await?))
}

/// Make a tenant from this one as it is now; it is served meanwhile.
#[utoipa::path(post, path = "/tenants/{slug}/clone", tag = "tenants", params(("slug" = String, Path)),
    request_body = Clone, responses((status = 201, body = TenantRow), (status = 202, body = JobRow)))]
pub(super) async fn clone(
    acting: Acting,
    Path(slug): Path<String>,
    Body(new): Body<Clone>,
) -> Result<Response, Problem> {
    acting.caller.needs(OperatorRole::Operator)?;
    let row = acting.caller.tenant(&acting.fleet, &slug).await?;
    let name: Slug = new.slug.parse()?;
    if acting.fleet.catalog.tenant_by_slug(name.as_str()).await?.is_some() {
        return Err(Problem::new(ProblemCode::Taken, format!("the name `{name}` is taken")));
    }
    let work = Work::Clone {
        source: row.record.id.to_string(),
        slug: name.to_string(),
        tier: new.tier,
        server: new.server,
    };
    let begun = acting.jobs.begin(acting.act.clone(), Some((&row.record.id, &slug)), &work).await?;
    match answer::result(&acting, begun).await? {
        Ok(_) => Ok(answer::tenant(StatusCode::CREATED, acting.fleet.tenant(name.as_str()).await?)),
        Err(job) => Ok(answer::accepted(job)),
    }
}

/// Back its database up into the folder `control.backups`, while it is served. Always a job.
#[utoipa::path(post, path = "/tenants/{slug}/backup", tag = "tenants", params(("slug" = String, Path)),
    request_body(content = Option<Nothing>), responses((status = 202, body = JobRow)))]
pub(super) async fn backup(
    acting: Acting,
    Path(slug): Path<String>,
    Given(Nothing {}): Given<Nothing>,
) -> Result<Response, Problem> {
    acting.caller.needs(OperatorRole::Operator)?;
    let row = acting.caller.tenant(&acting.fleet, &slug).await?;
    let folder = acting.fleet.settings.control.backups.clone().ok_or_else(|| {
        Problem::new(
            ProblemCode::Invalid,
            "there is no folder for backups: set control.backups, or use `manybox tenant backup`",
        )
    })?;
    let work = Work::Backup { tenant: row.record.id.to_string(), folder };
    let begun = acting.jobs.begin(acting.act.clone(), Some((&row.record.id, &slug)), &work).await?;
    Ok(answer::accepted(begun.row))
}

/// Make a signed token for its API. Takes a reason (`X-Reason`), which the tenant's journal keeps.
#[utoipa::path(post, path = "/tenants/{slug}/token", tag = "tenants",
    params(("slug" = String, Path), ("x-reason" = String, Header)),
    request_body = NewToken, responses((status = 200, body = Token)))]
pub(super) async fn token(
    acting: Acting,
    Path(slug): Path<String>,
    Body(new): Body<NewToken>,
) -> Result<Response, Problem> {
    acting.caller.needs(OperatorRole::Operator)?;
    acting.needs_reason()?;
    let row = acting.caller.tenant(&acting.fleet, &slug).await?;
    let time = Duration::from_secs(new.seconds.unwrap_or(3600));
    if time.is_zero() || time > MAX_TOKEN {
        return Err(Problem::new(ProblemCode::Invalid, "seconds: expected 1 to 2592000 (30 days)"));
    }
    let token = token::issue(&acting.fleet, &row, &new.role, new.claims, time)?;
    let detail = serde_json::json!({ "role": new.role, "seconds": time.as_secs() });
    acting.fleet.catalog.note(&row.record.id, "token", &detail).await?;
    Ok(Json(Token { token }).into_response())
}
