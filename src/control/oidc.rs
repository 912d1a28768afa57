//! OIDC: signing in to the console by an account of an OpenID issuer: the code flow, with PKCE, state and nonce.

mod claims;
mod flow;
mod provider;

pub(super) use flow::LIFETIME;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::outgoing::{Answer, Inside, Outgoing};
use super::problem::{Problem, ProblemCode};
use crate::catalog::Credential;
use crate::fleet::Fleet;
use crate::settings::OidcSettings;
use flow::Flow;
use provider::{FRESH, Provider, Providers};

/// Sign-ins that are finished at the same time: each waits for the issuer.
const AT_A_TIME: usize = 16;
/// How old the issuer's keys may be when none of them made a token: it may have new ones.
const NEW_KEYS: std::time::Duration = std::time::Duration::from_secs(60);
/// Longest text of an issuer's that is repeated, characters.
const MAX_SAID: usize = 200;
/// What stands for itself in a query and in a form (RFC 3986, 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What signs people in.
pub(super) struct Oidc {
    outgoing: Outgoing,
    providers: Providers,
    room: Semaphore,
}

impl Default for Oidc {
    fn default() -> Self {
        let (outgoing, providers) = (Outgoing::default(), Providers::default());
        Self { outgoing, providers, room: Semaphore::new(AT_A_TIME) }
    }
}

/// A sign-in that has begun.
pub(super) struct Begun {
    /// Where the browser goes.
    pub(super) url: String,
    /// What it keeps until it comes back.
    pub(super) kept: String,
}

/// With what a browser comes back.
#[derive(Debug, Default)]
pub(super) struct Returned<'a> {
    pub(super) code: Option<&'a str>,
    pub(super) state: Option<&'a str>,
    pub(super) issuer: Option<&'a str>,
    /// Why the issuer let nobody in.
    pub(super) error: Option<&'a str>,
}

/// What the issuer gives for a code. Its other tokens are nobody's business here.
#[derive(Deserialize)]
struct Tokens {
    id_token: String,
}

impl Oidc {
    /// Begins a sign-in that comes back to `redirect`, and leads to `next` then.
    ///
    /// # Errors
    /// When there is no issuer, or it can't be asked.
    pub(super) async fn begin(&self, fleet: &Fleet, next: &str, redirect: &str) -> Result<Begun, Problem> {
        let settings = settings(fleet)?;
        let provider = self.provider(settings, FRESH).await?;
        let flow = Flow::new(next, redirect)?;
        let scopes = std::iter::once("openid").chain(settings.scopes.iter().map(String::as_str));
        let query = encoded(&[
            ("response_type", "code"),
            ("client_id", &settings.client_id),
            ("redirect_uri", redirect),
            ("scope", &scopes.collect::<Vec<_>>().join(" ")),
            ("state", &flow.state),
            ("nonce", &flow.nonce),
            ("code_challenge", &flow.challenge()),
            ("code_challenge_method", "S256"),
        ]);
        let mark = if provider.authorization_endpoint.contains('?') { '&' } else { '?' };
        let url = format!("{}{mark}{query}", provider.authorization_endpoint);
        Ok(Begun { url, kept: flow.seal(&fleet.keys)? })
    }

    /// Ends a sign-in: who it is, and where to.
    ///
    /// # Errors
    /// When something of it is not what was begun, the issuer or its token does not hold, or the account is no operator.
    pub(super) async fn finish(
        &self,
        fleet: &Fleet,
        kept: &str,
        returned: &Returned<'_>,
    ) -> Result<(Credential, String), Problem> {
        let settings = settings(fleet)?;
        let flow = Flow::open(&fleet.keys, kept).ok_or_else(|| {
            refused("this sign-in is not one that this browser began here in the last ten minutes")
        })?;
        if !returned.state.is_some_and(|state| flow.has_state(state)) {
            return Err(refused("the answer is another sign-in's (state)"));
        }
        if let Some(error) = returned.error {
            return Err(refused(format!("the issuer says: {}", short(error))));
        }
        let provider = self.provider(settings, FRESH).await?;
        if returned.issuer.map_or(provider.names_itself, |issuer| issuer != settings.issuer) {
            return Err(refused("the answer is another issuer's (iss)"));
        }
        let code = returned.code.ok_or_else(|| refused("the answer has no code"))?;
        let _place = self
            .room
            .try_acquire()
            .map_err(|_| Problem::new(ProblemCode::Busy, "too many sign in at the moment; try again"))?;
        let token = self.token(settings, &provider, &flow, code).await?;
        let claims = match provider.keys.verify(&token) {
            Ok(claims) => claims,
            Err(_) => {
                let newer = self.provider(settings, NEW_KEYS).await?;
                newer.keys.verify(&token).map_err(|error| refused(format!("the issuer's token: {error}")))?
            }
        };
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let account = claims::account(&claims, settings, &flow.nonce, now).map_err(refused)?;
        if !fleet.catalog.sign_in_finished(&flow.nonce_hash()).await? {
            return Err(refused("this sign-in has come to its end before (nonce)"));
        }
        match fleet.catalog.operator_of(&account).await? {
            Some(credential) => Ok((credential, flow.next)),
            None => {
                let name = &account.name;
                let detail = format!(
                    "`{name}` is no operator, or was one by another account; an owner adds it: manybox operator add {name} \
                     --no-token"
                );
                Err(Problem::new(ProblemCode::Forbidden, detail))
            }
        }
    }

    async fn provider(
        &self,
        settings: &OidcSettings,
        age: std::time::Duration,
    ) -> Result<std::sync::Arc<Provider>, Problem> {
        let provider = self.providers.get(&self.outgoing, settings, age).await;
        provider.map_err(|why| Problem::new(ProblemCode::ServerAway, format!("the issuer: {why}")))
    }

    /// The ID token for a code.
    async fn token(
        &self,
        settings: &OidcSettings,
        provider: &Provider,
        flow: &Flow,
        code: &str,
    ) -> Result<String, Problem> {
        let away = |why: String| Problem::new(ProblemCode::ServerAway, format!("the issuer: {why}"));
        let secret = settings.read_secret().map_err(|error| {
            Problem::new(ProblemCode::Internal, format!("control.oidc.client_secret_file: {error}"))
        })?;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", flow.redirect.as_str()),
            ("client_id", settings.client_id.as_str()),
            ("code_verifier", flow.verifier.as_str()),
        ];
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(secret) = &secret {
            if provider.takes_secret_in_form {
                form.push(("client_secret", secret.expose()));
            } else {
                // RFC 6749, 2.3.1: both are encoded first.
                let encode = |text| utf8_percent_encode(text, UNRESERVED).to_string();
                let pair = format!("{}:{}", encode(&settings.client_id), encode(secret.expose()));
                let basic = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)));
                let mut basic = basic.map_err(|error| away(error.to_string()))?;
                basic.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, basic);
            }
        }
        let body = encoded(&form).into_bytes();
        let answer = self.outgoing.post(&provider.token_endpoint, headers, body, inside(settings)).await;
        let Answer { status, body } = answer.map_err(away)?;
        let body = body.map_err(away)?;
        if status != 200 {
            #[derive(Deserialize)]
            struct Said {
                error: String,
            }
            let said = serde_json::from_slice::<Said>(&body).map(|said| short(&said.error));
            let said = said.unwrap_or_else(|_| format!("status {status}"));
            return Err(refused(format!("the issuer gives no token for the code: {said}")));
        }
        let tokens: Tokens = serde_json::from_slice(&body)
            .map_err(|_| refused("the issuer's answer has no id_token; is it an OpenID issuer?"))?;
        Ok(tokens.id_token)
    }
}

fn settings(fleet: &Fleet) -> Result<&OidcSettings, Problem> {
    let settings = fleet.settings.control.oidc.as_ref();
    settings.ok_or_else(|| Problem::not_found("issuer here (control.oidc): sign in with a token"))
}

fn inside(settings: &OidcSettings) -> Inside<'_> {
    Inside { networks: &settings.networks, setting: "control.oidc.networks" }
}

fn refused(why: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::NotSignedIn, why)
}

/// A text of anybody's, cut off.
fn short(text: &str) -> String {
    text.chars().take(MAX_SAID).collect()
}

fn encoded(pairs: &[(&str, &str)]) -> String {
    let pairs =
        pairs.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, UNRESERVED)));
    pairs.collect::<Vec<_>>().join("&")
}
