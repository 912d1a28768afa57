//! Derived credentials: every tenant's password and JWT key comes from a master key, none is stored.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::hmac::{self, HMAC_SHA256};
use ring::pbkdf2;

use super::keyring::{KeyRing, MasterKey, VaultError};
use super::seal::PASSWORD;
use crate::pg::{Login, Logins};
use crate::policy::Secret;
use crate::tenant::Record;

/// Iterations of the SCRAM verifiers we make. Stretching protects passwords that can be guessed; ours are 256 derived
/// bits, and every iteration is paid at every connect (30 % of a cold one at PostgreSQL's default of 4,096).
const SCRAM_ITERATIONS: NonZeroU32 = NonZeroU32::MIN;

impl MasterKey {
    fn login(&self, user: &str, parts: &[&str]) -> Login {
        Login {
            user: user.to_owned(),
            password: Some(Secret::new(URL_SAFE_NO_PAD.encode(self.derive(parts)))),
        }
    }

    /// The login, under this key, of a tenant whose database manybox made.
    pub fn tenant_login(&self, tenant: &Record) -> Login {
        let generation = tenant.generation.to_string();
        self.login(&tenant.id.database(), &["tenant-login", tenant.id.as_str(), &generation])
    }

    /// The key that signs the tenant's tokens under this master key.
    pub fn jwt_key(&self, tenant: &Record) -> [u8; 32] {
        self.derive(&["tenant-jwt", tenant.id.as_str(), &tenant.generation.to_string()])
    }

    /// The login with which a router reads the catalog database of this name, and nothing else.
    pub fn router_login(&self, catalog: &str) -> Login {
        self.login(&format!("{catalog}_router"), &["router-login", catalog])
    }
}

impl KeyRing {
    /// The tenant's logins to try in turn; at least one. Of a database that manybox made: its record's key first,
    /// then the others, because a record may be read a moment before or after the password was changed. Of an adopted
    /// one: the role and the password that the operator gave, if any.
    pub fn tenant_logins(&self, tenant: &Record) -> Vec<Login> {
        if tenant.is_adopted() {
            let password = self.open(tenant, PASSWORD).unwrap_or_else(|error| {
                tracing::warn!(tenant.id = %tenant.id, "{error}");
                None
            });
            return vec![Login { user: tenant.login_role(), password }];
        }
        let keys = self.keys();
        let (own, others): (Vec<_>, Vec<_>) = keys.iter().partition(|key| key.id() == tenant.key);
        own.into_iter().chain(others).map(|key| key.tenant_login(tenant)).collect()
    }

    /// The keys that the tenant's tokens may be signed with, newest first: tokens made before a rotation hold
    /// until it is finished.
    pub fn jwt_keys(&self, tenant: &Record) -> Vec<[u8; 32]> {
        self.keys().iter().map(|key| key.jwt_key(tenant)).collect()
    }

    /// The key of the advisory lock on what these words name. Every login of a server can read `pg_locks`, and could
    /// compute a plain hash of names that it knows or guesses. It is the oldest master key's, so that commands from before a
    /// rotation and from during it meet at one lock; only `rekey --finish` changes it.
    pub fn lock_key(&self, of: &[&str]) -> i64 {
        let keys = self.keys();
        let derived = keys[keys.len() - 1].derive(&[&["lock"], of].concat());
        let mut key = [0; 8];
        key.copy_from_slice(&derived[..8]);
        i64::from_be_bytes(key)
    }

    /// The router's logins.
    pub fn router_logins(&self, catalog: &str) -> Logins {
        let keys = self.keys();
        let older = keys.iter().skip(1).map(|key| key.router_login(catalog)).collect();
        Logins { newest: keys[0].router_login(catalog), older }
    }
}

/// A login of this role with a new random password, for one use: it is kept nowhere, and derives from nothing.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn random_login(user: &str) -> Result<Login, VaultError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|e| VaultError::new(format!("no random bytes from the operating system: {e}")))?;
    let password = Secret::new(URL_SAFE_NO_PAD.encode(bytes));
    Ok(Login { user: user.to_owned(), password: Some(password) })
}

impl Login {
    /// The [`scram_verifier`] of its password.
    ///
    /// # Errors
    /// When it has none, or the operating system gives no random bytes.
    pub fn verifier(&self) -> Result<String, VaultError> {
        let none = || VaultError::new(format!("role `{}` has no password to make a verifier of", self.user));
        scram_verifier(self.password.as_ref().ok_or_else(none)?)
    }
}

/// The SCRAM-SHA-256 verifier of a password (RFC 5803, as `pg_authid.rolpassword` holds it), so that the password
/// itself is never sent in a statement that a server may log.
///
/// # Errors
/// When the operating system gives no random bytes for the salt.
pub fn scram_verifier(password: &Secret) -> Result<String, VaultError> {
    let mut salt = [0_u8; 16];
    getrandom::fill(&mut salt)
        .map_err(|e| VaultError::new(format!("no random bytes from the operating system: {e}")))?;
    Ok(salted_verifier(password, salt))
}

fn salted_verifier(password: &Secret, salt: [u8; 16]) -> String {
    let mut salted = [0_u8; 32];
    let password = password.expose().as_bytes();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, SCRAM_ITERATIONS, &salt, password, &mut salted);
    let key = hmac::Key::new(HMAC_SHA256, &salted);
    let stored_key = STANDARD.encode(digest(&SHA256, hmac::sign(&key, b"Client Key").as_ref()));
    let server_key = STANDARD.encode(hmac::sign(&key, b"Server Key"));
    format!("SCRAM-SHA-256${SCRAM_ITERATIONS}:{}${stored_key}:{server_key}", STANDARD.encode(salt))
}

#[cfg(test)]
mod tests {
    use super::super::keyring::tests::{record, written_before};
    use super::*;
    use crate::tenant::Origin;

    #[test]
    fn what_derives_from_a_key_stays_the_same_in_every_version() {
        let (ring, tenant) = written_before();
        let login = &ring.tenant_logins(&tenant)[0];
        assert_eq!(login.user, "mb_0123456789abcdef");
        assert_eq!(login.password, Some(Secret::new("CZ44uG4l1elAzrTdNlWMK1-W4g19BJSEBm5--SgcjZ0")));
        assert_eq!(
            URL_SAFE_NO_PAD.encode(ring.jwt_keys(&tenant)[0]),
            "oaXujHkXYoy_680pPATcaOC51Xa_-yskn87_PvGoOFc"
        );
        assert_eq!(
            ring.router_logins("manybox").newest.password,
            Some(Secret::new("vUC9HtBm4kyWK25oULGSVQ4XxUoQqbkq8-QR0BdWSHg"))
        );
        // Of the oldest key, from the first day of a rotation to its last.
        let lock = ring.lock_key(&["tenant", tenant.id.as_str()]);
        ring.replace(ring.rotated(0).unwrap());
        assert_eq!(ring.lock_key(&["tenant", tenant.id.as_str()]), lock);
        let verifier = "SCRAM-SHA-256$1:c2l4dGVlbiBieXRlcyBpbg==$JEWWzbQFHKdPe5ua0V25Se8+DWwLC9A6AnDQ5D3a9/w=:xs9iiGxJlt/hDud1G4QUj62weovKVenssmvOyOwXZUc=";
        assert_eq!(salted_verifier(&Secret::new("pencil"), *b"sixteen bytes in"), verifier);
    }

    #[test]
    fn an_adopted_tenant_has_the_login_it_was_given() {
        let ring = KeyRing::generate().unwrap();
        let mut tenant = record("acme");
        assert_eq!(tenant.database(), tenant.id.database());
        let adopted = crate::tenant::Adopted { database: "app".into(), login_role: "authenticator".into() };
        tenant.origin = Origin::Adopted(adopted);
        assert_eq!((tenant.database().as_str(), tenant.login_role().as_str()), ("app", "authenticator"));
        let trusted = Login { user: "authenticator".into(), password: None };
        assert_eq!(ring.tenant_logins(&tenant), std::slice::from_ref(&trusted));
        assert!(trusted.verifier().is_err());
        let sealed = ring.newest().seal(&tenant.id, PASSWORD, &Secret::new("hunter2")).unwrap();
        tenant.sealed.insert(PASSWORD.into(), sealed);
        assert_eq!(ring.tenant_logins(&tenant)[0].password, Some(Secret::new("hunter2")));
    }
}
