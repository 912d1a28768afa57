//! The vault: the master key, the credentials that derive from it, and the secrets that are sealed with it.

mod credentials;
mod fit;
mod key_file;
mod keyring;
mod known;
mod seal;
mod signature;

pub use credentials::{random_login, scram_verifier};
pub use fit::KeyMisfit;
pub use keyring::{KeyRing, MasterKey, VaultError};
pub use known::{KeyState, KnownKey};
pub use seal::PASSWORD;
