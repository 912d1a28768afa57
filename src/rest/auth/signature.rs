//! Signature: the algorithms that tokens are signed with, and the keys that check them, by ring.

use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use zeroize::Zeroizing;

/// How a token may be signed (RFC 7518, 3.1; RFC 8037, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// The one that a token or a key calls by this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A key that checks signatures. Its kind says which algorithms it may be used for, so that a token can't choose, say,
/// HMAC with what is public of an RSA key.
pub(super) enum VerifyingKey {
    /// For HMAC.
    Secret(Zeroizing<Vec<u8>>),
    /// For RSA: modulus and exponent, big-endian without zeros in front.
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// For ECDSA on P-256: an uncompressed point.
    P256(Vec<u8>),
    /// For ECDSA on P-384: an uncompressed point.
    P384(Vec<u8>),
    /// For EdDSA on Ed25519.
    Ed25519(Vec<u8>),
}

impl VerifyingKey {
    pub(super) fn secret(bytes: Vec<u8>) -> Self {
        Self::Secret(Zeroizing::new(bytes))
    }

    /// Whether it is of the kind that the algorithm takes.
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        use Algorithm::*;
        match self {
            Self::Secret(_) => matches!(algorithm, Hs256 | Hs384 | Hs512),
            Self::Rsa(_) => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Self::P256(_) => algorithm == Es256,
            Self::P384(_) => algorithm == Es384,
            Self::Ed25519(_) => algorithm == EdDsa,
        }
    }

    /// Whether the holder of this key signed the message.
    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        use Algorithm::*;
        let secret = |key: &[u8], hash| hmac::verify(&hmac::Key::new(hash, key), message, signature).is_ok();
        let rsa = |key: &RsaPublicKeyComponents<Vec<u8>>, how: &RsaParameters| {
            key.verify(how, message, signature).is_ok()
        };
        let point = |key: &[u8], how: &'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(how, key).verify(message, signature).is_ok()
        };
        match (self, algorithm) {
            (Self::Secret(key), Hs256) => secret(key, hmac::HMAC_SHA256),
            (Self::Secret(key), Hs384) => secret(key, hmac::HMAC_SHA384),
            (Self::Secret(key), Hs512) => secret(key, hmac::HMAC_SHA512),
            (Self::Rsa(key), Rs256) => rsa(key, &RSA_PKCS1_2048_8192_SHA256),
            (Self::Rsa(key), Rs384) => rsa(key, &RSA_PKCS1_2048_8192_SHA384),
            (Self::Rsa(key), Rs512) => rsa(key, &RSA_PKCS1_2048_8192_SHA512),
            (Self::Rsa(key), Ps256) => rsa(key, &RSA_PSS_2048_8192_SHA256),
            (Self::Rsa(key), Ps384) => rsa(key, &RSA_PSS_2048_8192_SHA384),
            (Self::Rsa(key), Ps512) => rsa(key, &RSA_PSS_2048_8192_SHA512),
            (Self::P256(key), Es256) => point(key, &ECDSA_P256_SHA256_FIXED),
            (Self::P384(key), Es384) => point(key, &ECDSA_P384_SHA384_FIXED),
            (Self::Ed25519(key), EdDsa) => point(key, &ED25519),
            _ => false,
        }
    }
}
