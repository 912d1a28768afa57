//! The keys that verify a tenant's tokens: its derived ones, and its own `jwt_secret` in any of its forms.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moka::sync::Cache;

use super::jwk;
use super::token_key::{MIN_SYMMETRIC_KEY, TokenKey};
use crate::policy::{Api, Invalid, JWT_SECRET, KeyMaterial, Secret};
use crate::tenant::{Tenant, TenantId};
use crate::vault::KeyRing;

/// Most keys of a set: all may be tried on each token.
pub(super) const MAX_KEYS: usize = 32;
/// Tenants whose keys are cached.
const CACHED_TENANTS: u64 = 10_000;

/// All keys of one tenant.
#[derive(Default)]
pub(in crate::rest) struct TokenKeys(pub(super) Vec<TokenKey>);

impl TokenKeys {
    /// Reads a `jwt_secret`: a JWKS, a JWK, or else the key of HS256 itself.
    pub(in crate::rest) fn read(secret: &Secret, is_base64: bool) -> Result<Self, Invalid> {
        let wrong = |reason: &str| Invalid(format!("jwt_secret: {reason}"));
        let bytes = if is_base64 {
            // PostgREST takes both alphabets, and `.` for the padding.
            let text = secret.expose().trim().replace('-', "+").replace('_', "/").replace('.', "=");
            STANDARD.decode(text).map_err(|_| wrong("is not base64, but jwt_secret_is_base64 is true"))?
        } else {
            secret.expose().as_bytes().to_vec()
        };
        let Ok(json) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes) else {
            return if bytes.len() < MIN_SYMMETRIC_KEY {
                Err(wrong("is shorter than 32 bytes: it could be guessed from one token"))
            } else if let Some(material) = KeyMaterial::of(&bytes) {
                Err(material.refusal())
            } else {
                Ok(Self(vec![TokenKey::symmetric(bytes)]))
            };
        };
        let all = match json.get("keys") {
            Some(serde_json::Value::Array(keys)) => keys.clone(),
            Some(_) => return Err(wrong("its `keys` is not a list")),
            None => vec![serde_json::Value::Object(json)],
        };
        if all.len() > MAX_KEYS {
            return Err(wrong("has more than 32 keys"));
        }
        // A set may have keys for other purposes or of unknown kinds: those verify no token.
        let keys = all.into_iter().filter_map(|key| jwk::read(key).transpose());
        let known = keys.collect::<Result<Vec<_>, _>>()?;
        if known.is_empty() {
            return Err(wrong(
                "has no key that can check tokens: expected oct of 32 bytes or more, RSA of 2048 to 8192 bits, EC with P-256 or P-384, or \
                 OKP with Ed25519, for signatures",
            ));
        }
        Ok(Self(known))
    }

    /// All keys that verify the tenant's tokens. Another tenant's derived key is never among them. An adopted database
    /// has no derived key: nobody was ever given one.
    fn for_tenant(tenant: &Tenant, secret: Option<&Secret>, is_base64: bool, ring: &KeyRing) -> Self {
        let mut keys = match secret.map(|secret| Self::read(secret, is_base64)).transpose() {
            Ok(own) => own.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(tenant.id = %tenant.id, "tenant {}: {error}", tenant.slug);
                Self::default()
            }
        };
        if !tenant.is_adopted() {
            keys.0.extend(ring.jwt_keys(tenant).iter().map(|key| TokenKey::symmetric(key.to_vec())));
        }
        keys
    }
}

/// Whether a tenant's `jwt_secret` can be used, for those who set it.
///
/// # Errors
/// Says what is wrong with it, without repeating it.
pub fn check_jwt_secret(secret: &Secret, is_base64: bool) -> Result<(), Invalid> {
    TokenKeys::read(secret, is_base64).map(drop)
}

/// What keys are made from. When it changes, they are made anew.
#[derive(PartialEq)]
struct KeySource {
    generation: i32,
    master: u64,
    sealed: Option<String>,
    plaintext: Option<Secret>,
    is_base64: bool,
}

/// The keys of all tenants, cached: opening a sealed secret and parsing a JWKS take longer than a request.
#[derive(Clone)]
pub(in crate::rest) struct Keyring {
    ring: Arc<KeyRing>,
    cache: Cache<TenantId, Arc<CachedKeys>>,
}

/// One tenant's keys, and what they were made from.
struct CachedKeys {
    source: KeySource,
    keys: Arc<TokenKeys>,
}

impl Keyring {
    pub(in crate::rest) fn new(ring: Arc<KeyRing>) -> Self {
        Self { ring, cache: Cache::new(CACHED_TENANTS) }
    }

    /// The tenant's keys. `api` may have a secret from in-database configuration, which wins.
    pub(in crate::rest) fn get(&self, tenant: &Tenant, api: &Api) -> Arc<TokenKeys> {
        let source = KeySource {
            generation: tenant.generation,
            master: self.ring.version(),
            sealed: tenant.sealed.get(JWT_SECRET).cloned(),
            plaintext: api.jwt_secret.clone(),
            is_base64: api.jwt_secret_is_base64,
        };
        if let Some(cached) = self.cache.get(&tenant.id)
            && cached.source == source
        {
            return Arc::clone(&cached.keys);
        }
        let secret = source.plaintext.clone().or_else(|| {
            self.ring.open(tenant, JWT_SECRET).unwrap_or_else(|error| {
                tracing::warn!(tenant.id = %tenant.id, "{error}");
                None
            })
        });
        let keys = TokenKeys::for_tenant(tenant, secret.as_ref(), api.jwt_secret_is_base64, &self.ring);
        let keys = Arc::new(keys);
        self.cache.insert(tenant.id.clone(), Arc::new(CachedKeys { source, keys: Arc::clone(&keys) }));
        keys
    }
}
