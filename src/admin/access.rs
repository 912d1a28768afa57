//! `Access`: who may ask the admin port: under which names, and with which token.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use http::uri::Authority;
use http::{HeaderMap, StatusCode};
use serde_json::json;

use crate::policy::Secret;
use crate::settings::ListenSettings;

/// The shortest token, in bytes.
const MIN_TOKEN: usize = 16;
/// What probes and proxies ask, which often can't be given a secret: a word, the number of tenants, and whether a host is
/// a tenant's, which everybody learns from the data port as well.
const OPEN: [&str; 3] = ["/live", "/ready", "/allowed"];

/// Who may ask.
#[derive(Debug)]
pub struct Access {
    hosts: Vec<String>,
    /// Nobody but this machine can reach the port.
    is_local: bool,
    token: Option<Secret>,
}

/// Why the admin port is not opened.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Whoever reaches it could read what it tells.
    #[error(
        "listen.admin: {0} can be reached from other machines, and there is no token: set listen.admin_token_file, or \
         MANYBOX__LISTEN__ADMIN_TOKEN, or listen on 127.0.0.1"
    )]
    NoToken(SocketAddr),
    /// It could be guessed.
    #[error("listen.admin_token: expected at least {MIN_TOKEN} characters")]
    WeakToken,
    /// The token's file.
    #[error("listen.admin_token_file: {0}: {1}")]
    File(PathBuf, io::Error),
}

impl Access {
    /// As the settings have it.
    ///
    /// # Errors
    /// Without a token that can't be guessed, where other machines can reach the port.
    pub fn new(listen: &ListenSettings) -> Result<Self, AccessError> {
        let token = listen
            .read_admin_token()
            .map_err(|error| AccessError::File(listen.admin_token_file.clone().unwrap_or_default(), error))?;
        let is_local = listen.admin.ip().to_canonical().is_loopback();
        match &token {
            None if !is_local => return Err(AccessError::NoToken(listen.admin)),
            Some(token) if token.expose().len() < MIN_TOKEN => return Err(AccessError::WeakToken),
            _ => {}
        }
        Ok(Self { hosts: listen.admin_hosts.clone(), is_local, token })
    }

    /// Whether a page of anybody's could not have this name lead here.
    fn knows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match address {
            Ok(address) => !self.is_local || address.to_canonical().is_loopback(),
            Err(_) => {
                host.eq_ignore_ascii_case("localhost")
                    || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
            }
        }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        given.is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case("bearer")
                && is_same(given.trim().as_bytes(), token.expose().as_bytes())
        })
    }
}

/// Compares in a time that tells nothing of where they differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

pub(super) async fn check(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let refused =
        |status: StatusCode, reason: &str| (status, Json(json!({ "reason": reason }))).into_response();
    match host(&request) {
        Some(host) if access.knows(host.host()) => {}
        _ => {
            let reason = "the Host is none of this port's names (listen.admin_hosts)";
            return refused(StatusCode::FORBIDDEN, reason);
        }
    }
    if !OPEN.contains(&request.uri().path()) && !access.admits(request.headers()) {
        let answer = refused(
            StatusCode::UNAUTHORIZED,
            "the port's bearer token is missing or wrong (listen.admin_token)",
        );
        return ([(WWW_AUTHENTICATE, "Bearer")], answer).into_response();
    }
    next.run(request).await
}

/// The one that the request names, wherever it does.
fn host(request: &Request) -> Option<Authority> {
    let mut named = request.headers().get_all(HOST).iter();
    let header = named.next().map(|host| Authority::try_from(host.as_bytes()));
    match (header, named.next(), request.uri().authority()) {
        (Some(Ok(host)), None, None) => Some(host),
        (Some(Ok(host)), None, Some(target)) if host == *target => Some(host),
        (None, None, Some(target)) => Some(target.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(admin: &str, token: Option<&str>) -> Result<Access, AccessError> {
        Access::new(&ListenSettings {
            admin: admin.parse().unwrap(),
            admin_hosts: vec!["ops.example".into()],
            admin_token: token.map(Secret::new),
            ..ListenSettings::default()
        })
    }

    #[test]
    fn names_that_lead_here_by_nobody_elses_doing() {
        let local = access("127.0.0.1:8081", None).unwrap();
        let open = access("0.0.0.0:8081", Some("0123456789abcdef")).unwrap();
        for (host, here, beyond) in [
            ("localhost", true, true),
            ("LOCALHOST.", true, true),
            ("127.0.0.1", true, true),
            ("127.9.9.9", true, true),
            ("[::1]", true, true),
            ("ops.example", true, true),
            ("10.0.0.7", false, true),
            ("evil.example", false, false),
            ("localhost.evil.example", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("ops.example.evil.example", false, false),
            ("", false, false),
        ] {
            assert_eq!((local.knows(host), open.knows(host)), (here, beyond), "{host}");
        }
    }

    #[test]
    fn beyond_this_machine_only_with_a_token_that_cannot_be_guessed() {
        for admin in ["0.0.0.0:8081", "[::]:8081", "10.0.0.7:8081", "[2001:db8::1]:8081"] {
            let said = access(admin, None).unwrap_err().to_string();
            assert!(said.contains(admin) && said.contains("MANYBOX__LISTEN__ADMIN_TOKEN"), "{said}");
            assert!(matches!(access(admin, Some("short")), Err(AccessError::WeakToken)));
            assert!(access(admin, Some("0123456789abcdef")).is_ok());
        }
        assert!(access("127.0.0.1:8081", None).is_ok() && access("[::1]:8081", None).is_ok());
    }
}
