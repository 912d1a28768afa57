//! Signing in by an account of an OpenID issuer: there, and back.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use http::header::{HOST, REFRESH};
use http::{HeaderMap, HeaderValue, StatusCode};
use maud::html;

use super::super::oidc::Returned;
use super::super::{Control, Problem, access};
use super::document::{document, send};
use super::sign_in::{form, open};
use super::viewer::{Fields, Names, append, own_path, theme};
use crate::settings::ControlSettings;

/// Where the issuer sends browsers.
pub(super) const CALLBACK: &str = "/sign-in/oidc/callback";

/// The cookie of a sign-in under way. The issuer's page leads back here, so it can't be as strict as a session's.
fn cookie_name(settings: &ControlSettings) -> &'static str {
    if settings.is_https() { "__Host-manybox-oidc" } else { "manybox-oidc" }
}

/// `GET /sign-in/oidc`
pub(super) async fn begin(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let settings = &control.fleet.settings.control;
    let asked = Fields::of(pairs);
    let next = own_path(asked.text("next"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).map(|host| format!("http://{host}"));
    let own = settings.public_url.clone().or(host).unwrap_or_else(|| format!("http://{}", settings.http));
    match control.oidc.begin(&control.fleet, next, &format!("{own}{CALLBACK}")).await {
        Ok(begun) => {
            let mut response = Redirect::to(&begun.url).into_response();
            let rules = Names::of(settings).rules("Lax");
            let lasts = super::super::oidc::LIFETIME;
            let cookie = format!("{}={}; {rules}; Max-Age={lasts}", cookie_name(settings), begun.kept);
            append(response.headers_mut(), &cookie);
            response
        }
        Err(problem) => refused(&control, &headers, next, problem),
    }
}

/// `GET /sign-in/oidc/callback`
pub(super) async fn finish(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let settings = &control.fleet.settings.control;
    let given = Fields::of(pairs);
    let returned = Returned {
        code: given.get("code"),
        state: given.get("state"),
        issuer: given.get("iss"),
        error: given.get("error"),
    };
    let kept = access::cookie(&headers, cookie_name(settings)).unwrap_or_default();
    let mut response = match finished(&control, &headers, kept, &returned).await {
        Ok(response) => response,
        Err(problem) => refused(&control, &headers, "/", problem),
    };
    // Good once, whatever came of it.
    let rules = Names::of(settings).rules("Lax");
    append(response.headers_mut(), &format!("{}=; {rules}; Max-Age=0", cookie_name(settings)));
    response
}

async fn finished(
    control: &Control,
    headers: &HeaderMap,
    kept: &str,
    returned: &Returned<'_>,
) -> Result<Response, Problem> {
    let (credential, next) = control.oidc.finish(&control.fleet, kept, returned).await?;
    let next = own_path(&next);
    // A page, and not a redirect: a session's cookie does not go along on a way that began at another site.
    let page = html! { main .sign-in { div .panel { h1 { "Signed in" } p { "As " (super::document::text(&credential.operator)) "." } a .button href=(next) { "Go on" } } } };
    let mut response = send(StatusCode::OK, document(theme(headers), "Signed in", page));
    let session = open(control, headers, &credential).await?;
    append(response.headers_mut(), &session);
    if let Ok(onward) = HeaderValue::from_str(&format!("0; url={next}")) {
        response.headers_mut().insert(REFRESH, onward);
    }
    Ok(response)
}

/// The form again, with what went wrong. Nothing of what was given is in the log.
fn refused(control: &Control, headers: &HeaderMap, next: &str, problem: Problem) -> Response {
    let (code, status, _) = problem.code.row();
    tracing::info!(
        code,
        reason = &*access::masked(&problem.detail),
        "a sign-in by the OpenID issuer was refused"
    );
    let form = form(&control.fleet.settings.control, theme(headers), next, Some(&problem.detail));
    let mut response = send(status, form);
    response.extensions_mut().insert(problem);
    response
}
