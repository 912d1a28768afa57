//! Tokens: format, signature and claims, checked in PostgREST's order, with its messages.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use ring::hmac;
use serde_json::{Map, Value};

use super::super::error::{Code, Error};
use super::keys::TokenKeys;
use super::signature::Algorithm;

/// Tolerated difference of clocks, in seconds; the same as PostgREST's.
const LEEWAY: f64 = 30.0;
/// Longest token, in bytes: its claims go to the server with every request.
const MAX_TOKEN: usize = 16 * 1024;

/// The parameters of a token's header that are used. `x5u`, `jku` and `jwk`, by which a token could bring its own key,
/// are ignored.
#[derive(serde::Deserialize)]
struct JoseHeader {
    alg: String,
    kid: Option<String>,
    /// RFC 7515, 4.1.11: extensions that must be understood. None is.
    crit: Option<Value>,
}

/// PGRST301: the token can't be decoded, or none of the tenant's keys signed it.
pub(super) fn undecodable(message: &str, details: Option<&str>) -> Error {
    refused(Code::JwtDecodeError, message).with_details(details)
}

/// PGRST303: a claim of a genuine token does not hold.
fn claims_error(message: &str) -> Error {
    refused(Code::JwtClaimsError, message)
}

/// PGRST303: the role can't be searched for in as many claims.
pub(super) fn too_many_claims() -> Error {
    claims_error("The claims have too many values to search for the role among them")
}

fn refused(code: Code, message: &str) -> Error {
    let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{message}\"");
    let error = Error::new(code, message);
    match HeaderValue::from_str(&challenge) {
        Ok(value) => error.with_header(WWW_AUTHENTICATE, value),
        Err(_) => error,
    }
}

/// The claims of a token that one of the keys signed.
pub(super) fn verify(token: &str, keys: &TokenKeys) -> Result<Map<String, Value>, Error> {
    if keys.0.is_empty() {
        return Err(Error::new(Code::JwtSecretMissing, "Server lacks JWT secret"));
    }
    if token.len() > MAX_TOKEN {
        return Err(undecodable("JWT couldn't be decoded", Some("The token is longer than 16384 bytes")));
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [head, claims, signature] = parts[..] else {
        return Err(undecodable(&format!("Expected 3 parts in JWT; got {}", parts.len()), None));
    };
    let unusable = || undecodable("JWT cryptographic operation failed", None);
    let head: JoseHeader = decode(head).ok_or_else(unusable)?;
    let wrong = |details| undecodable("Wrong or unsupported encoding algorithm", Some(details));
    if head.alg.eq_ignore_ascii_case("none") {
        return Err(wrong("JWT is unsecured but expected 'alg' was not 'none'"));
    }
    let algorithm = Algorithm::named(&head.alg).ok_or_else(|| wrong("The 'alg' of the JWT is not known"))?;
    if head.crit.is_some() {
        return Err(unusable());
    }
    let unsuited = |details| undecodable("No suitable key or wrong key type", Some(details));
    let mut fitting = keys.0.iter().filter(|key| key.fits(algorithm, head.kid.as_deref())).peekable();
    if fitting.peek().is_none() {
        return Err(unsuited("No suitable key was found to decode the JWT"));
    }
    let message = &token.as_bytes()[..token.len() - signature.len() - 1];
    let signature = URL_SAFE_NO_PAD.decode(signature).ok();
    if !signature.is_some_and(|signature| fitting.any(|key| key.key.verify(algorithm, message, &signature))) {
        return Err(unsuited("None of the keys was able to decode the JWT"));
    }
    decode(claims).ok_or_else(|| claims_error("Parsing claims failed"))
}

/// A token of these claims, signed with HS256.
pub fn sign_token(claims: &Value, key: &[u8]) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
    let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn decode<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// Checks genuine claims at `now`, in seconds since 1970, and for the audience `aud`, if the API has one.
pub(super) fn validate(claims: &Map<String, Value>, now: f64, aud: Option<&str>) -> Result<(), Error> {
    let time = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(at) => Ok(Some(at)),
            None => Err(claims_error(&format!("The JWT '{name}' claim must be a number"))),
        },
    };
    if time("exp")?.is_some_and(|exp| exp < now - LEEWAY) {
        return Err(claims_error("JWT expired"));
    }
    if time("nbf")?.is_some_and(|nbf| nbf > now + LEEWAY) {
        return Err(claims_error("JWT not yet valid"));
    }
    if time("iat")?.is_some_and(|iat| iat > now + LEEWAY) {
        return Err(claims_error("JWT issued at future"));
    }
    let named: Vec<&str> = match claims.get("aud") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) if many.iter().all(Value::is_string) => {
            many.iter().filter_map(Value::as_str).collect()
        }
        Some(_) => {
            return Err(claims_error("The JWT 'aud' claim must be a string or an array of strings"));
        }
    };
    match aud {
        Some(aud) if !named.is_empty() && !named.contains(&aud) => Err(claims_error("JWT not in audience")),
        _ => Ok(()),
    }
}
