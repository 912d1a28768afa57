//! Authentication: the bearer token becomes a role and claims.

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};

use super::error::Error;
use crate::tenant::Api;

/// Clocks may differ by this much, seconds; PostgREST allows the same.
const LEEWAY: u64 = 30;

/// Who asks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Caller {
    /// The role that the transaction runs as; one of the tenant's API roles.
    pub(super) role: String,
    /// `request.jwt.claims`: the token's claims as JSON, with `role`.
    pub(super) claims: String,
    /// No token was sent.
    pub(super) anonymous: bool,
}

/// Finds out who asks. Every key in `keys` is tried: during a rotation there are two.
///
/// # Errors
/// 401 without a valid token, or without any where anonymous requests are off; 403 for a role that the tenant's
/// API does not have.
pub(super) fn authenticate(headers: &HeaderMap, api: &Api, keys: &[[u8; 32]]) -> Result<Caller, Error> {
    let mut claims = match bearer(headers)? {
        Some(token) => Some(verify(token, keys)?),
        None => None,
    };
    let anonymous = claims.is_none();
    let role = match claims.as_ref().and_then(|c| c.get("role")) {
        Some(Value::String(role)) => role.clone(),
        Some(other) => return Err(foreign_role(&other.to_string())),
        None => api.db_anon_role.clone().ok_or_else(required)?,
    };
    // The anonymous role is the operator's choice; a token's is the signer's claim.
    if !api.roles.contains(&role) {
        return Err(foreign_role(&role));
    }
    let claims = claims.get_or_insert_with(Map::new);
    claims.insert("role".into(), Value::String(role.clone()));
    Ok(Caller { role, claims: Value::Object(std::mem::take(claims)).to_string(), anonymous })
}

fn foreign_role(role: &str) -> Error {
    let message = format!("The role {role} is not one of this API's roles");
    let hint = "sign tokens with a `role` claim that names one of the tenant's API roles";
    Error::new(StatusCode::FORBIDDEN, "MBX301", message, None, Some(hint.into()))
}

fn required() -> Error {
    Error::new(StatusCode::UNAUTHORIZED, "PGRST302", "Anonymous access is disabled", None, None)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

fn invalid(code: &str, message: &str) -> Error {
    let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{message}\"");
    let error = Error::new(StatusCode::UNAUTHORIZED, code, message, None, None);
    match HeaderValue::from_str(&challenge) {
        Ok(value) => error.with_header(WWW_AUTHENTICATE, value),
        Err(_) => error,
    }
}

/// RFC 6750, 2.1. Another scheme is not for us and counts as no token, as with PostgREST.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("PGRST301", "More than one Authorization header"));
    }
    let value = value.to_str().map_err(|_| invalid("PGRST301", "JWT couldn't be decoded"))?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    match token.trim() {
        "" => Err(invalid("PGRST301", "Empty JWT is sent in Authorization header")),
        token => Ok(Some(token)),
    }
}

fn verify(token: &str, keys: &[[u8; 32]]) -> Result<Map<String, Value>, Error> {
    // The algorithm is pinned: a token that names another one, or `none`, is refused before any key is tried.
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    // Separately, because the library gives one error for a header and for claims that are no JSON of the right form.
    if jsonwebtoken::decode_header(token).is_err() {
        return Err(invalid("PGRST301", "JWT couldn't be decoded"));
    }
    let mut answer = invalid("PGRST301", "No suitable key or wrong key type");
    for key in keys {
        let kind = match jsonwebtoken::decode(token, &DecodingKey::from_secret(key), &validation) {
            Ok(data) => {
                let claims: Map<String, Value> = data.claims;
                // The library skips times that are no numbers; a token that never expires must say nothing.
                for name in ["exp", "nbf", "iat"] {
                    if claims.get(name).is_some_and(|v| !v.is_number()) {
                        return Err(invalid("PGRST303", &format!("The JWT '{name}' claim must be a number")));
                    }
                }
                return Ok(claims);
            }
            Err(e) => e.into_kind(),
        };
        answer = match kind {
            ErrorKind::InvalidSignature => continue,
            ErrorKind::ExpiredSignature => invalid("PGRST303", "JWT expired"),
            ErrorKind::ImmatureSignature => invalid("PGRST303", "JWT not yet valid"),
            ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
                invalid("PGRST301", "Wrong or unsupported encoding algorithm")
            }
            ErrorKind::InvalidToken => invalid("PGRST301", "Expected 3 parts in JWT"),
            ErrorKind::InvalidClaimFormat(_) => invalid("PGRST303", "Parsing claims failed"),
            ErrorKind::Json(_) => invalid("PGRST303", "Parsing claims failed"),
            _ => invalid("PGRST301", "JWT couldn't be decoded"),
        };
        break;
    }
    Err(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header};

    const KEY: [u8; 32] = [7; 32];

    fn ask(header: Option<&str>) -> Result<Caller, Error> {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        authenticate(&headers, &Api::default(), &[[1; 32], KEY])
    }

    fn token(claims: &Value, key: &[u8], algorithm: Algorithm) -> String {
        let token = jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(key));
        format!("Bearer {}", token.unwrap())
    }

    fn refused(claims: &Value) -> (u16, String) {
        let error = ask(Some(&token(claims, &KEY, Algorithm::HS256))).unwrap_err();
        (error.status().as_u16(), error.code().to_owned())
    }

    #[test]
    fn a_token_gives_its_role_and_claims() {
        let claims = serde_json::json!({"role": "authenticated", "sub": "x"});
        let caller = ask(Some(&token(&claims, &KEY, Algorithm::HS256))).unwrap();
        assert_eq!(caller.role, "authenticated");
        assert_eq!(caller.claims, claims.to_string());
        assert!(!caller.anonymous);
        let caller = ask(None).unwrap();
        assert_eq!((caller.role.as_str(), caller.claims.as_str()), ("anon", r#"{"role":"anon"}"#));
    }

    #[test]
    fn what_is_refused() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let json = |name: &str, value: Value| serde_json::json!({"role": "anon", name: value});
        assert_eq!(refused(&json("exp", (now - 60).into())), (401, "PGRST303".into()));
        assert_eq!(refused(&json("nbf", (now + 60).into())), (401, "PGRST303".into()));
        assert_eq!(refused(&json("exp", "never".into())), (401, "PGRST303".into()));
        assert_eq!(refused(&serde_json::json!({"role": "postgres"})), (403, "MBX301".into()));
        assert_eq!(refused(&serde_json::json!({"role": 1})), (403, "MBX301".into()));
        assert_eq!(refused(&serde_json::json!(["role"])), (401, "PGRST303".into()));
        assert!(ask(Some(&token(&json("exp", (now - 10).into()), &KEY, Algorithm::HS256))).is_ok(), "leeway");
        let good = serde_json::json!({"role": "service"});
        for bad in [
            token(&good, &[9; 32], Algorithm::HS256),
            token(&good, &KEY, Algorithm::HS512),
            "Bearer ".into(),
            "Bearer a.b".into(),
            "Bearer eyJhbGciOiJub25lIn0.eyJyb2xlIjoic2VydmljZSJ9.".into(),
        ] {
            let error = ask(Some(&bad)).unwrap_err();
            assert_eq!((error.status().as_u16(), error.code()), (401, "PGRST301"), "{bad}");
        }
    }
}
