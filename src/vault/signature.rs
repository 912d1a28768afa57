//! Signature: what manybox itself wrote in a place that others may have come to write to as well.

use super::keyring::{KeyRing, MasterKey};

impl MasterKey {
    /// The signature of these words: `KEY:HEX`, an HMAC under this key. The words of another use begin with another one.
    pub fn sign(&self, words: &[&str]) -> String {
        let mac = self.derive(&[&["signature"], words].concat());
        let mac: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}:{mac}", self.id())
    }
}

impl KeyRing {
    /// Whether one of the keys in use signed these words.
    pub fn is_signed(&self, words: &[&str], signature: &str) -> bool {
        // Whoever could try signatures here could write to the catalog: the time that comparing takes tells them nothing.
        self.keys().iter().any(|key| key.sign(words) == signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signed_is_told_from_what_was_not() {
        let ring = KeyRing::generate().unwrap();
        let signature = ring.newest().sign(&["mark", "mb_a", "acme"]);
        assert!(signature.starts_with("1:") && ring.is_signed(&["mark", "mb_a", "acme"], &signature));
        for words in [["mark", "mb_b", "acme"], ["mark", "mb_a", "apex"], ["mark", "mb_aa", "cme"]] {
            assert!(!ring.is_signed(&words, &signature), "{words:?}");
        }
        assert!(!KeyRing::generate().unwrap().is_signed(&["mark", "mb_a", "acme"], &signature));
        // A former key's holds until the rotation is finished.
        let rotated = ring.rotated(0).unwrap();
        assert!(rotated.is_signed(&["mark", "mb_a", "acme"], &signature));
        assert!(!rotated.finished().is_signed(&["mark", "mb_a", "acme"], &signature));
    }
}
