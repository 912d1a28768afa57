//! `ApiToken`: what an operator's programs show: an id that may be seen, and a secret that the catalog has a hash of.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::policy::{Invalid, Secret};
use crate::tenant::TenantId;

/// So that a scanner of sources and logs knows one.
const PREFIX: &str = "mbc_";
/// Random bytes of a secret.
const RANDOM: usize = 32;

/// An API token: `mbc_ID_SECRET`.
#[derive(Debug)]
pub struct ApiToken {
    id: String,
    secret: Secret,
}

/// A text that is no API token.
#[derive(Debug, thiserror::Error)]
#[error("that is not an API token: expected mbc_ID_SECRET")]
pub struct BadToken;

impl ApiToken {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn random() -> Result<Self, Invalid> {
        Ok(Self { id: TenantId::random()?.to_string(), secret: random_secret()? })
    }

    /// The part of it that may be shown.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the catalog keeps of it.
    pub fn hash(&self) -> Vec<u8> {
        digest(&SHA256, self.secret.expose().as_bytes()).as_ref().to_vec()
    }

    /// Whether this is the hash of it. Compared in a time that tells nothing of where they differ.
    pub fn has_hash(&self, hash: &[u8]) -> bool {
        let own = self.hash();
        own.len() == hash.len() && own.iter().zip(hash).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
    }

    /// All of it, for its holder, once.
    pub fn reveal(&self) -> Secret {
        Secret::new(format!("{PREFIX}{}_{}", self.id, self.secret.expose()))
    }
}

/// A text that nobody can guess: 256 random bits.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn random_secret() -> Result<Secret, Invalid> {
    let mut bytes = Zeroizing::new([0_u8; RANDOM]);
    getrandom::fill(&mut bytes[..])
        .map_err(|e| Invalid(format!("no random bytes from the operating system: {e}")))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(&bytes[..])))
}

impl FromStr for ApiToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let (id, secret) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(BadToken)?;
        let is_secret = secret.len() == (RANDOM * 4).div_ceil(3) && secret.is_ascii();
        if !is_secret || id.parse::<TenantId>().is_err() {
            return Err(BadToken);
        }
        Ok(Self { id: id.to_owned(), secret: Secret::new(secret) })
    }
}

impl fmt::Display for ApiToken {
    /// The part of it that may be shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_***", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back_and_nothing_else_is() {
        let token = ApiToken::random().unwrap();
        let shown = token.reveal();
        let read: ApiToken = shown.expose().parse().unwrap();
        assert!(read.has_hash(&token.hash()) && read.id() == token.id());
        assert!(!read.has_hash(&ApiToken::random().unwrap().hash()) && !read.has_hash(&[]));
        assert!(!format!("{token:?} {token}").contains(token.secret.expose()));
        for bad in ["", "mbc_", "mbc_a_b", &shown.expose()[1..], &format!("{}x", shown.expose())] {
            assert!(bad.parse::<ApiToken>().is_err(), "{bad}");
        }
    }
}
