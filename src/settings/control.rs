//! `[control]`: the control service: where it listens, under which names, and how long a browser stays signed in.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::oidc::OidcSettings;
use super::sections::address;

/// `[control]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlSettings {
    /// Where operators, pipelines and browsers connect; keep it off the public network, or behind a proxy with TLS.
    #[serde(deserialize_with = "address")]
    pub http: SocketAddr,
    /// What browsers call it, such as `https://control.example.com`, when that is not the address. With `https`, cookies are
    /// sent by TLS only.
    pub public_url: Option<String>,
    /// Names under which it is asked, beside that of `public_url`, those of this machine and addresses. Any other is refused:
    /// a page in an operator's browser could have its own name lead here.
    pub hosts: Vec<String>,
    /// How long a browser that asks for nothing stays signed in.
    #[serde(with = "humantime_serde")]
    pub session_idle: Duration,
    /// How long a browser stays signed in at most.
    #[serde(with = "humantime_serde")]
    pub session_lifetime: Duration,
    /// Where backups that the API asks for are written; without it there are none but by command.
    pub backups: Option<PathBuf>,
    /// Networks inside (private, loopback) that webhooks may reach, and by plain http.
    #[serde(deserialize_with = "super::sections::networks")]
    pub webhook_networks: Vec<IpNet>,
    /// How long requests and jobs under way may take to finish after a stop signal. A job that is cut off is resumed by
    /// another control service, or by this one when it is started again.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Where people sign in to the console; without it by API tokens alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcSettings>,
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8082)),
            public_url: None,
            hosts: Vec::new(),
            session_idle: Duration::from_secs(8 * 3600),
            session_lifetime: Duration::from_secs(24 * 3600),
            backups: None,
            webhook_networks: Vec::new(),
            drain_timeout: Duration::from_secs(10),
            oidc: None,
        }
    }
}

impl ControlSettings {
    /// Whether browsers reach it by TLS.
    pub fn is_https(&self) -> bool {
        self.public_url.as_ref().is_some_and(|url| url.starts_with("https://"))
    }

    /// What is wrong, and where.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        let url = self.public_url.as_deref().filter(|url| {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            rest.is_none_or(|rest| rest.is_empty() || rest.contains(['/', '?', '#', '@', ' ']))
        });
        if let Some(url) = url {
            let expected = "expected a URL without a path, such as https://control.example.com";
            return Some(("public_url", format!("`{url}`: {expected}")));
        }
        self.oidc.as_ref()?.wrong()
    }
}
