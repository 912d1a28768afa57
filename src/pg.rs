//! What we know of PostgreSQL itself: connecting, quoting, error classes, locks.

mod connect;
mod endpoint;
mod error;
mod hosts;
mod ident;
mod lock;
mod login;
mod open;
mod sessions;
mod socket;
mod sqlstate;
pub mod wire;

pub use connect::{
    Canceller, Connection, Notice, Notices, connect, connect_any, connect_listening, connect_noticing,
    shortened,
};
pub use endpoint::Endpoint;
pub use error::Error;
pub use ident::{Ident, literal};
pub use lock::AdvisoryLock;
pub use login::{Login, Logins};
pub use sessions::{Sessions, Waits};
pub use socket::{Guard, Hold};
pub use sqlstate::{is_outage, is_refused_login};
