//! Logins: who a session is opened as.

use crate::policy::Secret;

/// Who logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Its password; `None` where the server trusts the connection or its peer.
    pub password: Option<Secret>,
}

/// The logins of one role: while a master key is rotated, its password may be derived from either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logins {
    /// What is tried first.
    pub newest: Login,
    /// What is tried in turn where the server refuses the one before.
    pub older: Vec<Login>,
}

impl From<Login> for Logins {
    fn from(login: Login) -> Self {
        Self { newest: login, older: Vec::new() }
    }
}
