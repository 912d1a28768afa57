//! The API below `/v1`: JSON in and out, described by the document at `/openapi.json`.

mod drift;
mod fleet;
mod jobs;
mod journal;
mod read;
mod rollouts;
mod tenants;
mod verbs;
mod verify;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, ResponseBuilder, SecurityRequirement};
use utoipa::{OpenApi as _, PartialSchema as _, ToSchema as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::ProblemBody;
use super::{Control, Problem, ProblemCode};

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "manybox control",
    description = "The fleet by HTTP: tenants, rollouts, jobs, the journal. Errors are problems (RFC 9457) with codes of manybox.",
    license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT")
))]
struct Document;

/// The routes, without `/v1` in front.
pub(super) fn router() -> Router<Arc<Control>> {
    let (router, _) = described().split_for_parts();
    router
        .fallback(|| async { Problem::not_found("such path; see /openapi.json") })
        .method_not_allowed_fallback(|| async {
            Problem::new(ProblemCode::MethodNotAllowed, "the path knows other methods; see /openapi.json")
        })
}

fn described() -> OpenApiRouter<Arc<Control>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::get, tenants::patch))
        .routes(routes!(verbs::suspend))
        .routes(routes!(verbs::resume))
        .routes(routes!(verbs::retire))
        .routes(routes!(verbs::restore))
        .routes(routes!(verbs::purge))
        .routes(routes!(verbs::reload))
        .routes(routes!(verbs::rename))
        .routes(routes!(verbs::clone))
        .routes(routes!(verbs::backup))
        .routes(routes!(verbs::token))
        .routes(routes!(drift::drift))
        .routes(routes!(fleet::metrics))
        .routes(routes!(journal::list))
        .routes(routes!(fleet::editions))
        .routes(routes!(fleet::tiers))
        .routes(routes!(fleet::servers))
        .routes(routes!(fleet::free))
        .routes(routes!(rollouts::list, rollouts::plan))
        .routes(routes!(rollouts::get))
        .routes(routes!(rollouts::run))
        .routes(routes!(rollouts::pause))
        .routes(routes!(rollouts::abort))
        .routes(routes!(rollouts::resume))
        .routes(routes!(rollouts::retry))
        .routes(routes!(rollouts::skip))
        .routes(routes!(verify::verify))
        .routes(routes!(webhooks::list, webhooks::add))
        .routes(routes!(webhooks::remove))
        .routes(routes!(webhooks::retry))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::events))
}

/// The description of the API.
pub fn openapi() -> OpenApi {
    let (_, own) = described().split_for_parts();
    let mut document =
        OpenApiRouter::<()>::new().nest("/v1", OpenApiRouter::with_openapi(own)).into_openapi();
    document.info = Document::openapi().info;
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    let components = document.components.get_or_insert_default();
    components.schemas.insert(ProblemBody::name().into_owned(), ProblemBody::schema());
    components.add_security_scheme(
        "token",
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
    );
    let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new("manybox-session")));
    components.add_security_scheme("session", cookie);
    document.security =
        Some(["token", "session"].map(|name| SecurityRequirement::new(name, [""; 0])).to_vec());
    // What any request may be answered with.
    let problem = Content::new(Some(RefOr::Ref(Ref::from_schema_name(ProblemBody::name()))));
    let problem = ResponseBuilder::new()
        .description("A problem: its code and detail say what was wrong, and what to do next.")
        .content("application/problem+json", problem)
        .build();
    for path in document.paths.paths.values_mut() {
        let operations = [&mut path.get, &mut path.post, &mut path.put, &mut path.patch, &mut path.delete];
        for operation in operations.into_iter().flatten() {
            operation.responses.responses.insert("default".into(), RefOr::T(problem.clone()));
        }
    }
    document
}
