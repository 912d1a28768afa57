//! JWK: one key of a key set (RFC 7517; RFC 7518, 6; RFC 8037, 2), as far as it checks tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::RsaPublicKeyComponents;
use serde::Deserialize;
use serde_json::Value;

use super::signature::{Algorithm, VerifyingKey};
use super::token_key::{MIN_SYMMETRIC_KEY, TokenKey};
use crate::policy::{Invalid, KeyMaterial};

#[derive(Deserialize)]
struct Jwk {
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    #[serde(flatten)]
    material: Material,
}

/// What the key is made of; numbers and bytes in base64url.
#[derive(Deserialize)]
#[serde(tag = "kty")]
enum Material {
    #[serde(rename = "oct")]
    Secret { k: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
    #[serde(rename = "EC")]
    Ec { crv: String, x: String, y: String },
    #[serde(rename = "OKP")]
    Okp { crv: String, x: String },
}

/// The key, if it is for signatures and of a kind and a size that we check them with.
///
/// # Errors
/// When what it says is secret is a public key.
pub(super) fn read(key: Value) -> Result<Option<TokenKey>, Invalid> {
    let Ok(jwk) = serde_json::from_value::<Jwk>(key) else { return Ok(None) };
    if let Material::Secret { k } = &jwk.material
        && let Some(material) = bytes(k).as_deref().and_then(KeyMaterial::of)
    {
        return Err(material.refusal());
    }
    Ok(known(jwk))
}

fn known(Jwk { kid, purpose, key_ops, alg, material }: Jwk) -> Option<TokenKey> {
    let for_signatures = purpose.is_none_or(|purpose| purpose == "sig")
        // A symmetric key that may sign may verify.
        && key_ops.is_none_or(|all| all.iter().any(|one| one == "verify" || one == "sign"));
    let key = for_signatures.then(|| material.key()).flatten()?;
    let only = match alg {
        Some(name) => Some(Algorithm::named(&name).filter(|algorithm| key.is_for(*algorithm))?),
        None => None,
    };
    Some(TokenKey { kid, only, key })
}

impl Material {
    fn key(&self) -> Option<VerifyingKey> {
        match self {
            Self::Secret { k } => {
                bytes(k).filter(|key| key.len() >= MIN_SYMMETRIC_KEY).map(VerifyingKey::secret)
            }
            Self::Rsa { n, e } => {
                let (n, e) = (number(n)?, number(e)?);
                // RFC 7518, 3.3 asks for 2048 bits; ring takes 8192 at most.
                (256..=1024).contains(&n.len()).then(|| VerifyingKey::Rsa(RsaPublicKeyComponents { n, e }))
            }
            Self::Ec { crv, x, y } => match crv.as_str() {
                "P-256" => point(x, y, 32).map(VerifyingKey::P256),
                "P-384" => point(x, y, 48).map(VerifyingKey::P384),
                _ => None,
            },
            Self::Okp { crv, x } if crv == "Ed25519" => {
                bytes(x).filter(|key| key.len() == 32).map(VerifyingKey::Ed25519)
            }
            Self::Okp { .. } => None,
        }
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// A number without zeros in front, which some write and ring refuses.
fn number(text: &str) -> Option<Vec<u8>> {
    bytes(text).map(|bytes| bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

/// An uncompressed point of a curve whose coordinates have this length (SEC 1, 2.3.3).
fn point(x: &str, y: &str, length: usize) -> Option<Vec<u8>> {
    let (x, y) = (bytes(x)?, bytes(y)?);
    (x.len() == length && y.len() == length).then(|| [&[4], x.as_slice(), &y].concat())
}
