//! The vault: the master key, the credentials that derive from it, and the secrets that are sealed with it.

mod credentials;
mod key_file;
mod seal;

pub use credentials::{KeyRing, MasterKey, Weak, migrator_login, scram_verifier};
pub use seal::PASSWORD;
