//! Keys that a tenant's tokens are checked with: its derived ones, and its own `jwt_secret` in any of its forms.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use moka::sync::Cache;

use crate::policy::{Api, Invalid, Secret};
use crate::tenant::{Tenant, TenantId};
use crate::vault::{JWT_SECRET, KeyRing};

/// Shortest symmetric key (RFC 7518, 3.2, for HS256), bytes.
const SHORTEST: usize = 32;
/// Most keys of a set: every one may be tried on every token.
const MOST_KEYS: usize = 32;
/// Tenants whose keys are kept ready.
const KEPT: u64 = 10_000;

/// One key, and what it may be used for: a token does not choose the algorithm, the key does.
pub(super) struct TokenKey {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    pub(super) decoding: DecodingKey,
}

impl TokenKey {
    /// Whether a token of this head may have been signed by it. A token that names a key is checked with that key
    /// only, and one without a name with all, as PostgREST does.
    pub(super) fn fits(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        self.algorithms.contains(&algorithm) && (kid.is_none() || kid == self.kid.as_deref())
    }

    fn symmetric(bytes: &[u8]) -> Self {
        Self { kid: None, algorithms: vec![Algorithm::HS256], decoding: DecodingKey::from_secret(bytes) }
    }
}

/// All keys of one tenant.
#[derive(Default)]
pub(in crate::rest) struct TokenKeys(pub(super) Vec<TokenKey>);

impl TokenKeys {
    /// Reads a `jwt_secret`: a JWKS, a JWK, or else the key of HS256 itself.
    pub(super) fn read(secret: &Secret, is_base64: bool) -> Result<Self, Invalid> {
        let wrong = |reason: &str| Invalid(format!("jwt_secret: {reason}"));
        let bytes = if is_base64 {
            // PostgREST takes both alphabets, and `.` for the padding.
            let text = secret.expose().trim().replace('-', "+").replace('_', "/").replace('.', "=");
            STANDARD.decode(text).map_err(|_| wrong("is not base64, but jwt_secret_is_base64 is true"))?
        } else {
            secret.expose().as_bytes().to_vec()
        };
        let Ok(json) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes) else {
            return if bytes.len() < SHORTEST {
                Err(wrong("is shorter than 32 bytes: it could be guessed from one token"))
            } else {
                Ok(Self(vec![TokenKey::symmetric(&bytes)]))
            };
        };
        let all = match json.get("keys") {
            Some(serde_json::Value::Array(keys)) => keys.clone(),
            Some(_) => return Err(wrong("its `keys` is not a list")),
            None => vec![serde_json::Value::Object(json)],
        };
        if all.len() > MOST_KEYS {
            return Err(wrong("has more than 32 keys"));
        }
        // A set may hold keys for other purposes, or of kinds that we don't know: those check no token.
        let known: Vec<_> = all
            .into_iter()
            .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
            .filter_map(|key| from_jwk(&key))
            .collect();
        if known.is_empty() {
            return Err(wrong(
                "has no key that can check tokens: expected oct of 32 bytes or more, RSA, EC with P-256 or P-384, or \
                 OKP with Ed25519, for signatures",
            ));
        }
        Ok(Self(known))
    }

    /// All that the tenant's tokens may be signed with. Another tenant's derived key is never among them, whatever the
    /// settings say; an adopted database has none derived, for nobody was ever handed it.
    fn of(tenant: &Tenant, secret: Option<&Secret>, is_base64: bool, ring: &KeyRing) -> Self {
        let mut keys = match secret.map(|secret| Self::read(secret, is_base64)).transpose() {
            Ok(own) => own.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(tenant.id = %tenant.id, "tenant {}: {error}", tenant.slug);
                Self::default()
            }
        };
        if !tenant.is_adopted() {
            keys.0.extend(ring.jwt_keys(tenant).iter().map(|key| TokenKey::symmetric(key)));
        }
        keys
    }
}

fn from_jwk(jwk: &Jwk) -> Option<TokenKey> {
    let common = &jwk.common;
    let for_signatures = match &common.public_key_use {
        None | Some(PublicKeyUse::Signature) => true,
        Some(_) => false,
    };
    let may_verify = common
        .key_operations
        .as_ref()
        // A symmetric key that may sign may verify.
        .is_none_or(|ops| ops.iter().any(|op| matches!(op, KeyOperations::Verify | KeyOperations::Sign)));
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(key) => {
            let bytes = URL_SAFE_NO_PAD.decode(key.value.trim_end_matches('=')).ok()?;
            if bytes.len() < SHORTEST {
                return None;
            }
            vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512]
        }
        AlgorithmParameters::RSA(_) => vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            vec![Algorithm::EdDSA]
        }
        _ => return None,
    };
    if let Some(only) = common.key_algorithm {
        let only = Algorithm::try_from(only).ok()?;
        algorithms.retain(|algorithm| *algorithm == only);
    }
    let decoding = DecodingKey::from_jwk(jwk).ok()?;
    (for_signatures && may_verify && !algorithms.is_empty()).then(|| TokenKey {
        kid: common.key_id.clone(),
        algorithms,
        decoding,
    })
}

/// Whether a tenant's `jwt_secret` can be used, for those who set it.
///
/// # Errors
/// Says what is wrong with it, without repeating it.
pub fn check_jwt_secret(secret: &Secret, is_base64: bool) -> Result<(), Invalid> {
    TokenKeys::read(secret, is_base64).map(drop)
}

/// What keys were made from: when it is another, they are made anew.
#[derive(PartialEq)]
struct Source {
    generation: i32,
    master: Vec<i32>,
    sealed: Option<String>,
    given: Option<Secret>,
    is_base64: bool,
}

/// The keys of all tenants, made once each: opening a sealed secret and reading a JWKS take longer than a request.
#[derive(Clone)]
pub(in crate::rest) struct Keyring {
    ring: Arc<KeyRing>,
    made: Cache<TenantId, Arc<Made>>,
}

/// One tenant's keys, and what they were made from.
struct Made {
    source: Source,
    keys: Arc<TokenKeys>,
}

impl Keyring {
    pub(in crate::rest) fn new(ring: Arc<KeyRing>) -> Self {
        Self { ring, made: Cache::new(KEPT) }
    }

    /// The tenant's keys. `api` may have a secret from in-database configuration, which wins.
    pub(in crate::rest) fn get(&self, tenant: &Tenant, api: &Api) -> Arc<TokenKeys> {
        let source = Source {
            generation: tenant.generation,
            master: self.ring.ids(),
            sealed: tenant.sealed.get(JWT_SECRET).cloned(),
            given: api.jwt_secret.clone(),
            is_base64: api.jwt_secret_is_base64,
        };
        if let Some(made) = self.made.get(&tenant.id)
            && made.source == source
        {
            return Arc::clone(&made.keys);
        }
        let secret = source.given.clone().or_else(|| {
            self.ring.open(tenant, JWT_SECRET).unwrap_or_else(|error| {
                tracing::warn!(tenant.id = %tenant.id, "{error}");
                None
            })
        });
        let keys = TokenKeys::of(tenant, secret.as_ref(), api.jwt_secret_is_base64, &self.ring);
        let keys = Arc::new(keys);
        self.made.insert(tenant.id.clone(), Arc::new(Made { source, keys: Arc::clone(&keys) }));
        keys
    }
}
