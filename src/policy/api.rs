//! `Api`: how a tenant's REST API is exposed, by PostgREST's names and with its meanings.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::{Invalid, Limits, RolePath, Secret, VersionRequirement};

/// How a tenant's REST API is exposed. What each field means, how it is written and where it may be set stands in
/// the table of [`Key`](super::Key)s.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Api {
    /// Schemas that requests may name; the first is the default one. Never empty.
    pub db_schemas: Vec<String>,
    /// Schemas added to the `search_path` behind the exposed one, for extensions' functions and operators.
    pub db_extra_search_path: Vec<String>,
    /// The role of requests without a token; `None` refuses them with 401.
    pub db_anon_role: Option<String>,
    /// The roles that a token may claim. Empty, for adopted databases only: whatever the server lets the login become.
    pub roles: Vec<String>,
    /// Most rows of one answer; see [`Api::max_rows`].
    pub db_max_rows: Option<u64>,
    /// Whether `select=amount.sum()` and its like are allowed.
    pub db_aggregates_enabled: bool,
    /// Whether `Accept: application/vnd.pgrst.plan` is allowed: plans tell of data and structure.
    pub db_plan_enabled: bool,
    /// How transactions end.
    pub db_tx_end: TxEnd,
    /// A function called in each request's transaction before the main query.
    pub db_pre_request: Option<Function>,
    /// A function that answers the root instead of the OpenAPI document.
    pub db_root_spec: Option<Function>,
    /// Whether a router listens in the tenant's database for `NOTIFY`, to read schema and settings again when it is told to.
    pub db_channel_enabled: bool,
    /// The channel that it listens to.
    pub db_channel: String,
    /// Settings of a function (`CREATE FUNCTION … SET`) that hold from the start of its transaction.
    pub db_hoisted_tx_settings: Vec<String>,
    /// What the OpenAPI document at the root shows.
    pub openapi_mode: OpenApiMode,
    /// Whether the OpenAPI document says that a token is needed.
    pub openapi_security_active: bool,
    /// The base URL in the OpenAPI document instead of the request's own.
    pub openapi_server_proxy_uri: Option<String>,
    /// Origins whose pages may read answers; `None` for all.
    pub server_cors_allowed_origins: Option<Vec<String>>,
    /// Whether answers say in `Server-Timing` what took how long.
    pub server_timing_enabled: bool,
    /// Whether answers say in `MB-Schema-Version` which version of its edition the tenant has.
    pub schema_version_header: bool,
    /// The versions of its edition with which the tenant is served; `None` for all. An adopted database has no version, and
    /// is served.
    pub require_version: Option<VersionRequirement>,
    /// What the JSON of an error has.
    pub client_error_verbosity: Verbosity,
    /// Whether filters, orders and limits may name an embed by its target although it has an alias.
    pub url_use_legacy_target_names: bool,
    /// What tokens are checked with, if not with the tenant's derived key: a text, a JWK or a JWKS. `None` also where
    /// the catalog holds it sealed (`tenant::Record::sealed`).
    #[serde(skip)]
    pub jwt_secret: Option<Secret>,
    /// Whether `jwt_secret` is base64 of the key.
    pub jwt_secret_is_base64: bool,
    /// The audience that tokens with an `aud` must name; `None` for any.
    pub jwt_aud: Option<String>,
    /// Where the role is among the claims.
    pub jwt_role_claim_key: RolePath,
    /// `app.settings.NAME` in every request's transaction.
    pub app_settings: BTreeMap<String, String>,
}

impl Default for Api {
    /// Of tenants that manybox makes.
    fn default() -> Self {
        Self {
            db_extra_search_path: vec!["extensions".into()],
            db_anon_role: Some("anon".into()),
            roles: vec!["anon".into(), "authenticated".into(), "service".into()],
            ..Self::adopted()
        }
    }
}

impl Api {
    /// PostgREST's own defaults: of databases that served it before, and were made to fit them.
    pub fn adopted() -> Self {
        Self {
            db_schemas: vec!["public".into()],
            db_extra_search_path: vec!["public".into()],
            db_anon_role: None,
            roles: Vec::new(),
            db_max_rows: None,
            db_aggregates_enabled: false,
            db_plan_enabled: false,
            db_tx_end: TxEnd::Commit,
            db_pre_request: None,
            db_root_spec: None,
            db_channel_enabled: false,
            db_channel: "pgrst".into(),
            db_hoisted_tx_settings: [
                "statement_timeout",
                "plan_filter.statement_cost_limit",
                "default_transaction_isolation",
            ]
            .map(str::to_owned)
            .to_vec(),
            openapi_mode: OpenApiMode::FollowPrivileges,
            openapi_security_active: false,
            openapi_server_proxy_uri: None,
            server_cors_allowed_origins: None,
            server_timing_enabled: false,
            schema_version_header: false,
            require_version: None,
            client_error_verbosity: Verbosity::Verbose,
            url_use_legacy_target_names: true,
            jwt_secret: None,
            jwt_secret_is_base64: false,
            jwt_aud: None,
            jwt_role_claim_key: RolePath::default(),
            app_settings: BTreeMap::new(),
        }
    }

    /// Most rows of one answer: the smaller of the tier's limit and the tenant's own.
    pub fn max_rows(&self, limits: &Limits) -> Option<u64> {
        self.db_max_rows.into_iter().chain(limits.max_rows).min()
    }
}

/// How a request's transaction ends, and whether `Prefer: tx=` may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TxEnd {
    /// By COMMIT.
    Commit,
    /// By COMMIT, unless the request asks for ROLLBACK.
    CommitAllowOverride,
    /// By ROLLBACK: nothing ever lasts.
    Rollback,
    /// By ROLLBACK, unless the request asks for COMMIT.
    RollbackAllowOverride,
}

impl TxEnd {
    const ALL: [Self; 4] =
        [Self::Commit, Self::CommitAllowOverride, Self::Rollback, Self::RollbackAllowOverride];

    fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::CommitAllowOverride => "commit-allow-override",
            Self::Rollback => "rollback",
            Self::RollbackAllowOverride => "rollback-allow-override",
        }
    }

    /// Whether `Prefer: tx=` counts.
    pub fn allows_override(self) -> bool {
        matches!(self, Self::CommitAllowOverride | Self::RollbackAllowOverride)
    }

    /// Whether a request that does not choose, or may not, changes nothing.
    pub fn rolls_back(self) -> bool {
        matches!(self, Self::Rollback | Self::RollbackAllowOverride)
    }
}

/// What the JSON of an error has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verbosity {
    /// `code`, `message`, `details` and `hint`.
    Verbose,
    /// `code` and `message`.
    Minimal,
}

impl Verbosity {
    const ALL: [Self; 2] = [Self::Verbose, Self::Minimal];

    fn as_str(self) -> &'static str {
        match self {
            Self::Verbose => "verbose",
            Self::Minimal => "minimal",
        }
    }
}

/// What the OpenAPI document shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenApiMode {
    /// What the request's role may use.
    FollowPrivileges,
    /// Everything in the exposed schema.
    IgnorePrivileges,
    /// Nothing: the root is 404.
    Disabled,
}

impl OpenApiMode {
    const ALL: [Self; 3] = [Self::FollowPrivileges, Self::IgnorePrivileges, Self::Disabled];

    fn as_str(self) -> &'static str {
        match self {
            Self::FollowPrivileges => "follow-privileges",
            Self::IgnorePrivileges => "ignore-privileges",
            Self::Disabled => "disabled",
        }
    }
}

/// A function's name; quoted where it becomes SQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Function {
    /// Its schema; `None` to look along the `search_path`.
    pub schema: Option<String>,
    /// Its name, unquoted.
    pub name: String,
}

impl fmt::Display for TxEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for OpenApiMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Verbosity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.schema.iter().try_for_each(|schema| write!(f, "{schema}."))?;
        f.write_str(&self.name)
    }
}

impl FromStr for TxEnd {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|end| end.as_str() == text);
        known.ok_or_else(|| Invalid(format!("`{text}` is not a way to end a transaction")))
    }
}

impl FromStr for OpenApiMode {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        known.ok_or_else(|| Invalid(format!("`{text}` is not a mode of the OpenAPI document")))
    }
}

impl FromStr for Verbosity {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|verbosity| verbosity.as_str() == text);
        known.ok_or_else(|| Invalid(format!("`{text}` is not a verbosity of errors")))
    }
}

impl FromStr for Function {
    type Err = Invalid;

    /// As PostgREST reads it: at most one dot, and no quotes, so a name may have capitals and blanks as it stands.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema.to_owned()), name),
            None => (None, text),
        };
        let wrong = |part: &str| part.is_empty() || part.contains(['.', '"', '\0']);
        if wrong(name) || schema.as_deref().is_some_and(wrong) {
            return Err(Invalid(format!("`{text}` is not a function's name")));
        }
        Ok(Self { schema, name: name.to_owned() })
    }
}
