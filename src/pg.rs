//! What we know of PostgreSQL itself: connecting, quoting, error classes, locks, credentials.

mod connect;
mod credentials;
mod ident;
mod key_file;
mod lock;
mod seal;
mod socket;
mod sqlstate;

pub use crate::tenant::Secret;
pub use connect::{Connection, Endpoint, Error, Login, connect, connect_listening};
pub use credentials::{KeyRing, MasterKey, Weak, migrator_login, scram_verifier};
pub use ident::{Ident, literal};
pub use lock::AdvisoryLock;
pub use seal::{JWT_SECRET, PASSWORD};
pub use socket::{Address, Guard};
pub use sqlstate::{is_outage, is_refused_login};
