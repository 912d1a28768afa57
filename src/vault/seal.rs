//! Sealing: secrets that others chose (a login's password, a token secret) at rest in the catalog.
//!
//! XChaCha20-Poly1305 under a key that derives from the master key, with the tenant's id and the secret's name as
//! associated data: a sealed text moved to another tenant, or to another name, doesn't open.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::keyring::{KeyRing, MasterKey, VaultError};
use crate::policy::Secret;
use crate::tenant::{Record, TenantId};

/// Of XChaCha20: long enough to be drawn at random for ever.
const NONCE: usize = 24;

/// The name under which an adopted login's password is sealed.
pub const PASSWORD: &str = "password";

impl MasterKey {
    /// Seals a secret of a tenant: `KEY:BASE64(nonce, ciphertext, tag)`.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn seal(&self, tenant: &TenantId, name: &str, secret: &Secret) -> Result<String, VaultError> {
        let mut nonce = [0_u8; NONCE];
        getrandom::fill(&mut nonce)
            .map_err(|e| VaultError::new(format!("no random bytes from the operating system: {e}")))?;
        let data = associated(tenant, name);
        let payload = Payload { msg: secret.expose().as_bytes(), aad: &data };
        let mut sealed = nonce.to_vec();
        sealed.extend(
            self.cipher()
                .encrypt(&XNonce::from(nonce), payload)
                .map_err(|_| VaultError::new(format!("`{name}` is too long to be sealed")))?,
        );
        Ok(format!("{}:{}", self.id(), STANDARD_NO_PAD.encode(sealed)))
    }

    fn open(&self, tenant: &TenantId, name: &str, sealed: &str) -> Option<Secret> {
        let bytes = STANDARD_NO_PAD.decode(sealed).ok()?;
        let (nonce, msg) = bytes.split_first_chunk::<NONCE>()?;
        let data = associated(tenant, name);
        let open = self.cipher().decrypt(&XNonce::from(*nonce), Payload { msg, aad: &data }).ok()?;
        String::from_utf8(open).ok().map(Secret::new)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.derive(&["seal"]).into())
    }
}

fn associated(tenant: &TenantId, name: &str) -> Vec<u8> {
    // An id has a fixed length, so no two pairs give the same bytes.
    [tenant.as_str().as_bytes(), name.as_bytes()].concat()
}

impl KeyRing {
    /// Opens a tenant's secret; `None` when it has none of this name.
    ///
    /// # Errors
    /// When the master key that sealed it is not in the ring, or what the catalog holds was not sealed for this
    /// tenant and name.
    pub fn open(&self, tenant: &Record, name: &str) -> Result<Option<Secret>, VaultError> {
        let Some(sealed) = tenant.sealed.get(name) else { return Ok(None) };
        let of = format!("tenant `{}`", tenant.slug);
        self.open_sealed((&tenant.id, &of), name, sealed).map(Some)
    }

    /// Opens what was sealed under an id and a name; `of` says whose it is, for the error.
    ///
    /// # Errors
    /// As [`KeyRing::open`].
    pub fn open_sealed(
        &self,
        (id, of): (&TenantId, &str),
        name: &str,
        sealed: &str,
    ) -> Result<Secret, VaultError> {
        let (key_id, text) = sealed.split_once(':').unwrap_or_default();
        let key = self.key(key_id.parse().unwrap_or_default()).ok_or_else(|| {
            VaultError::new(format!(
                "the {name} of {of} is sealed with master key {key_id}, which is not among those in use; set it anew"
            ))
        })?;
        key.open(id, name, text).ok_or_else(|| {
            VaultError::new(format!(
                "the {name} of {of} can't be opened: it was changed in the catalog, or another master key has the number \
                 {key_id}; set it anew"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::keyring::tests::{record, written_before};
    use super::*;
    use crate::policy::JWT_SECRET;

    #[test]
    fn what_is_sealed_opens_for_its_tenant_and_name_only() {
        let ring = KeyRing::generate().unwrap();
        let mut acme = record("acme");
        let sealed = ring.newest().seal(&acme.id, PASSWORD, &Secret::new("hunter2")).unwrap();
        assert!(sealed.starts_with("1:") && !sealed.contains("hunter2"));
        assert_ne!(sealed, ring.newest().seal(&acme.id, PASSWORD, &Secret::new("hunter2")).unwrap());
        acme.sealed.insert(PASSWORD.into(), sealed.clone());
        assert_eq!(ring.open(&acme, PASSWORD).unwrap().unwrap().expose(), "hunter2");
        assert_eq!(ring.open(&acme, JWT_SECRET).unwrap(), None);

        // Under another name, for another tenant, with a bit changed, under another key of the same number.
        acme.sealed.insert(JWT_SECRET.into(), sealed.clone());
        assert!(ring.open(&acme, JWT_SECRET).is_err());
        let mut globex = record("globex");
        globex.sealed = acme.sealed.clone();
        assert!(ring.open(&globex, PASSWORD).is_err());
        assert!(KeyRing::generate().unwrap().open(&acme, PASSWORD).is_err());
        let last = if sealed.ends_with('A') { "B" } else { "A" };
        for bad in
            [format!("{}{last}", &sealed[..sealed.len() - 1]), "1:".into(), "2:AAAA".into(), "x".into()]
        {
            acme.sealed.insert(PASSWORD.into(), bad.clone());
            assert!(ring.open(&acme, PASSWORD).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_earlier_versions_sealed_opens() {
        let (ring, mut tenant) = written_before();
        tenant.sealed.insert(
            PASSWORD.into(),
            "7:H2MCy33xOwa01uI0oulyO3mRVb0JQ2d1O64AWUWlzLvjBj8Xda0toFCKiOBoG+8".into(),
        );
        assert_eq!(ring.open(&tenant, PASSWORD).unwrap().unwrap().expose(), "hunter2");
    }

    #[test]
    fn a_rotation_opens_with_the_key_that_sealed() {
        let ring = KeyRing::generate().unwrap();
        let mut acme = record("acme");
        acme.sealed
            .insert(PASSWORD.into(), ring.newest().seal(&acme.id, PASSWORD, &Secret::new("x")).unwrap());
        let rotated = ring.rotated(0).unwrap();
        assert_eq!(rotated.open(&acme, PASSWORD).unwrap().unwrap().expose(), "x");
        let lost = rotated.finished().open(&acme, PASSWORD).unwrap_err().to_string();
        assert!(lost.contains("master key 1") && lost.contains("acme"), "{lost}");
    }
}
