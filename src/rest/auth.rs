//! Authentication: the bearer token becomes a role and claims.

mod issuer;
mod jwk;
mod keys;
mod signature;
#[cfg(test)]
mod tests;
mod token;
mod token_key;

pub use issuer::IssuerKeys;
pub use keys::check_jwt_secret;
pub(super) use keys::{Keyring, TokenKeys};
pub use token::sign_token;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::error::{Code, Error};
use crate::policy::Api;

/// Who sends the request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Caller {
    /// The role that the transaction runs as.
    pub(super) role: String,
    /// `request.jwt.claims`: the token's claims as JSON, with `role`.
    pub(super) claims: String,
    /// No role was claimed: a token might have more rights.
    pub(super) anonymous: bool,
}

/// Which roles a token may claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Roles {
    /// Those that the API lists: for tenants that manybox made, which share the server's roles.
    Listed,
    /// Those that the API lists, or any that the server lets the login become if it lists none: for adopted databases.
    Servers,
}

/// Finds the caller by the request's token.
///
/// # Errors
/// 401 without a valid token, or without any where anonymous requests are off; 403 for a role that the tenant's
/// API does not have; 500 where there is no key to check a token with.
pub(super) fn authenticate(
    headers: &HeaderMap,
    api: &Api,
    keys: impl FnOnce() -> Arc<TokenKeys>,
    roles: Roles,
) -> Result<Caller, Error> {
    let token = bearer(headers)?;
    // Keys are needed only for a token.
    let claims = token.map(|token| token::verify(token, &keys())).transpose()?;
    let signed = claims.is_some();
    let mut claims = claims.unwrap_or_default();
    if signed {
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64().floor());
        token::validate(&claims, now, api.jwt_aud.as_deref())?;
    }
    let (role, claimed) = role(&mut claims, api)?;
    let listed = match roles {
        Roles::Listed => true,
        Roles::Servers => claimed && !api.roles.is_empty(),
    };
    if listed && !api.roles.contains(&role) {
        return Err(role_not_allowed(&role));
    }
    if !is_role_name(&role) {
        let message = format!("role \"{role}\" does not exist");
        // As PostgreSQL would answer.
        let code = Code::Sqlstate { state: "22023".into(), status: StatusCode::UNAUTHORIZED };
        return Err(Error::new(code, message));
    }
    let claims = if signed {
        claims.insert("role".into(), Value::String(role.clone()));
        Value::Object(claims).to_string()
    } else {
        format!("{{\"role\":{}}}", Value::from(role.as_str()))
    };
    Ok(Caller { role, claims, anonymous: !claimed })
}

/// Whether a role can have this name. `SET ROLE none` means the login itself. A longer name would be cut off at 63
/// bytes, which may be another role's name (PostgreSQL, "Lexical Structure", 4.1.1).
fn is_role_name(name: &str) -> bool {
    name != "none" && (1..=63).contains(&name.len()) && !name.contains('\0')
}

/// The role that the claims have at `jwt_role_claim_key`, or else the anonymous one; and whether it was claimed.
fn role(claims: &mut Map<String, Value>, api: &Api) -> Result<(String, bool), Error> {
    let whole = Value::Object(std::mem::take(claims));
    let found = api.jwt_role_claim_key.find(&whole).map_err(|_| token::too_many_claims())?;
    let claimed = found.map(|role| match role {
        Value::String(role) => role.clone(),
        // As PostgREST: other JSON is a role name too, which hardly exists.
        other => other.to_string(),
    });
    if let Value::Object(taken) = whole {
        *claims = taken;
    }
    match claimed {
        Some(role) => Ok((role, true)),
        None => Ok((api.db_anon_role.clone().ok_or_else(token_required)?, false)),
    }
}

fn role_not_allowed(role: &str) -> Error {
    let message = format!("The role {role} is not one of this API's roles");
    let hint = "sign tokens with a role that is one of the tenant's API roles";
    Error::new(Code::RoleNotAllowed, message).with_hint(hint)
}

fn token_required() -> Error {
    Error::new(Code::JwtTokenRequired, "Anonymous access is disabled")
}

/// The token in `Authorization` (RFC 6750, 2.1). Other schemes count as no token, as in PostgREST.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(token::undecodable("More than one Authorization header", None));
    }
    let value = value.to_str().map_err(|_| token::undecodable("JWT couldn't be decoded", None))?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    match token.trim() {
        "" => Err(token::undecodable("Empty JWT is sent in Authorization header", None)),
        token => Ok(Some(token)),
    }
}
