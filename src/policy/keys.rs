//! Keys: the one table of what can be set for an edition or a tenant: name, form, meaning, how it is read and shown.
//!
//! Help, `tenant set`, `tenants.toml`, in-database configuration and their errors all come from it.

mod form;

use super::{Api, Invalid, KeyMaterial, Limits, Secret};
use form::{
    count, database_size, is_json_object, is_setting, list, may_be_hoisted, names, number, option, or_none,
    set, size, switch, text, time, time_or_zero, url,
};

/// What keys set.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// What a tenant may use.
    pub limits: Limits,
    /// How its API is exposed.
    pub api: Api,
}

/// Where a key may be set. A tenant's own settings may have all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// For a tenant only: what its tier gives is changed, or it is a secret that no two tenants may share.
    Tenant,
    /// For an edition and in `[defaults.api]` as well.
    Edition,
}

/// One thing that can be set.
pub struct Key {
    /// Its name, PostgREST's with underscores where PostgREST has it.
    pub name: &'static str,
    /// What a value looks like.
    pub expected: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Where it may be set beside a tenant's own settings.
    pub scope: Scope,
    /// Whether `ALTER ROLE … SET pgrst.NAME` sets it, in an adopted database.
    pub in_database: bool,
    read: fn(&mut Effective, &str) -> Option<()>,
    show: fn(&Effective) -> String,
}

/// The prefix of a setting that goes into every request's transaction, and that every name below it begins with.
pub(super) const APP: &str = "app.settings.";
/// The value that stands for nothing, or for an empty list, where an empty value stands for the default.
pub(super) const NONE: &str = "none";

const NAMES_OR_NONE: &str = "names separated by commas, or none";
const FUNCTION: &str = "a function as [SCHEMA.]NAME, or none";
const SWITCH: &str = "true or false";
const DURATION: &str = "a duration from 1ms to 24 days, such as 10s";
const BYTES: &str = "a number of bytes up to 1GB, such as 1048576, 512kB or 1MB";

/// All of them, in the order in which help shows them; `app.settings.NAME` comes besides.
pub const KEYS: &[Key] = &[
    Key {
        name: "db_schemas",
        expected: "names of schemas separated by commas, none of them pg_catalog or information_schema",
        doc: "schemas that requests may name; the first is the default",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| {
            let names = names(v)?;
            let system = names.iter().any(|n| matches!(n.as_str(), "pg_catalog" | "information_schema"));
            (!system).then(|| e.api.db_schemas = names)
        },
        show: |e| e.api.db_schemas.join(","),
    },
    Key {
        name: "db_extra_search_path",
        expected: NAMES_OR_NONE,
        doc: "schemas in the search_path behind the exposed one",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.db_extra_search_path, or_none(v, names)?.unwrap_or_default()),
        show: |e| list(&e.api.db_extra_search_path),
    },
    Key {
        name: "db_anon_role",
        expected: "a role, or none",
        doc: "the role of requests without a token; none refuses them",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.db_anon_role, or_none(v, text)?),
        show: |e| option(e.api.db_anon_role.as_ref()),
    },
    Key {
        name: "roles",
        expected: NAMES_OR_NONE,
        doc: "roles that a token may claim; none, in an adopted database: all that the login may become",
        scope: Scope::Edition,
        in_database: false,
        read: |e, v| set(&mut e.api.roles, or_none(v, names)?.unwrap_or_default()),
        show: |e| list(&e.api.roles),
    },
    Key {
        name: "db_max_rows",
        expected: "a number of rows, or none",
        doc: "most rows of one answer; the tier's max_rows holds besides",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.db_max_rows, or_none(v, number)?),
        show: |e| option(e.api.db_max_rows.as_ref()),
    },
    Key {
        name: "db_aggregates_enabled",
        expected: SWITCH,
        doc: "allow count(), sum(), avg(), min() and max() in select",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.db_aggregates_enabled, switch(v)?),
        show: |e| e.api.db_aggregates_enabled.to_string(),
    },
    Key {
        name: "db_plan_enabled",
        expected: SWITCH,
        doc: "allow Accept: application/vnd.pgrst.plan; plans tell of data and structure",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.db_plan_enabled, switch(v)?),
        show: |e| e.api.db_plan_enabled.to_string(),
    },
    Key {
        name: "db_tx_end",
        expected: "commit, commit-allow-override, rollback or rollback-allow-override",
        doc: "how transactions end, and whether Prefer: tx= may choose",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.db_tx_end, v.parse().ok()?),
        show: |e| e.api.db_tx_end.to_string(),
    },
    Key {
        name: "db_pre_request",
        expected: FUNCTION,
        doc: "called in each request's transaction before the main query",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.db_pre_request, or_none(v, |v| v.parse().ok())?),
        show: |e| option(e.api.db_pre_request.as_ref()),
    },
    Key {
        name: "db_root_spec",
        expected: FUNCTION,
        doc: "answers the root instead of the OpenAPI document",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.db_root_spec, or_none(v, |v| v.parse().ok())?),
        show: |e| option(e.api.db_root_spec.as_ref()),
    },
    Key {
        name: "db_channel_enabled",
        expected: SWITCH,
        doc: "listen for NOTIFY to read schema and settings again, by a connection of each router; off unless set",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.api.db_channel_enabled, switch(v)?),
        show: |e| e.api.db_channel_enabled.to_string(),
    },
    Key {
        name: "db_channel",
        expected: "a channel's name, up to 63 bytes",
        doc: "the channel of NOTIFY that is listened to",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.api.db_channel, Some(v).filter(|v| v.len() < 64)?.to_owned()),
        show: |e| e.api.db_channel.clone(),
    },
    Key {
        name: "db_hoisted_tx_settings",
        expected: "names of PostgreSQL's settings separated by commas, or none; not role, session_authorization, search_path or request.*",
        doc: "settings of a function (CREATE FUNCTION … SET) that hold from the start of its transaction",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| {
            let names = or_none(v, names)?.unwrap_or_default();
            names.iter().all(|name| may_be_hoisted(name)).then(|| e.api.db_hoisted_tx_settings = names)
        },
        show: |e| list(&e.api.db_hoisted_tx_settings),
    },
    Key {
        name: "openapi_mode",
        expected: "follow-privileges, ignore-privileges or disabled",
        doc: "what the OpenAPI document at the root shows",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.openapi_mode, v.parse().ok()?),
        show: |e| e.api.openapi_mode.to_string(),
    },
    Key {
        name: "openapi_security_active",
        expected: SWITCH,
        doc: "whether the OpenAPI document says that a token is needed",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.openapi_security_active, switch(v)?),
        show: |e| e.api.openapi_security_active.to_string(),
    },
    Key {
        name: "openapi_server_proxy_uri",
        expected: "a URL such as https://example.com:8443/base, or none",
        doc: "the base URL in the OpenAPI document instead of the request's",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.openapi_server_proxy_uri, or_none(v, |v| url(v).then(|| v.to_owned()))?),
        show: |e| option(e.api.openapi_server_proxy_uri.as_ref()),
    },
    Key {
        name: "server_cors_allowed_origins",
        expected: "origins such as https://app.example.com separated by commas, or none for all",
        doc: "origins whose pages may read answers",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| {
            let origins = or_none(v, names)?;
            let fine = origins.iter().flatten().all(|o| url(o) && o.matches('/').count() == 2);
            fine.then(|| e.api.server_cors_allowed_origins = origins)
        },
        show: |e| e.api.server_cors_allowed_origins.as_ref().map_or_else(|| NONE.into(), |o| o.join(",")),
    },
    Key {
        name: "server_timing_enabled",
        expected: SWITCH,
        doc: "say in Server-Timing what took how long",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.server_timing_enabled, switch(v)?),
        show: |e| e.api.server_timing_enabled.to_string(),
    },
    Key {
        name: "schema_version_header",
        expected: SWITCH,
        doc: "say in MB-Schema-Version which version of its edition the tenant has",
        scope: Scope::Edition,
        in_database: false,
        read: |e, v| set(&mut e.api.schema_version_header, switch(v)?),
        show: |e| e.api.schema_version_header.to_string(),
    },
    Key {
        name: "require_version",
        expected: "a version such as >= 12, > 11 or = 12, or none",
        doc: "refuse requests with 503 while the tenant has another version of its edition; says nothing of adopted databases",
        scope: Scope::Edition,
        in_database: false,
        read: |e, v| set(&mut e.api.require_version, or_none(v, |v| v.parse().ok())?),
        show: |e| option(e.api.require_version.as_ref()),
    },
    Key {
        name: "client_error_verbosity",
        expected: "verbose or minimal",
        doc: "what the JSON of an error has: minimal leaves out details and hint",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.client_error_verbosity, v.parse().ok()?),
        show: |e| e.api.client_error_verbosity.to_string(),
    },
    Key {
        name: "url_use_legacy_target_names",
        expected: SWITCH,
        doc: "let filters, orders and limits name an embed by its target although it has an alias; such answers have a Warning",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.url_use_legacy_target_names, switch(v)?),
        show: |e| e.api.url_use_legacy_target_names.to_string(),
    },
    Key {
        name: JWT_SECRET,
        expected: "a text of 32 characters or more, a JWK or a JWKS",
        doc: "what tokens are checked with beside the tenant's derived key; kept sealed and never shown",
        scope: Scope::Tenant,
        in_database: true,
        read: |e, v| {
            // Shorter ones can be guessed from one token; PostgREST draws the line at the same length.
            (is_json_object(v) || v.len() >= 32).then(|| e.api.jwt_secret = Some(Secret::new(v)))
        },
        show: |e| e.api.jwt_secret.as_ref().map_or_else(|| NONE.into(), |_| super::secret::MASK.into()),
    },
    Key {
        name: "jwt_secret_is_base64",
        expected: SWITCH,
        doc: "whether jwt_secret is base64 of the key",
        scope: Scope::Tenant,
        in_database: true,
        read: |e, v| set(&mut e.api.jwt_secret_is_base64, switch(v)?),
        show: |e| e.api.jwt_secret_is_base64.to_string(),
    },
    Key {
        name: "jwt_aud",
        expected: "an audience, or none for any",
        doc: "what the aud of a token must name, if it has one",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.jwt_aud, or_none(v, text)?),
        show: |e| option(e.api.jwt_aud.as_ref()),
    },
    Key {
        name: "jwt_role_claim_key",
        expected: "a JSON Path such as $.role, $[\"my-role\"][0] or $.roles[?search(@, \"^app_\")]",
        doc: "where the role is among a token's claims",
        scope: Scope::Edition,
        in_database: true,
        read: |e, v| set(&mut e.api.jwt_role_claim_key, v.parse().ok()?),
        show: |e| e.api.jwt_role_claim_key.to_string(),
    },
    Key {
        name: "max_connections",
        expected: "a number from 1 to 262143",
        doc: "connections to the database on each router, instead of the tier's; the server's budget.max_per_tenant holds besides",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.limits.max_connections, count(v)?),
        show: |e| e.limits.max_connections.to_string(),
    },
    Key {
        name: "max_waiting",
        expected: "a number from 1 to 262143",
        doc: "requests that may wait for a connection at once, instead of the tier's; 429 above it",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.limits.max_waiting, count(v)?),
        show: |e| e.limits.max_waiting.to_string(),
    },
    Key {
        name: "max_requests_per_second",
        expected: "a number from 1 to 262143, or none",
        doc: "requests a second on one router, instead of the tier's; 429 above it",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.limits.max_requests_per_second, or_none(v, count)?),
        show: |e| option(e.limits.max_requests_per_second.as_ref()),
    },
    Key {
        name: "max_body",
        expected: BYTES,
        doc: "largest request body, instead of the tier's; 413 above it",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.limits.max_body, size(v)?),
        show: |e| e.limits.max_body.to_string(),
    },
    Key {
        name: "max_answer",
        expected: BYTES,
        doc: "longest answer, instead of the tier's; 400 above it",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.limits.max_answer, size(v)?),
        show: |e| e.limits.max_answer.to_string(),
    },
    Key {
        name: "max_rows",
        expected: "a number of rows, or none",
        doc: "most rows of one answer, instead of the tier's",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.limits.max_rows, or_none(v, number)?),
        show: |e| option(e.limits.max_rows.as_ref()),
    },
    Key {
        name: "max_database_size",
        expected: "a number of bytes from 1MB, such as 500MB, 20GB or 1TB, or none",
        doc: "largest database, instead of the tier's; above it only reads and deletes, 507 for the rest",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.limits.max_database_size, or_none(v, database_size)?),
        show: |e| option(e.limits.max_database_size.as_ref()),
    },
    Key {
        name: "statement_timeout",
        expected: DURATION,
        doc: "longest time of one statement, instead of the tier's",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.limits.statement_timeout, time(v)?),
        show: |e| humantime::format_duration(e.limits.statement_timeout).to_string(),
    },
    Key {
        name: "transaction_idle_timeout",
        expected: DURATION,
        doc: "longest time that a transaction may wait for its next statement, instead of the tier's",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.limits.transaction_idle_timeout, time(v)?),
        show: |e| humantime::format_duration(e.limits.transaction_idle_timeout).to_string(),
    },
    Key {
        name: "request_timeout",
        expected: DURATION,
        doc: "longest time of one request, instead of the tier's",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.limits.request_timeout, time(v)?),
        show: |e| humantime::format_duration(e.limits.request_timeout).to_string(),
    },
    Key {
        name: "acquire_timeout",
        expected: DURATION,
        doc: "longest wait for a connection, instead of the tier's",
        scope: Scope::Tenant,
        in_database: false,
        read: |e, v| set(&mut e.limits.acquire_timeout, time_or_zero(v)?),
        show: |e| humantime::format_duration(e.limits.acquire_timeout).to_string(),
    },
];

/// The key whose value is a secret, and the name under which the catalog holds it sealed.
pub const JWT_SECRET: &str = "jwt_secret";

impl Key {
    /// What the settings have for this key, as it could be written.
    pub fn show(&self, effective: &Effective) -> String {
        (self.show)(effective)
    }
}

/// Finds a key and where it may be set; `app.settings.NAME` has no entry of its own.
pub(super) fn find(name: &str) -> Result<Option<&'static Key>, Invalid> {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Ok(Some(key));
    }
    if let Some(rest) = name.strip_prefix(APP) {
        return if is_setting(rest) {
            Ok(None)
        } else {
            Err(Invalid(format!("`{name}`: expected letters, digits and _ behind {APP}")))
        };
    }
    let nearest = KEYS
        .iter()
        .map(|key| (strsim::damerau_levenshtein(key.name, name), key.name))
        // PostgREST's own names, and those from before it, are often what is meant.
        .chain(KEYS.iter().filter(|k| k.name.ends_with(name) && name.len() > 3).map(|k| (0, k.name)))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, near)| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    let all: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    Err(Invalid(format!("there is no setting `{name}`{nearest} (there are {}, {APP}NAME)", all.join(", "))))
}

/// Reads a value of a key, which is not empty, into the settings.
pub(super) fn read(name: &str, value: &str, into: &mut Effective) -> Result<(), Invalid> {
    if name == JWT_SECRET {
        check_secret(value)?;
    }
    match find(name)? {
        Some(key) => (key.read)(into, value).ok_or_else(|| {
            let shown = if key.name == JWT_SECRET { String::new() } else { format!(" `{value}`") };
            Invalid(format!("`{name}`:{shown} is not {}", key.expected))
        }),
        None => {
            let name = name.strip_prefix(APP).unwrap_or(name).to_owned();
            into.api.app_settings.insert(name, value.to_owned());
            Ok(())
        }
    }
}

/// Refuses what others have. Whether it is base64 is another key's to say, so base64 of a JWK may still be right.
fn check_secret(value: &str) -> Result<(), Invalid> {
    match KeyMaterial::of(value.as_bytes()) {
        None | Some(KeyMaterial::Jwk) => Ok(()),
        Some(_) if is_json_object(value) => Ok(()),
        Some(material) => Err(material.refusal()),
    }
}
