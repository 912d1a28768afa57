//! `[control.oidc]`: where people sign in to the console, and what their account makes of them.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::sections::{masked, secret};
use crate::policy::Secret;

/// The claim that is an operator's name when nothing else is said.
const EMAIL: &str = "email";

/// `[control.oidc]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OidcSettings {
    /// The issuer's URL, exactly as it says of itself: `https://login.example.com/realms/staff`.
    pub issuer: String,
    /// What this service is to the issuer.
    pub client_id: String,
    /// Its secret there (`MANYBOX__CONTROL__OIDC__CLIENT_SECRET`). A public client has none.
    #[serde(default, serialize_with = "masked", deserialize_with = "secret")]
    pub client_secret: Option<Secret>,
    /// A file that has it, instead.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// What is asked for beside `openid`.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// The claim that is the operator's name. An `email` must be verified.
    #[serde(default = "email")]
    pub name_claim: String,
    /// The claim that has roles or groups, its names parted by dots: `groups`, `realm_access.roles`. Not given: operators have the
    /// roles that they were added with.
    #[serde(default)]
    pub roles_claim: Option<String>,
    /// Which of its values make a viewer, an operator, an owner. Who has none of them is not let in.
    #[serde(default)]
    pub viewers: Vec<String>,
    /// See `viewers`.
    #[serde(default)]
    pub operators: Vec<String>,
    /// See `viewers`.
    #[serde(default)]
    pub owners: Vec<String>,
    /// Domains of e-mail addresses whose holders need not be added first: they are what `roles_claim` makes of them.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Networks inside (private, loopback) in which the issuer may be, and by plain http.
    #[serde(default, deserialize_with = "super::sections::networks")]
    pub networks: Vec<IpNet>,
}

fn email() -> String {
    EMAIL.to_owned()
}

fn scopes() -> Vec<String> {
    vec![EMAIL.to_owned()]
}

impl OidcSettings {
    /// Whether operators are named by their e-mail addresses.
    pub fn is_by_email(&self) -> bool {
        self.name_claim == EMAIL
    }

    /// This service's secret at the issuer, from its file or the settings.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read_secret(&self) -> std::io::Result<Option<Secret>> {
        match &self.client_secret_file {
            Some(file) => Ok(Some(Secret::new(std::fs::read_to_string(file)?.trim()))),
            None => Ok(self.client_secret.clone()),
        }
    }

    /// What is wrong, and where.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        let is_http = self.issuer.strip_prefix("http://").is_some() && !self.networks.is_empty();
        let rest = self.issuer.strip_prefix("https://").or_else(|| self.issuer.strip_prefix("http://"));
        let is_url = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['?', '#', '@', ' ']));
        if !is_url || !(is_http || self.issuer.starts_with("https://")) {
            let reason = format!(
                "`{}`: expected https://, a host and perhaps a path; http:// only with oidc.networks",
                self.issuer
            );
            return Some(("oidc.issuer", reason));
        }
        if self.client_id.is_empty() {
            return Some(("oidc.client_id", "expected what the issuer calls this service".into()));
        }
        if self.client_secret.is_some() && self.client_secret_file.is_some() {
            return Some((
                "oidc.client_secret_file",
                "is given beside client_secret; expected one of them".into(),
            ));
        }
        let has_values =
            [&self.viewers, &self.operators, &self.owners].iter().any(|values| !values.is_empty());
        if self.roles_claim.is_some() != has_values {
            let reason = "is given without `viewers`, `operators` or `owners`, or these without it";
            return Some(("oidc.roles_claim", reason.into()));
        }
        if !self.domains.is_empty() && (self.roles_claim.is_none() || !self.is_by_email()) {
            let reason = "takes name_claim = \"email\", and a roles_claim that says what their people may do";
            return Some(("oidc.domains", reason.into()));
        }
        None
    }
}
