//! The master key, and the ring of those in use while one takes the place of another.

use std::fmt;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac::{self, HMAC_SHA256};

use super::known::Expected;
use crate::policy::Secret;

/// Why a key or a secret can't be used: a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VaultError(String);

impl VaultError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// One master key: a number that grows with each rotation, and 32 secret bytes.
#[derive(Clone, PartialEq, Eq, zeroize::ZeroizeOnDrop)]
pub struct MasterKey {
    #[zeroize(skip)]
    id: i32,
    bytes: [u8; 32],
    #[zeroize(skip)]
    fingerprint: String,
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
    pub fn generate(id: i32) -> Result<Self, VaultError> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes)
            .map_err(|e| VaultError::new(format!("no random bytes from the operating system: {e}")))?;
        Ok(Self::new(id, bytes))
    }

    fn new(id: i32, bytes: [u8; 32]) -> Self {
        let mut key = Self { id, bytes, fingerprint: String::new() };
        key.fingerprint = key.derive(&["fingerprint"])[..8].iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        key
    }

    /// The rotation's number.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// What tells it from any other key, and tells nothing of it: 64 bits that derive from it, in hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn parse(text: &str) -> Result<Self, VaultError> {
        let shape = || VaultError::new("a master key must be `NUMBER:BASE64` with 32 random bytes in base64");
        let (id, encoded) = text.trim().split_once(':').ok_or_else(shape)?;
        let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(shape)?;
        let bytes: [u8; 32] =
            STANDARD.decode(encoded).ok().and_then(|b| b.try_into().ok()).ok_or_else(shape)?;
        // 32 random bytes have about 30 different values; a phrase or a pattern has far fewer or only letters.
        let distinct = bytes.iter().collect::<std::collections::BTreeSet<_>>().len();
        if distinct < 16 || bytes.iter().all(|b| b.is_ascii_graphic() || *b == b' ') {
            return Err(VaultError::new(format!(
                "master key {id} is weak: it is a text or a pattern, not 32 random bytes; make one with `manybox init`"
            )));
        }
        Ok(Self::new(id, bytes))
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
}

/// The master keys in use, newest first: one, or two while a rotation is under way.
///
/// Shared behind an `Arc`; [`KeyRing::replace`] lets a running router take up a rotation without a restart.
pub struct KeyRing {
    keys: RwLock<Vec<MasterKey>>,
    /// Where they come from, in words for an operator.
    place: String,
    /// What the catalog said last of the fleet's keys.
    expected: RwLock<Expected>,
    /// How often the keys were replaced.
    version: AtomicU64,
    /// What is amiss with the place that they come from.
    warning: RwLock<Option<String>>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({:?})", *self.keys())
    }
}

impl From<Vec<MasterKey>> for KeyRing {
    fn from(mut keys: Vec<MasterKey>) -> Self {
        keys.sort_by_key(|key| std::cmp::Reverse(key.id));
        Self {
            keys: RwLock::new(keys),
            place: "the key ring".into(),
            expected: RwLock::default(),
            version: AtomicU64::default(),
            warning: RwLock::default(),
        }
    }
}

impl KeyRing {
    /// A ring of one new key.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, VaultError> {
        Self::numbered(1)
    }

    /// A ring of one new key of this number.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn numbered(number: i32) -> Result<Self, VaultError> {
        Ok(vec![MasterKey::generate(number)?].into())
    }

    /// Reads keys separated by commas or line ends; lines that start with `#` are comments.
    ///
    /// # Errors
    /// When there is no key, one is malformed or weak, or two have the same number.
    pub fn parse(text: &str) -> Result<Self, VaultError> {
        let keys = text
            .split(['\n', ','])
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(MasterKey::parse)
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(VaultError::new("there is no master key in it"));
        }
        let ring = Self::from(keys);
        if ring.keys().windows(2).any(|pair| pair[0].id == pair[1].id) {
            return Err(VaultError::new("two master keys have the same number"));
        }
        Ok(ring)
    }

    /// The same ring, which says that its keys come from there.
    #[must_use]
    pub(super) fn at_place(self, place: String) -> Self {
        Self { place, ..self }
    }

    /// Where the keys come from, in words for an operator.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// A reader that panicked left the keys whole: they are only ever replaced in one assignment.
    pub(super) fn keys(&self) -> RwLockReadGuard<'_, Vec<MasterKey>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the catalog said last.
    pub(super) fn expected(&self) -> RwLockReadGuard<'_, Expected> {
        self.expected.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn expect(&self, expected: Expected) {
        *self.expected.write().unwrap_or_else(PoisonError::into_inner) = expected;
    }

    /// Takes over the keys of another ring.
    pub fn replace(&self, other: Self) {
        self.set(other.keys.into_inner().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn set(&self, keys: Vec<MasterKey>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Another number whenever the keys were replaced.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Says what is amiss with the place that the keys come from: they would not be there after a restart.
    pub fn warn(&self, warning: Option<String>) {
        *self.warning.write().unwrap_or_else(PoisonError::into_inner) = warning;
    }

    /// What is amiss with the place that the keys come from.
    pub fn warning(&self) -> Option<String> {
        self.warning.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The text that [`KeyRing::parse`] reads: what goes into the key file.
    pub fn to_text(&self) -> Secret {
        let mut text = String::new();
        for key in self.keys().iter() {
            let _ = writeln!(text, "{}:{}", key.id, STANDARD.encode(key.bytes));
        }
        Secret::new(text)
    }

    /// The ring with one more key, of this number or the next free one, which becomes the newest.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn rotated(&self, at_least: i32) -> Result<Self, VaultError> {
        let number = self.keys().first().map_or(1, |key| key.id + 1).max(at_least);
        let mut keys = vec![MasterKey::generate(number)?];
        keys.extend(self.keys().iter().cloned());
        Ok(Self::from(keys).at_place(self.place.clone()))
    }

    /// The ring without all but the newest key.
    pub fn finished(&self) -> Self {
        Self::from(vec![self.newest()]).at_place(self.place.clone())
    }

    /// The key that new credentials are derived from.
    pub fn newest(&self) -> MasterKey {
        self.keys()[0].clone()
    }

    /// The keys' numbers, newest first.
    pub fn ids(&self) -> Vec<i32> {
        self.keys().iter().map(|key| key.id).collect()
    }

    /// The keys' fingerprints, newest first.
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys().iter().map(|key| key.fingerprint.clone()).collect()
    }

    /// Whether a rotation is under way.
    pub fn is_rotating(&self) -> bool {
        self.keys().len() > 1
    }

    /// The key of this number.
    pub(super) fn key(&self, id: i32) -> Option<MasterKey> {
        self.keys().iter().find(|key| key.id == id).cloned()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::policy::Overrides;
    use crate::tenant::{Lineage, Origin, Record, Sealed, State, TenantId};

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

    /// Servers and catalogs hold what was derived and sealed under this key by earlier versions.
    pub(in crate::vault) fn written_before() -> (KeyRing, Record) {
        let ring = KeyRing::parse("7:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let mut tenant = record("acme");
        (tenant.id, tenant.generation, tenant.key) = ("0123456789abcdef".parse().unwrap(), 3, 7);
        (ring, tenant)
    }

    #[test]
    fn a_ring_survives_its_text() {
        let ring = KeyRing::generate().unwrap().rotated(0).unwrap();
        assert_eq!(*KeyRing::parse(ring.to_text().expose()).unwrap().keys(), *ring.keys());
        assert_eq!(ring.newest().id(), 2);
        assert!(!ring.finished().is_rotating());
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
    fn a_fingerprint_is_of_the_bytes_alone_and_stays_the_same_in_every_version() {
        let (ring, _) = written_before();
        assert_eq!(ring.newest().fingerprint(), "e4928179ceba4bb1");
        let text = ring.to_text().expose().replace("7:", "8:");
        assert_eq!(KeyRing::parse(&text).unwrap().fingerprints(), ring.fingerprints());
        assert_ne!(KeyRing::generate().unwrap().fingerprints(), ring.fingerprints());
    }

    #[test]
    fn no_secret_in_debug() {
        let ring = KeyRing::generate().unwrap();
        assert_eq!(format!("{ring:?}"), "KeyRing([MasterKey(1:***)])");
    }
}
