//! `Flow`: one sign-in between its beginning and its end. The browser keeps it, sealed: strangers cost the catalog nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::super::problem::{Problem, ProblemCode};
use super::super::random::random_secret;
use crate::policy::Secret;
use crate::tenant::TenantId;
use crate::vault::KeyRing;

/// How long it may take, seconds.
pub(in crate::control) const LIFETIME: i64 = 600;
/// The name under which it is sealed.
const NAME: &str = "sign-in";

/// A sign-in under way.
#[derive(Serialize, Deserialize)]
pub(super) struct Flow {
    /// What the issuer's answer has, so that it is this browser's.
    pub(super) state: String,
    /// What its token has, so that it was made for this sign-in.
    pub(super) nonce: String,
    /// What the code is worth nothing without (RFC 7636).
    pub(super) verifier: String,
    /// Where the issuer sends the browser.
    pub(super) redirect: String,
    /// Where to afterwards.
    pub(super) next: String,
    until: i64,
}

impl Flow {
    pub(super) fn new(next: &str, redirect: &str) -> Result<Self, Problem> {
        let random = || random_secret().map(|secret| secret.expose().to_owned());
        Ok(Self {
            state: random()?,
            nonce: random()?,
            verifier: random()?,
            redirect: redirect.to_owned(),
            next: next.to_owned(),
            until: OffsetDateTime::now_utc().unix_timestamp() + LIFETIME,
        })
    }

    pub(super) fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.verifier.as_bytes()))
    }

    pub(super) fn nonce_hash(&self) -> Vec<u8> {
        digest(&SHA256, self.nonce.as_bytes()).as_ref().to_vec()
    }

    /// Compared by hashes, whose time tells nothing of where the texts differ.
    pub(super) fn has_state(&self, state: &str) -> bool {
        digest(&SHA256, self.state.as_bytes()).as_ref() == digest(&SHA256, state.as_bytes()).as_ref()
    }

    /// As the browser keeps it: nobody reads or changes it.
    pub(super) fn seal(&self, keys: &KeyRing) -> Result<String, Problem> {
        let internal = |error: String| Problem::new(ProblemCode::Internal, error);
        let text = serde_json::to_string(self).map_err(|error| internal(error.to_string()))?;
        let id = TenantId::random()?;
        let sealed = keys.newest().seal(&id, NAME, &Secret::new(text));
        Ok(format!("{id}.{}", sealed.map_err(|error| internal(error.to_string()))?))
    }

    /// As the browser kept it; `None` when it is not ours, or too old.
    pub(super) fn open(keys: &KeyRing, kept: &str) -> Option<Self> {
        let (id, sealed) = kept.split_once('.')?;
        let text = keys.open_sealed((&id.parse().ok()?, "a browser"), NAME, sealed).ok()?;
        let flow: Self = serde_json::from_str(text.expose()).ok()?;
        (flow.until > OffsetDateTime::now_utc().unix_timestamp()).then_some(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_comes_back_as_it_was_or_not_at_all() {
        let keys = KeyRing::generate().unwrap();
        let flow = Flow::new("/tenants", "http://127.0.0.1/sign-in/oidc/callback").unwrap();
        let kept = flow.seal(&keys).unwrap();
        let back = Flow::open(&keys, &kept).unwrap();
        assert!(back.has_state(&flow.state) && !back.has_state(&flow.nonce) && !back.has_state(""));
        assert_eq!((back.nonce, back.next), (flow.nonce.clone(), flow.next.clone()));
        assert!(!kept.contains(&flow.verifier) && flow.verifier.len() == 43);
        for bad in ["", ".", "x", &kept[1..], &kept[..kept.len() - 1], &format!("{kept}A")] {
            assert!(Flow::open(&keys, bad).is_none(), "{bad}");
        }
        assert!(Flow::open(&KeyRing::generate().unwrap(), &kept).is_none());
        let old = Flow { until: OffsetDateTime::now_utc().unix_timestamp() - 1, ..flow };
        assert!(Flow::open(&keys, &old.seal(&keys).unwrap()).is_none());
    }
}
