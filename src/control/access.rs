//! Who asks: an operator by an API token or a browser's session, its role, and the tenants that it is for.

mod token;

pub use super::random::random_secret;
pub use token::{ApiToken, BadToken, masked};

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName};
use ring::digest::{SHA256, digest};

use super::jobs::Jobs;
use super::request_id::{REASON, RequestId};
use super::wanted::Wanted;
use super::{Control, Problem, ProblemCode};
use crate::catalog::{Act, Credential, OperatorRole, Scopes, TenantRow};
use crate::fleet::Fleet;
use crate::settings::ControlSettings;

/// Longest reason, characters.
const MAX_REASON: usize = 500;
static FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// An operator that was recognised.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: OperatorRole,
    /// For which tenants.
    pub scopes: Scopes,
    /// What it was known by: `token ID`, or what its session was opened by.
    pub by: String,
    /// Whether a browser's cookie says so: then pages of other sites could have sent the request.
    pub by_cookie: bool,
}

impl Caller {
    fn new(credential: Credential, by_cookie: bool) -> Self {
        let Credential { operator, role, scopes, by } = credential;
        Self { name: operator, role, scopes, by, by_cookie }
    }

    /// By whose order a request of it works.
    pub fn act(&self, parts: &Parts) -> Act {
        // Headers are bytes; what is no text is no reason.
        let reason =
            parts.headers.get(&REASON).and_then(|reason| std::str::from_utf8(reason.as_bytes()).ok());
        Act {
            operator: self.name.clone(),
            by: self.by.clone(),
            request: parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default(),
            reason: reason
                .filter(|reason| !reason.trim().is_empty())
                .map(|r| masked(r).chars().take(MAX_REASON).collect()),
        }
    }

    /// Whether it may do what takes this role.
    ///
    /// # Errors
    /// When it has less.
    pub fn needs(&self, role: OperatorRole) -> Result<(), Problem> {
        if self.role >= role {
            return Ok(());
        }
        let detail = format!("this takes the role `{role}`, and `{}` has `{}` here", self.name, self.role);
        Err(Problem::new(ProblemCode::Forbidden, detail))
    }

    /// Whether it may do what takes this role and concerns the fleet as a whole.
    ///
    /// # Errors
    /// When it has less, or is for some tenants only.
    pub fn needs_all(&self, role: OperatorRole) -> Result<(), Problem> {
        self.needs(role)?;
        if self.scopes.is_all() {
            return Ok(());
        }
        let detail = format!("this concerns the whole fleet, and `{}` is for some tenants only", self.name);
        Err(Problem::new(ProblemCode::Forbidden, detail))
    }

    /// A tenant, if the caller may see it. What it may not see is not there.
    ///
    /// # Errors
    /// When there is none, or none that it may see; the answer is the same.
    pub async fn tenant(&self, fleet: &Fleet, slug: &str) -> Result<TenantRow, Problem> {
        let row = fleet.catalog.tenant_by_slug(slug).await?;
        row.filter(|row| self.scopes.admits(row)).ok_or_else(|| {
            let slug = slug.chars().take(60).collect::<String>();
            Problem::not_found(&format!("tenant `{slug}` that `{}` may see", self.name))
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            let detail = "give a token of `manybox operator add` as `Authorization: Bearer ...`, or sign in to the console";
            Problem::new(ProblemCode::NotSignedIn, detail)
        })
    }
}

/// A caller with the fleet that works by its order.
pub struct Acting {
    /// Who.
    pub caller: Caller,
    /// The fleet.
    pub fleet: Fleet,
    /// The order.
    pub act: Act,
    /// For what takes long.
    pub jobs: Jobs,
    pub(super) wanted: Wanted,
}

impl Acting {
    /// Refuses what must not be done without saying why.
    ///
    /// # Errors
    /// When no reason was given.
    pub fn needs_reason(&self) -> Result<(), Problem> {
        if self.act.reason.is_some() {
            return Ok(());
        }
        let detail = "this takes a reason, which the journal keeps: give it as X-Reason";
        Err(Problem::new(ProblemCode::Invalid, detail))
    }
}

impl FromRequestParts<Arc<Control>> for Acting {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, control).await?;
        let act = caller.act(parts);
        let fleet = control.fleet.acting(&act);
        Ok(Self { caller, fleet, act, jobs: control.jobs.clone(), wanted: Wanted::of(&parts.headers) })
    }
}

/// The name of the cookie that has a session. With TLS it is bound to this host and never sent without.
pub fn cookie_name(settings: &ControlSettings) -> &'static str {
    if settings.is_https() { "__Host-manybox-session" } else { "manybox-session" }
}

/// What a session is known by in the catalog.
pub fn session_hash(secret: &str) -> Vec<u8> {
    digest(&SHA256, secret.as_bytes()).as_ref().to_vec()
}

/// Finds out who asks. A credential that doesn't hold is an error, wherever it leads: its holder believes that it does.
pub(super) async fn identify(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    // What everybody may ask costs the catalog nothing more.
    if ["/healthz", "/openapi.json"].contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    match caller(&control, &parts).await {
        Ok(Some(caller)) => drop(parts.extensions.insert(caller)),
        Ok(None) => {}
        Err(problem) => return problem.into_response(),
    }
    next.run(Request::from_parts(parts, body)).await
}

async fn caller(control: &Control, request: &Parts) -> Result<Option<Caller>, Problem> {
    let (catalog, settings) = (&control.fleet.catalog, &control.fleet.settings.control);
    let headers = &request.headers;
    if let Some(given) = headers.get(AUTHORIZATION) {
        let refused = || Problem::new(ProblemCode::NotSignedIn, "the token is unknown, revoked or expired");
        let (scheme, given) = given.to_str().ok().and_then(|v| v.split_once(' ')).ok_or_else(refused)?;
        let token: ApiToken = given.trim().parse().map_err(|_: BadToken| refused())?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(refused());
        }
        let holder = catalog.token_holder(token.id()).await?;
        let holder = holder.filter(|(_, hash)| token.has_hash(hash)).map(|(credential, _)| credential);
        return Ok(Some(Caller::new(holder.ok_or_else(refused)?, false)));
    }
    let Some(secret) = cookie(headers, cookie_name(settings)) else { return Ok(None) };
    let holder = catalog.session_holder(&session_hash(secret), settings.session_idle).await?;
    let Some(holder) = holder else { return Ok(None) };
    if !request.method.is_safe() && !is_own_site(headers, settings) {
        let detail = "a change by cookie must come from a page of this service (Sec-Fetch-Site, Origin); programs use tokens";
        return Err(Problem::new(ProblemCode::CrossSite, detail));
    }
    Ok(Some(Caller::new(holder, true)))
}

/// The value of a cookie, where it is given once.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = pairs
        .flat_map(|pairs| pairs.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(given, _)| *given == name);
    let value = values.next().map(|(_, value)| value);
    value.filter(|_| values.next().is_none())
}

/// Whether a page of this service sent a request that carries a cookie: by the browser's own word, and where it gives none by
/// the page's origin. Without either nobody knows, and it is refused.
pub fn is_own_site(headers: &HeaderMap, settings: &ControlSettings) -> bool {
    if let Some(site) = headers.get(&FETCH_SITE) {
        return site == "same-origin";
    }
    let Some(origin) = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok()) else { return false };
    if let Some(public) = &settings.public_url {
        return origin.eq_ignore_ascii_case(public);
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| {
        origin.strip_prefix("http://").is_some_and(|named| named.eq_ignore_ascii_case(host))
    })
}

/// Refuses requests under names that are not this service's: a page in an operator's browser could have its own name lead
/// here, and would be of the same origin.
pub(super) async fn known_host(
    State(control): State<Arc<Control>>,
    request: Request,
    next: Next,
) -> Response {
    let mut named = request.headers().get_all(HOST).iter();
    let header = named.next().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let host = header.as_ref().or(request.uri().authority()).filter(|_| named.next().is_none());
    if host.is_some_and(|host| is_known(host.host(), &control.fleet.settings.control)) {
        return next.run(request).await;
    }
    let detail = "the Host is none of this service's names (control.public_url, control.hosts)";
    Problem::new(ProblemCode::UnknownHost, detail).into_response()
}

fn is_known(host: &str, settings: &ControlSettings) -> bool {
    let host = host.trim_end_matches('.');
    let of_url = settings.public_url.as_ref().and_then(|url| url.parse::<http::Uri>().ok());
    let is = |known: &str| known.eq_ignore_ascii_case(host);
    // An address is nobody's name, so no page can have it lead somewhere else.
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
        || is("localhost")
        || of_url.as_ref().and_then(http::Uri::host).is_some_and(is)
        || settings.hosts.iter().any(|known| is(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<http::HeaderValue>().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn pages_of_other_sites_are_told_apart() {
        let plain = ControlSettings::default();
        let public =
            ControlSettings { public_url: Some("https://c.example".into()), ..ControlSettings::default() };
        for (given, settings, is) in [
            (&[("sec-fetch-site", "same-origin")][..], &plain, true),
            (&[("sec-fetch-site", "same-site")], &plain, false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://h:1"), ("host", "h:1")], &plain, false),
            (&[("sec-fetch-site", "none")], &plain, false),
            (&[("origin", "http://h:1"), ("host", "h:1")], &plain, true),
            (&[("origin", "http://evil"), ("host", "h:1")], &plain, false),
            (&[("origin", "null"), ("host", "h:1")], &plain, false),
            (&[("host", "h:1")], &plain, false),
            (&[("origin", "https://c.example"), ("host", "inside:1")], &public, true),
            (&[("origin", "http://inside:1"), ("host", "inside:1")], &public, false),
        ] {
            assert_eq!(is_own_site(&headers(given), settings), is, "{given:?}");
        }
    }

    #[test]
    fn a_cookie_counts_once() {
        assert_eq!(cookie(&headers(&[("cookie", "a=1; manybox-session=x")]), "manybox-session"), Some("x"));
        assert_eq!(cookie(&headers(&[("cookie", "s=x; s=y")]), "s"), None);
        assert_eq!(cookie(&headers(&[("cookie", "xs=1")]), "s"), None);
    }
}
