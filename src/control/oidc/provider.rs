//! `Provider`: what an issuer says of itself, and its keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::Mutex;

use super::super::outgoing::{Answer, Inside, Outgoing};
use crate::rest::IssuerKeys;
use crate::settings::OidcSettings;

/// How old what is known of an issuer may be.
pub(super) const FRESH: Duration = Duration::from_secs(3600);
/// How long it is not asked again after it could not be.
const FAILED: Duration = Duration::from_secs(5);

/// An issuer.
pub(super) struct Provider {
    pub(super) authorization_endpoint: String,
    pub(super) token_endpoint: String,
    /// Whether it takes a client's secret in the form alone, and not as Basic.
    pub(super) takes_secret_in_form: bool,
    /// Whether its answers say whose they are (RFC 9207).
    pub(super) names_itself: bool,
    pub(super) keys: IssuerKeys,
}

/// What was last known of the issuer, or why nothing is.
type Last = (Instant, Result<Arc<Provider>, String>);

/// What is known of the issuer. One asks at a time, and the others take what comes of it.
#[derive(Default)]
pub(super) struct Providers(Mutex<Option<Last>>);

/// The document at `/.well-known/openid-configuration`, as far as it counts.
#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl Providers {
    /// The issuer, as it was known `age` ago at the most.
    pub(super) async fn get(
        &self,
        outgoing: &Outgoing,
        settings: &OidcSettings,
        age: Duration,
    ) -> Result<Arc<Provider>, String> {
        let mut last = self.0.lock().await;
        if let Some((at, known)) = &*last
            && at.elapsed() < if known.is_ok() { age } else { FAILED }
        {
            return known.clone();
        }
        let found = discover(outgoing, settings).await.map(Arc::new);
        if let Err(why) = &found {
            tracing::warn!(issuer = settings.issuer, why, "the OpenID issuer can't be asked");
        }
        *last = Some((Instant::now(), found.clone()));
        found
    }
}

async fn discover(outgoing: &Outgoing, settings: &OidcSettings) -> Result<Provider, String> {
    let inside = Inside { networks: &settings.networks, setting: "control.oidc.networks" };
    let url = format!("{}/.well-known/openid-configuration", settings.issuer.trim_end_matches('/'));
    let document = get(outgoing, &url, inside).await?;
    let found: Discovered = serde_json::from_slice(&document)
        .map_err(|error| format!("{url} is no discovery document: {error}"))?;
    if found.issuer != settings.issuer {
        let said: String = found.issuer.chars().take(200).collect();
        return Err(format!("{url} is of the issuer `{said}`; control.oidc.issuer says another"));
    }
    // Where the browser goes; the others are looked at when they are asked.
    let goes = |scheme: &str| found.authorization_endpoint.starts_with(scheme);
    if !(goes("https://") || goes("http://") && !settings.networks.is_empty()) {
        return Err("its authorization_endpoint is no https:// URL".into());
    }
    let keys = get(outgoing, &found.jwks_uri, inside).await?;
    let methods = &found.token_endpoint_auth_methods_supported;
    let has = |method: &str| methods.iter().any(|known| known == method);
    Ok(Provider {
        // Basic when it says nothing (OpenID Connect Discovery 1.0, 3).
        takes_secret_in_form: has("client_secret_post") && !has("client_secret_basic"),
        names_itself: found.authorization_response_iss_parameter_supported,
        authorization_endpoint: found.authorization_endpoint,
        token_endpoint: found.token_endpoint,
        keys: IssuerKeys::read(&keys).map_err(|error| error.0)?,
    })
}

async fn get(outgoing: &Outgoing, url: &str, inside: Inside<'_>) -> Result<bytes::Bytes, String> {
    let Answer { status, body } = outgoing.get(url, inside).await.map_err(|why| format!("{url}: {why}"))?;
    match status {
        200 => body.map_err(|why| format!("{url}: {why}")),
        status => Err(format!("{url}: it answered {status}")),
    }
}
