//! Fit: whether the master keys that a process has are those of the fleet, which the catalog knows by their fingerprints.

use super::keyring::{KeyRing, MasterKey};
use super::known::{Expected, KeyState, KnownKey};

/// Why the keys that a process has can't be used with this fleet. Says which are expected, which are there and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyMisfit {
    /// A key that the fleet's passwords derive from is not among them.
    #[error(
        "wrong master key: the catalog expects {expected}, but {place} has {found}; put the right key there, from a machine of \
         this fleet or from its backup, or run `manybox rekey --lost` if it is lost for good"
    )]
    Wrong {
        /// Those that are missing.
        expected: String,
        /// Those that are there instead.
        found: String,
        /// Where they come from.
        place: String,
    },
    /// The newest is one that the catalog has not heard of: a rotation was begun.
    #[error(
        "{place} has a new {key}, which routers may not have yet: run `manybox rekey` to move the fleet to it"
    )]
    Begun {
        /// The key.
        key: String,
        /// Where it comes from.
        place: String,
    },
    /// The catalog's server refuses the router's login under each of them.
    #[error(
        "wrong master key: the catalog refuses the router's login, whose password derives from it; {place} has {found}; \
         `manybox keys` says which the catalog expects. Put the right key there, from a machine of this fleet or from its \
         backup, or run `manybox rekey --lost` if it is lost for good. If the key is right, look whether catalog.database is"
    )]
    Refused {
        /// Those that are there.
        found: String,
        /// Where they come from.
        place: String,
    },
}

impl KeyRing {
    /// Compares the keys with those that the catalog knows. A catalog that knows none yet takes any.
    ///
    /// # Errors
    /// See [`KeyMisfit`].
    pub fn fit(&self, known: &[KnownKey]) -> Result<(), KeyMisfit> {
        let keys = self.keys();
        let missing: Vec<_> = known
            .iter()
            .filter(|known| known.state.is_needed() && !keys.iter().any(|key| is(known, key)))
            .map(ToString::to_string)
            .collect();
        let place = self.place().to_owned();
        if !missing.is_empty() {
            return Err(KeyMisfit::Wrong { expected: missing.join(" and "), found: told(&keys), place });
        }
        match keys.first() {
            Some(newest) if !known.is_empty() && !known.iter().any(|known| is(known, newest)) => {
                Err(KeyMisfit::Begun { key: told(std::slice::from_ref(newest)), place })
            }
            _ => Ok(()),
        }
    }

    /// Leaves out what derives nothing in this fleet: keys that have ended, and those whose number is another key's.
    pub fn retain(&self, known: &[KnownKey]) {
        let newest = known.iter().map(|known| known.number).max().unwrap_or_default();
        let keys = self.keys().clone();
        let of_fleet = |key: &MasterKey| {
            key.id() > newest || known.iter().any(|known| is(known, key) && known.state != KeyState::Ended)
        };
        let kept: Vec<_> = keys.iter().filter(|key| of_fleet(key)).cloned().collect();
        if !kept.is_empty() && kept.len() < keys.len() {
            self.set(kept);
        }
    }

    /// Takes over the keys of another ring, and keeps those from which something is still made: a file that has lost one
    /// takes nothing from a router that has it.
    pub fn take_up(&self, other: &Self) {
        let known = self.expected().known.clone();
        let mut keys = other.keys().clone();
        let live = |key: &&MasterKey| {
            let state = known.iter().find(|known| is(known, key)).map(|known| known.state);
            state.is_some_and(|state| state != KeyState::Ended)
        };
        let kept: Vec<_> = self.keys().iter().filter(live).cloned().collect();
        for key in kept {
            // Its number is this key's: another one of that number is not the fleet's.
            keys.retain(|other| other.id() != key.id());
            keys.push(key);
        }
        keys.sort_by_key(|key| std::cmp::Reverse(key.id()));
        if *self.keys() != keys {
            self.set(keys);
            self.expect(Expected { known, is_refused: false });
        }
    }

    /// What the catalog knows now.
    pub fn hear(&self, known: Vec<KnownKey>) {
        self.retain(&known);
        self.expect(Expected { known, is_refused: false });
    }

    /// The catalog's server refuses the router's login under every key.
    pub fn hear_refusal(&self) {
        let known = self.expected().known.clone();
        self.expect(Expected { known, is_refused: true });
    }

    /// Why the fleet can't be served with these keys, by what was last heard of it.
    pub fn misfit(&self) -> Option<KeyMisfit> {
        let expected = self.expected().clone();
        match self.fit(&expected.known) {
            Err(KeyMisfit::Begun { .. }) | Ok(()) if expected.is_refused => Some(self.refused()),
            // A rotation that was begun keeps no router from serving.
            Err(KeyMisfit::Begun { .. }) | Ok(()) => None,
            Err(misfit) => Some(misfit),
        }
    }

    /// Why the fleet could not be served with the keys of another ring, by what was last heard of it.
    pub fn misfit_of(&self, other: &Self) -> Option<KeyMisfit> {
        let misfit = other.fit(&self.expected().known).err();
        misfit.filter(|misfit| !matches!(misfit, KeyMisfit::Begun { .. }))
    }

    /// That the catalog refuses the router's login under each of the keys.
    pub fn refused(&self) -> KeyMisfit {
        KeyMisfit::Refused { found: told(&self.keys()), place: self.place().to_owned() }
    }

    /// The keys as a catalog that knows none yet is to know them: the newest current, those before it former.
    pub fn as_known(&self) -> Vec<KnownKey> {
        let state = |nth| if nth == 0 { KeyState::Current } else { KeyState::Former };
        let known = |(nth, key): (usize, &MasterKey)| KnownKey {
            number: key.id(),
            fingerprint: key.fingerprint().to_owned(),
            state: state(nth),
        };
        self.keys().iter().enumerate().map(known).collect()
    }

    /// Whether the key of this number is here, and no other than the catalog knows by it.
    pub fn has(&self, number: i32) -> bool {
        let Some(key) = self.key(number) else { return false };
        let expected = self.expected();
        !expected.is_refused && !expected.known.iter().any(|known| known.number == number && !is(known, &key))
    }
}

fn is(known: &KnownKey, key: &MasterKey) -> bool {
    known.number == key.id() && known.fingerprint == key.fingerprint()
}

fn told(keys: &[MasterKey]) -> String {
    let each = keys.iter().map(|key| format!("master key {} (fingerprint {})", key.id(), key.fingerprint()));
    let all: Vec<_> = each.collect();
    if all.is_empty() { "none".into() } else { all.join(" and ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(ring: &KeyRing, states: &[KeyState]) -> Vec<KnownKey> {
        let keys = ring.keys();
        let known = |(key, state): (&MasterKey, &KeyState)| KnownKey {
            number: key.id(),
            fingerprint: key.fingerprint().to_owned(),
            state: *state,
        };
        keys.iter().zip(states).map(known).collect()
    }

    #[test]
    fn keys_are_told_by_their_fingerprints_not_by_their_numbers() {
        use KeyState::{Current, Ended, Former, Introduced, Lost};
        let old = KeyRing::generate().unwrap();
        let both = old.rotated(0).unwrap();
        let (other, newest) = (KeyRing::generate().unwrap(), both.finished());
        for (ring, states, expected) in [
            (&both, [Current, Former], None),
            (&both, [Introduced, Current], None),
            (&old, [Introduced, Current], None),
            (&old, [Current, Former], Some("2")),
            (&newest, [Current, Former], Some("1")),
            (&newest, [Current, Lost], None),
            (&newest, [Current, Ended], None),
            (&other, [Introduced, Current], Some("1")),
            (&other, [Current, Ended], Some("2")),
        ] {
            let known = known(&both, &states);
            let told = ring.fit(&known).err().map(|misfit| misfit.to_string());
            assert_eq!(told.is_some(), expected.is_some(), "{states:?} {told:?}");
            if let (Some(told), Some(number)) = (told, expected) {
                let key = known.iter().find(|key| key.number.to_string() == number).unwrap();
                assert!(told.contains(&key.to_string()), "{told}");
                assert!(told.contains(&ring.newest().fingerprint().to_owned()), "{told}");
            }
        }
        // A key that nobody has told the catalog of.
        let begun = both.fit(&known(&old, &[Current]));
        assert!(matches!(begun, Err(KeyMisfit::Begun { .. })), "{begun:?}");
        assert_eq!(old.fit(&[]), Ok(()));
    }

    #[test]
    fn a_router_keeps_what_is_still_in_use_and_drops_what_is_not() {
        use KeyState::{Current, Ended, Introduced, Lost};
        let old = KeyRing::generate().unwrap();
        let both = old.rotated(0).unwrap();
        let router = KeyRing::parse(old.to_text().expose()).unwrap();
        // The file is lost, and another takes its place, of the next number.
        router.hear(known(&both, &[Introduced, Current]));
        router.take_up(&both.finished());
        assert_eq!(router.ids(), [2, 1]);
        assert_eq!(router.misfit(), None);
        router.hear(known(&both, &[Current, Lost]));
        assert_eq!(router.ids(), [2, 1], "tenants that have not moved are served");
        router.hear(known(&both, &[Current, Ended]));
        assert_eq!(router.ids(), [2]);
        // Another key of a number that is in use is not the fleet's.
        router.take_up(&KeyRing::generate().unwrap().rotated(0).unwrap());
        assert_eq!(router.fingerprints()[0], both.fingerprints()[0]);
        assert_eq!(router.misfit(), None);
    }

    #[test]
    fn a_refusal_is_a_misfit_until_another_key_is_there() {
        let router = KeyRing::generate().unwrap();
        assert_eq!(router.misfit(), None);
        router.hear_refusal();
        let told = router.misfit().unwrap().to_string();
        assert!(told.contains(router.newest().fingerprint()) && !router.has(1), "{told}");
        router.take_up(&KeyRing::generate().unwrap());
        assert_eq!(router.misfit(), None);
    }
}
