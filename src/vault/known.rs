//! Known: the fleet's master keys as the catalog knows them, and what is made from each.

use std::fmt;
use std::str::FromStr;

use crate::policy::Invalid;

/// What is made from a master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Nothing yet: a rotation waits until every router has it.
    Introduced,
    /// Every new password, token key and sealed secret.
    Current,
    /// What has not moved to the current one, and tokens that were made before.
    Former,
    /// What has not moved to the current one; nobody has it any more.
    Lost,
    /// Nothing any more.
    Ended,
}

impl KeyState {
    const ALL: [Self; 5] = [Self::Introduced, Self::Current, Self::Former, Self::Lost, Self::Ended];

    /// The word in the catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Introduced => "introduced",
            Self::Current => "current",
            Self::Former => "former",
            Self::Lost => "lost",
            Self::Ended => "ended",
        }
    }

    /// Whether a process can't do without it.
    pub fn is_needed(self) -> bool {
        matches!(self, Self::Current | Self::Former)
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyState {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|state| state.as_str() == text);
        known.ok_or_else(|| Invalid(format!("`{text}` is no state of a master key")))
    }
}

/// A master key as the catalog knows it: enough to tell whether somebody has it, and nothing of the key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KnownKey {
    /// The rotation's number. None is ever given to two keys.
    pub number: i32,
    /// [`MasterKey::fingerprint`](super::MasterKey::fingerprint).
    pub fingerprint: String,
    /// What is made from it.
    pub state: KeyState,
}

impl fmt::Display for KnownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "master key {} (fingerprint {})", self.number, self.fingerprint)
    }
}

/// What was last heard of the fleet's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// Those that the catalog knew when it was read; none while it has not been.
    pub(super) known: Vec<KnownKey>,
    /// Whether the catalog has refused since what derives from the keys that are here.
    pub(super) is_refused: bool,
}
