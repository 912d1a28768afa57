//! `ApiToken`: what an operator's programs show: an id that may be seen, and a secret that the catalog has a hash of.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};

use super::super::random::{RANDOM, random_secret};
use crate::policy::{Invalid, Secret};
use crate::tenant::TenantId;

/// So that a scanner of sources and logs knows one.
const PREFIX: &str = "mbc_";

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

/// A text without the secrets of tokens that somebody put in it by mistake: what is kept of requests has none.
pub fn masked(text: &str) -> Cow<'_, str> {
    if !text.contains(PREFIX) {
        return Cow::Borrowed(text);
    }
    let mut parts = text.split(PREFIX);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        masked.push_str(PREFIX);
        let (id, rest) = part.split_once('_').unwrap_or((part, ""));
        masked.push_str(id);
        if !rest.is_empty() {
            masked.push_str("_***");
            let is_secret = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            masked.push_str(rest.trim_start_matches(is_secret));
        }
    }
    Cow::Owned(masked)
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
    fn secrets_of_tokens_are_masked_wherever_they_stand() {
        for (text, expected) in [
            ("nothing", "nothing"),
            (
                "/v1/tenants/mbc_id_a-B_c9/x?mbc_other_zz, `mbc_i_",
                "/v1/tenants/mbc_id_***/x?mbc_other_***, `mbc_i",
            ),
            ("mbc_", "mbc_"),
            ("mbc_mbc_id_x y", "mbc_mbc_id_*** y"),
        ] {
            assert_eq!(masked(text), expected);
        }
        let token = ApiToken::random().unwrap();
        assert_eq!(masked(&format!("a {} b", token.reveal().expose())), format!("a {token} b"));
    }

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
