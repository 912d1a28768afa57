//! `TokenKey`: one key that tokens are checked with.

use super::signature::{Algorithm, VerifyingKey};

/// Shortest symmetric key, in bytes (RFC 7518, 3.2, for HS256).
pub(super) const MIN_SYMMETRIC_KEY: usize = 32;

/// One key and the algorithms it may verify: the key chooses the algorithm, not the token.
pub(super) struct TokenKey {
    pub(super) kid: Option<String>,
    /// The one algorithm that it is for, of those of its kind.
    pub(super) only: Option<Algorithm>,
    pub(super) key: VerifyingKey,
}

impl TokenKey {
    /// Whether it may verify a token with this header. A token with a `kid` is verified by that key only, one without
    /// by all, as in PostgREST.
    pub(super) fn fits(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        self.key.is_for(algorithm)
            && self.only.is_none_or(|only| only == algorithm)
            && (kid.is_none() || kid == self.kid.as_deref())
    }

    /// A key of HS256.
    pub(super) fn symmetric(bytes: Vec<u8>) -> Self {
        Self { kid: None, only: Some(Algorithm::Hs256), key: VerifyingKey::secret(bytes) }
    }
}
