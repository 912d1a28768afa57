//! The vault: the master key, the credentials that derive from it, and the secrets that are sealed with it.

mod credentials;
mod key_file;
mod keyring;
mod seal;

pub use credentials::{random_login, scram_verifier};
pub use keyring::{KeyRing, MasterKey, VaultError};
pub use seal::PASSWORD;
