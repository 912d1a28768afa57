//! Derived credentials: every tenant's password and JWT key comes from a master key, none is stored.

use std::fmt;
use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::hmac::{self, HMAC_SHA256};
use ring::pbkdf2;

use super::seal::PASSWORD;
use crate::pg::Login;
use crate::policy::Secret;
use crate::tenant::Record;

/// Iterations of the SCRAM verifiers we make. Stretching protects passwords that can be guessed; ours are 256 derived
/// bits, and every iteration is paid at every connect (30 % of a cold one at PostgreSQL's default of 4,096).
const SCRAM_ITERATIONS: NonZeroU32 = NonZeroU32::MIN;

/// Why a master key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Weak(String);

impl Weak {
    pub(super) fn new(reason: String) -> Self {
        Self(reason)
    }
}

/// One master key: a number that grows with each rotation, and 32 secret bytes.
#[derive(Clone, PartialEq, Eq, zeroize::ZeroizeOnDrop)]
pub struct MasterKey {
    #[zeroize(skip)]
    id: i32,
    bytes: [u8; 32],
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({}:***)", self.id)
    }
}

impl MasterKey {
    /// A new key from the operating system's random source.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate(id: i32) -> Result<Self, Weak> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes)
            .map_err(|e| Weak(format!("no random bytes from the operating system: {e}")))?;
        Ok(Self { id, bytes })
    }

    /// The rotation's number.
    pub fn id(&self) -> i32 {
        self.id
    }

    fn parse(text: &str) -> Result<Self, Weak> {
        let shape = || {
            Weak("a master key must be `NUMBER:BASE64` with 32 random bytes in base64; make one with `manybox init`".into())
        };
        let (id, encoded) = text.trim().split_once(':').ok_or_else(shape)?;
        let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(shape)?;
        let bytes: [u8; 32] =
            STANDARD.decode(encoded).ok().and_then(|b| b.try_into().ok()).ok_or_else(shape)?;
        // 32 random bytes have about 30 different values; a phrase or a pattern has far fewer or only letters.
        let distinct = bytes.iter().collect::<std::collections::BTreeSet<_>>().len();
        if distinct < 16 || bytes.iter().all(|b| b.is_ascii_graphic() || *b == b' ') {
            return Err(Weak(format!(
                "master key {id} is weak: it is a text or a pattern, not 32 random bytes; make one with `manybox init`"
            )));
        }
        Ok(Self { id, bytes })
    }

    pub(super) fn derive(&self, parts: &[&str]) -> [u8; 32] {
        // Each part with its length in front: no two lists of parts give the same message.
        let mut mac = hmac::Context::with_key(&hmac::Key::new(HMAC_SHA256, &self.bytes));
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        let mut derived = [0_u8; 32];
        derived.copy_from_slice(mac.sign().as_ref());
        derived
    }

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

/// The master keys in use, newest first: one, or two while a rotation is under way.
///
/// Shared behind an `Arc`; [`KeyRing::replace`] lets a running router take up a rotation without a restart.
pub struct KeyRing(RwLock<Vec<MasterKey>>);

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({:?})", *self.keys())
    }
}

impl KeyRing {
    /// A ring of one new key.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, Weak> {
        Ok(Self(RwLock::new(vec![MasterKey::generate(1)?])))
    }

    /// Reads keys separated by commas or line ends; lines that start with `#` are comments.
    ///
    /// # Errors
    /// When there is no key, one is malformed or weak, or two have the same number.
    pub fn parse(text: &str) -> Result<Self, Weak> {
        let mut keys = text
            .split(['\n', ','])
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(MasterKey::parse)
            .collect::<Result<Vec<_>, _>>()?;
        keys.sort_by_key(|key| std::cmp::Reverse(key.id));
        if keys.is_empty() {
            return Err(Weak("there is no master key; make one with `manybox init`".into()));
        }
        if keys.windows(2).any(|pair| pair[0].id == pair[1].id) {
            return Err(Weak("two master keys have the same number".into()));
        }
        Ok(Self(RwLock::new(keys)))
    }

    /// A reader that panicked left the keys whole: they are only ever replaced in one assignment.
    fn keys(&self) -> RwLockReadGuard<'_, Vec<MasterKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the keys of another ring.
    pub fn replace(&self, other: Self) {
        let keys = other.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The text that [`KeyRing::parse`] reads: what goes into the key file.
    pub fn to_text(&self) -> Secret {
        let mut text = String::new();
        for key in self.keys().iter() {
            let _ = writeln!(text, "{}:{}", key.id, STANDARD.encode(key.bytes));
        }
        Secret::new(text)
    }

    /// The ring with one more key, which becomes the newest.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn rotated(&self) -> Result<Self, Weak> {
        let mut keys = vec![MasterKey::generate(self.newest().id + 1)?];
        keys.extend(self.keys().iter().cloned());
        Ok(Self(RwLock::new(keys)))
    }

    /// The ring without all but the newest key.
    pub fn finished(&self) -> Self {
        Self(RwLock::new(vec![self.newest()]))
    }

    /// The key that new credentials are derived from.
    pub fn newest(&self) -> MasterKey {
        self.keys()[0].clone()
    }

    /// The keys' numbers, newest first.
    pub fn ids(&self) -> Vec<i32> {
        self.keys().iter().map(|key| key.id).collect()
    }

    /// Whether a rotation is under way.
    pub fn is_rotating(&self) -> bool {
        self.keys().len() > 1
    }

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
        let (own, others): (Vec<_>, Vec<_>) = keys.iter().partition(|key| key.id == tenant.key);
        own.into_iter().chain(others).map(|key| key.tenant_login(tenant)).collect()
    }

    /// The key of this number.
    pub(super) fn key(&self, id: i32) -> Option<MasterKey> {
        self.keys().iter().find(|key| key.id == id).cloned()
    }

    /// The keys that the tenant's tokens may be signed with, newest first: tokens made before a rotation hold
    /// until it is finished.
    pub fn jwt_keys(&self, tenant: &Record) -> Vec<[u8; 32]> {
        self.keys().iter().map(|key| key.jwt_key(tenant)).collect()
    }

    /// The router's logins to try in turn.
    pub fn router_logins(&self, catalog: &str) -> Vec<Login> {
        self.keys().iter().map(|key| key.router_login(catalog)).collect()
    }
}

/// The migrator's login. It derives from the admin's password and not from the master key, because `serve` holds the
/// master key and must not be able to become the migrator.
pub fn migrator_login(admin: &Login, user: &str) -> Login {
    let password = admin.password.as_ref().map_or("", Secret::expose);
    let key = hmac::Key::new(HMAC_SHA256, password.as_bytes());
    let derived = hmac::sign(&key, format!("manybox migrator {user}").as_bytes());
    let password = Secret::new(URL_SAFE_NO_PAD.encode(derived));
    Login { user: user.to_owned(), password: Some(password) }
}

impl Login {
    /// The [`scram_verifier`] of its password.
    ///
    /// # Errors
    /// When it has none, or the operating system gives no random bytes.
    pub fn verifier(&self) -> Result<String, Weak> {
        let none = || Weak(format!("role `{}` has no password to make a verifier of", self.user));
        scram_verifier(self.password.as_ref().ok_or_else(none)?)
    }
}

/// The SCRAM-SHA-256 verifier of a password (RFC 5803, as `pg_authid.rolpassword` holds it), so that the password
/// itself is never sent in a statement that a server may log.
///
/// # Errors
/// When the operating system gives no random bytes for the salt.
pub fn scram_verifier(password: &Secret) -> Result<String, Weak> {
    let mut salt = [0_u8; 16];
    getrandom::fill(&mut salt)
        .map_err(|e| Weak(format!("no random bytes from the operating system: {e}")))?;
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
pub(super) mod tests {
    use super::*;
    use crate::policy::Overrides;
    use crate::tenant::{Lineage, Origin, Sealed, State, TenantId};

    pub(in crate::vault) fn record(slug: &str) -> Record {
        let lineage = Lineage { edition: "shop".into(), version: 1, history: String::new() };
        Record {
            id: TenantId::random().unwrap(),
            slug: slug.parse().unwrap(),
            state: State::Active,
            tier: "standard".into(),
            server: "main".into(),
            generation: 1,
            key: 1,
            origin: Origin::Lineage(lineage),
            base_urls: Vec::new(),
            overrides: Overrides::default(),
            sealed: Sealed::new(),
            reloads: 0,
        }
    }

    #[test]
    fn a_ring_survives_its_text() {
        let ring = KeyRing::generate().unwrap().rotated().unwrap();
        assert_eq!(*KeyRing::parse(ring.to_text().expose()).unwrap().keys(), *ring.keys());
        assert_eq!(ring.newest().id(), 2);
        assert!(!ring.finished().is_rotating());
    }

    /// Servers and catalogs hold what was derived and sealed under this key by earlier versions.
    pub(in crate::vault) fn written_before() -> (KeyRing, Record) {
        let ring = KeyRing::parse("7:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let mut tenant = record("acme");
        (tenant.id, tenant.generation, tenant.key) = ("0123456789abcdef".parse().unwrap(), 3, 7);
        (ring, tenant)
    }

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
            ring.router_logins("manybox")[0].password,
            Some(Secret::new("vUC9HtBm4kyWK25oULGSVQ4XxUoQqbkq8-QR0BdWSHg"))
        );
        let admin = Login { user: "postgres".into(), password: Some(Secret::new("hunter2")) };
        assert_eq!(
            migrator_login(&admin, "mb_migrator").password,
            Some(Secret::new("3D35wGB4TBi9EHC6AeRGFkxerEi1vYcv1lHD5ORS_Ok"))
        );
        let verifier = "SCRAM-SHA-256$1:c2l4dGVlbiBieXRlcyBpbg==$JEWWzbQFHKdPe5ua0V25Se8+DWwLC9A6AnDQ5D3a9/w=:xs9iiGxJlt/hDud1G4QUj62weovKVenssmvOyOwXZUc=";
        assert_eq!(salted_verifier(&Secret::new("pencil"), *b"sixteen bytes in"), verifier);
    }

    #[test]
    fn weak_keys_are_refused() {
        let phrase = STANDARD.encode(b"correct horse battery staple 123");
        let zeros = STANDARD.encode([0_u8; 32]);
        for bad in ["", "x", "1:", "0:AAAA", &format!("1:{phrase}"), &format!("1:{zeros}"), "1:c2hvcnQ="] {
            assert!(KeyRing::parse(bad).is_err(), "{bad}");
        }
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

    #[test]
    fn no_secret_in_debug() {
        let ring = KeyRing::generate().unwrap();
        assert_eq!(format!("{ring:?}"), "KeyRing([MasterKey(1:***)])");
    }
}
