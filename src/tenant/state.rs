//! `State`: where a tenant stands in its life, and the one table of legal steps between states.

use std::fmt;
use std::str::FromStr;

use crate::policy::Invalid;

/// Where a tenant stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Intended and perhaps half made: finished or undone by the next `create` or `apply`. Unknown to clients.
    Creating,
    /// Served.
    Active,
    /// Refuses requests with 403; data untouched.
    Suspended,
    /// Out of service (404), the database kept until it is purged.
    Retired,
    /// Being dropped: only forward from here.
    Purging,
    /// Gone. The row stays so that the id is never used again; the slug is free.
    Purged,
}

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Refuse requests.
    Suspend,
    /// Serve again after `Suspend`.
    Resume,
    /// Take out of service, keep the database.
    Retire,
    /// Back into service after `Retire`.
    Restore,
    /// Drop a retired tenant's database, or what there is of one whose creation failed.
    Purge,
}

impl Verb {
    /// The states from which the verb may start. The target itself is among them: every verb is idempotent,
    /// so that a killed command can be run again.
    pub fn from(self) -> &'static [State] {
        match self {
            Self::Suspend => &[State::Active, State::Suspended],
            Self::Resume => &[State::Suspended, State::Active],
            Self::Retire => &[State::Active, State::Suspended, State::Retired],
            Self::Restore => &[State::Retired, State::Active],
            Self::Purge => &[State::Retired, State::Purging, State::Creating],
        }
    }

    /// The state that the verb leads to.
    pub fn to(self) -> State {
        match self {
            Self::Suspend => State::Suspended,
            Self::Resume | Self::Restore => State::Active,
            Self::Retire => State::Retired,
            Self::Purge => State::Purging,
        }
    }

    /// What to do first when the tenant is in `state`, from which the verb may not start.
    pub fn hint(self, state: State) -> &'static str {
        match (self, state) {
            (Self::Purge, State::Active | State::Suspended) => "retire the tenant first",
            (Self::Resume, State::Retired) => "restore the tenant instead",
            (Self::Restore, State::Suspended) => "resume the tenant instead",
            (_, State::Creating) => "finish its creation first: run `manybox tenant create` again",
            (_, State::Purging) => "its purge has begun: run `manybox tenant purge` again to finish it",
            _ => "see `manybox tenant show`",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Retire => "retire",
            Self::Restore => "restore",
            Self::Purge => "purge",
        })
    }
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Creating, Self::Active, Self::Suspended, Self::Retired, Self::Purging, Self::Purged];

    /// The word used in the catalog and by the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Retired => "retired",
            Self::Purging => "purging",
            Self::Purged => "purged",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|s| s.as_str()).collect();
            Invalid(format!("`{text}` is not a state: expected one of {}", all.join(", ")))
        })
    }
}
