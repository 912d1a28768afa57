//! Signing in: the page, an API token given there, and out again.

use std::sync::Arc;

use axum::extract::{Form, Query, Request, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use http::{HeaderMap, StatusCode};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::access::{self, ApiToken, Caller};
use super::super::{Control, Problem, ProblemCode};
use super::document::{Theme, document, logo, refuse, send, text};
use super::viewer::{Fields, Names, Order as Sent, append, own_path, theme};
use crate::catalog::Credential;
use crate::settings::ControlSettings;

/// `GET /sign-in`
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Query(pairs): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    let asked = Fields::of(pairs);
    let next = own_path(asked.text("next"));
    if request.extensions().get::<Caller>().is_some() {
        return Redirect::to(next).into_response();
    }
    let settings = &control.fleet.settings.control;
    send(StatusCode::OK, form(settings, theme(request.headers()), next, None))
}

/// The page, with what went wrong.
pub(super) fn form(settings: &ControlSettings, theme: Theme, next: &str, wrong: Option<&str>) -> Markup {
    let issuer = settings.oidc.as_ref().and_then(|oidc| oidc.issuer.parse::<http::Uri>().ok());
    let issuer = issuer.as_ref().and_then(http::Uri::host);
    let there = format!("/sign-in/oidc?next={}", utf8_percent_encode(next, NON_ALPHANUMERIC));
    document(
        theme,
        "Sign in",
        html! {
            main .sign-in {
                p .brand { (logo()) "manybox" }
                div .panel {
                    h1 { "Sign in" }
                    @if let Some(wrong) = wrong { div .notice.bad role="alert" { b { "Not signed in" } p { (text(wrong)) } } }
                    @if let Some(issuer) = issuer {
                        p { a .button.primary href=(there) { "Sign in by " (text(issuer)) } }
                        p .soft.small { "or with a token:" }
                    }
                    form .form method="post" action="/sign-in" {
                        input type="hidden" name="next" value=(next);
                        div .field {
                            label for="token" { "API token" }
                            input id="token" name="token" type="password" required autocomplete="current-password" spellcheck="false" maxlength="500" autofocus;
                            span .hint { "From an owner, or by " code { "manybox operator add" } "." }
                        }
                        button .primary { "Sign in" }
                    }
                }
            }
        },
    )
}

/// `POST /sign-in`: by a form of this service only, or a page of another site could sign somebody in as its own author, and
/// read in the journal what they did.
pub(super) async fn sign_in(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Response {
    let settings = &control.fleet.settings.control;
    if !access::is_own_site(&headers, settings) {
        return refuse(Problem::new(ProblemCode::CrossSite, "sign in by the form of this service"));
    }
    let fields = Fields::of(pairs);
    let next = own_path(fields.text("next"));
    match holder(&control, fields.text("token")).await {
        Ok(Some(credential)) => match open(&control, &headers, &credential).await {
            Ok(session) => {
                let mut response = Redirect::to(next).into_response();
                append(response.headers_mut(), &session);
                response
            }
            Err(problem) => refuse(problem),
        },
        Ok(None) => {
            let wrong = "the token is unknown, revoked or expired";
            send(StatusCode::UNAUTHORIZED, form(settings, theme(&headers), next, Some(wrong)))
        }
        Err(problem) => refuse(problem),
    }
}

async fn holder(control: &Control, given: &str) -> Result<Option<Credential>, Problem> {
    let Ok(token) = given.parse::<ApiToken>() else { return Ok(None) };
    let holder = control.fleet.catalog.token_holder(token.id()).await?;
    Ok(holder.filter(|(_, hash)| token.has_hash(hash)).map(|(credential, _)| credential))
}

/// Opens a session of its own: what the browser had before is ended, whoever put it there. Gives its cookie.
pub(super) async fn open(
    control: &Control,
    headers: &HeaderMap,
    credential: &Credential,
) -> Result<String, Problem> {
    let settings = &control.fleet.settings.control;
    let catalog = &control.fleet.catalog;
    let name = access::cookie_name(settings);
    if let Some(before) = access::cookie(headers, name) {
        catalog.session_close(&access::session_hash(before)).await?;
    }
    let secret = access::random_secret()?;
    let secret = secret.expose();
    catalog.session_open(&access::session_hash(secret), credential, settings.session_lifetime).await?;
    let rules = Names::of(settings).rules("Strict");
    Ok(format!("{name}={secret}; {rules}; Max-Age={}", settings.session_lifetime.as_secs()))
}

/// `POST /sign-out`
pub(super) async fn sign_out(State(control): State<Arc<Control>>, headers: HeaderMap, _: Sent) -> Response {
    let settings = &control.fleet.settings.control;
    let name = access::cookie_name(settings);
    if let Some(secret) = access::cookie(&headers, name)
        && let Err(error) = control.fleet.catalog.session_close(&access::session_hash(secret)).await
    {
        return refuse(error.into());
    }
    let mut response = Redirect::to("/sign-in").into_response();
    append(response.headers_mut(), &format!("{name}=; {}; Max-Age=0", Names::of(settings).rules("Strict")));
    response
}

/// `POST /theme`
pub(super) async fn choose_theme(headers: HeaderMap, Sent { fields, .. }: Sent) -> Response {
    // The page that the form was on, if the browser says so: its path alone counts.
    let back = headers
        .get(http::header::REFERER)
        .and_then(|referer| referer.to_str().ok()?.parse::<http::Uri>().ok());
    let back = back.as_ref().and_then(http::Uri::path_and_query).map_or("/", http::uri::PathAndQuery::as_str);
    let mut response = Redirect::to(own_path(back)).into_response();
    let word = Theme::read(fields.get("theme")).attribute().unwrap_or("system");
    append(
        response.headers_mut(),
        &format!("manybox-theme={word}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"),
    );
    response
}
