//! Viewer: who looks at a page, and who sends a form: signed in, from a page of this service, with its token.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Form, FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse as _, Redirect, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::super::access::{self, Acting, Caller};
use super::super::{Control, Problem, ProblemCode};
use super::document::{Theme, refuse, send};
use crate::catalog::{Act, OperatorRole};
use crate::fleet::Fleet;
use crate::settings::ControlSettings;

/// The name of the field that has the token of a form.
const TOKEN: &str = "csrf";
/// Longest reason, characters.
const MAX_REASON: usize = 300;
/// Longest text that is handed on to the next page, bytes: cookies have 4 KiB.
const MAX_SAID: usize = 1500;

/// What somebody is told on the next page about what they did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Said {
    pub(super) is_good: bool,
    pub(super) text: String,
}

/// Somebody who is signed in and looks at a page.
pub(super) struct Viewer {
    /// The operator.
    pub(super) name: String,
    /// What it may do.
    pub(super) role: OperatorRole,
    /// Whether it may see the fleet as a whole.
    pub(super) sees_fleet: bool,
    pub(super) theme: Theme,
    /// What is to be told.
    pub(super) said: Option<Said>,
    /// Who it is, for what only some may see.
    pub(super) caller: Caller,
    /// The fleet, by its order.
    pub(super) fleet: Arc<Fleet>,
    /// The order.
    pub(super) act: Act,
    csrf: String,
    names: Names,
}

impl Viewer {
    /// Whether it may do what takes this role.
    pub(super) fn may(&self, role: OperatorRole) -> bool {
        self.role >= role
    }

    /// The field that every form has.
    pub(super) fn token(&self) -> Markup {
        html! { input type="hidden" name=(TOKEN) value=(self.csrf); }
    }

    /// A page as it is sent.
    pub(super) fn send(&self, page: Markup) -> Response {
        self.send_as(StatusCode::OK, page)
    }

    /// The same with another status.
    pub(super) fn send_as(&self, status: StatusCode, page: Markup) -> Response {
        let mut response = send(status, page);
        if self.said.is_some() {
            // Told once.
            append(
                response.headers_mut(),
                &format!("{}=; {}; Max-Age=0", self.names.said, self.names.rules("Strict")),
            );
        }
        response
    }

    /// Leads to another page, which says this.
    pub(super) fn lead(&self, to: &str, is_good: bool, text: impl Into<String>) -> Response {
        let mut text = text.into();
        if text.len() > MAX_SAID {
            let end = (0..=MAX_SAID).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        let mut response = Redirect::to(to).into_response();
        let said = serde_json::to_vec(&Said { is_good, text }).map(|json| URL_SAFE_NO_PAD.encode(json));
        if let Ok(said) = said {
            append(
                response.headers_mut(),
                &format!("{}={said}; {}; Max-Age=60", self.names.said, self.names.rules("Strict")),
            );
        }
        response
    }

    /// Leads to a page that says how something went. A problem is one of the answer's, too, for the journal.
    pub(super) fn tell(&self, to: &str, outcome: Result<String, Problem>) -> Response {
        match outcome {
            Ok(text) => self.lead(to, true, text),
            Err(problem) => {
                let mut response = self.lead(to, false, problem.detail.clone());
                response.extensions_mut().insert(problem);
                response
            }
        }
    }
}

impl FromRequestParts<Arc<Control>> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Response> {
        let settings = &control.fleet.settings.control;
        let Ok(Acting { caller, fleet, act, .. }) = Acting::from_request_parts(parts, control).await else {
            return Err(Redirect::to(&sign_in_for(parts)).into_response());
        };
        let names = Names::of(settings);
        let said = access::cookie(&parts.headers, names.said);
        let said = said.and_then(|said| URL_SAFE_NO_PAD.decode(said).ok());
        // Whoever has no cookie has a token, which no page of another site has: there is nothing to forge.
        let secret = access::cookie(&parts.headers, access::cookie_name(settings)).unwrap_or_default();
        Ok(Self {
            name: caller.name.clone(),
            role: caller.role,
            sees_fleet: caller.scopes.is_all(),
            theme: theme(&parts.headers),
            said: said.and_then(|said| serde_json::from_slice(&said).ok()),
            csrf: csrf(secret),
            caller,
            fleet: Arc::new(fleet),
            act,
            names,
        })
    }
}

/// A form that somebody sent who is signed in: its token is that of their session.
pub(super) struct Order {
    pub(super) viewer: Viewer,
    pub(super) fields: Fields,
}

/// The fields of a form, each by the last of its values.
#[derive(Debug, Default)]
pub(super) struct Fields(HashMap<String, String>);

impl Fields {
    pub(super) fn of(pairs: Vec<(String, String)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// A field's text without spaces around it; `None` when there is none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A field's text without spaces around it.
    pub(super) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// The same page from somewhere else on: these of its fields, and where from.
    pub(super) fn link(&self, path: &str, kept: &[&str], from: Option<(&str, &str)>) -> String {
        let kept = kept.iter().filter_map(|name| Some((*name, self.get(name)?)));
        let pairs = kept.chain(from);
        let pairs =
            pairs.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        let query = pairs.collect::<Vec<_>>().join("&");
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }
}

impl FromRequest<Arc<Control>> for Order {
    type Rejection = Response;

    async fn from_request(request: Request, control: &Arc<Control>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let mut viewer = Viewer::from_request_parts(&mut parts, control).await?;
        let request = Request::from_parts(parts, body);
        let fields = match Form::<Vec<(String, String)>>::from_request(request, control).await {
            Ok(Form(pairs)) => Fields::of(pairs),
            Err(error) => return Err(refuse(Problem::new(ProblemCode::Unreadable, error.to_string()))),
        };
        let given = fields.0.get(TOKEN).map_or("", String::as_str);
        if viewer.caller.by_cookie && !is_same(given, &viewer.csrf) {
            let detail =
                "the form is not of this session: go back, load the page again and send it from there";
            return Err(refuse(Problem::new(ProblemCode::CrossSite, detail)));
        }
        if let Some(reason) = fields.get("reason") {
            viewer.act.reason = Some(access::masked(reason).chars().take(MAX_REASON).collect());
            viewer.fleet = Arc::new(control.fleet.acting(&viewer.act));
        }
        Ok(Self { viewer, fields })
    }
}

/// The names of cookies. With TLS they are bound to this host and never sent without.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    said: &'static str,
    is_https: bool,
}

impl Names {
    pub(super) fn of(settings: &ControlSettings) -> Self {
        let is_https = settings.is_https();
        Self { said: if is_https { "__Host-manybox-said" } else { "manybox-said" }, is_https }
    }

    /// What is said of a cookie behind its value.
    pub(super) fn rules(self, same_site: &str) -> String {
        let secure = if self.is_https { "; Secure" } else { "" };
        format!("Path=/; HttpOnly; SameSite={same_site}{secure}")
    }
}

/// The theme that somebody chose.
pub(super) fn theme(headers: &HeaderMap) -> Theme {
    Theme::read(access::cookie(headers, "manybox-theme"))
}

/// Adds a cookie.
pub(super) fn append(headers: &mut HeaderMap, cookie: &str) {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        headers.append(header::SET_COOKIE, cookie);
    }
}

/// Where to sign in, and come back to what was asked for.
fn sign_in_for(parts: &Parts) -> String {
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    if parts.method.is_safe() && path != "/" && !path.ends_with("/events") {
        return format!("/sign-in?next={}", utf8_percent_encode(path, NON_ALPHANUMERIC));
    }
    "/sign-in".to_owned()
}

/// A page of this service that somebody may be led to; `/` for everything else. Browsers take `\` for `/`, leave out tabs
/// and newlines, and `//host` is another site.
pub(super) fn own_path(path: &str) -> &str {
    let is_own = path.starts_with('/')
        && !path.starts_with("//")
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && path.len() < 1000
        && !["/sign-in", "/sign-out"].iter().any(|other| path.starts_with(other));
    if is_own { path } else { "/" }
}

/// The token of a session's forms: whoever knows it knew the session's secret, and nobody finds that by it.
fn csrf(secret: &str) -> String {
    let digest = digest(&SHA256, format!("csrf {secret}").as_bytes());
    URL_SAFE_NO_PAD.encode(digest.as_ref())
}

/// Compares in a time that tells nothing of where they differ.
fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_to_another_site() {
        for own in ["/", "/tenants?q=a%20b&state=active", "/rollouts/12"] {
            assert_eq!(own_path(own), own);
        }
        for foreign in [
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/\t/evil.example",
            "javascript:alert(1)",
            "",
            "evil.example",
            "/\n//evil.example",
            "/sign-out",
            " /x",
            "/x y",
            "/é",
        ] {
            assert_eq!(own_path(foreign), "/", "{foreign:?}");
        }
    }

    #[test]
    fn the_token_is_of_one_session() {
        assert!(is_same(&csrf("one"), &csrf("one")));
        assert!(
            !is_same(&csrf("one"), &csrf("other"))
                && !is_same("", &csrf("one"))
                && !csrf("one").contains("one")
        );
    }
}
