//! `IssuerKeys`: the public keys of an OpenID issuer, by which the control service checks who signs in.

use serde_json::{Map, Value};

use super::jwk;
use super::keys::{MAX_KEYS, TokenKeys};
use super::signature::VerifyingKey;
use super::token;
use crate::policy::Invalid;

/// The keys of an issuer's JWKS that check signatures. None is symmetric: what everybody can read signs nothing.
pub struct IssuerKeys(TokenKeys);

impl IssuerKeys {
    /// Reads a JWKS.
    ///
    /// # Errors
    /// When it is none, or has no key that can check a token.
    pub fn read(jwks: &[u8]) -> Result<Self, Invalid> {
        let set: Value = serde_json::from_slice(jwks)
            .map_err(|error| Invalid(format!("its keys are no JSON: {error}")))?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or_else(|| Invalid("its keys are no JWKS: expected `keys`".into()))?;
        let known = keys.iter().filter_map(|key| jwk::read(key.clone()).ok().flatten());
        let known: Vec<_> =
            known.filter(|key| !matches!(key.key, VerifyingKey::Secret(_))).take(MAX_KEYS).collect();
        if known.is_empty() {
            return Err(Invalid(
                "it has no key that can check tokens: expected RSA of 2048 to 8192 bits, EC with P-256 or P-384, or OKP with \
                 Ed25519"
                    .into(),
            ));
        }
        Ok(Self(TokenKeys(known)))
    }

    /// The claims of a token that one of the keys signed. Whether they hold is for the caller to see.
    ///
    /// # Errors
    /// When none did.
    pub fn verify(&self, token: &str) -> Result<Map<String, Value>, Invalid> {
        token::verify(token, &self.0).map_err(|error| Invalid(error.to_string()))
    }
}
