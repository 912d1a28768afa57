//! What we know of PostgreSQL itself: connecting, quoting, error classes, locks.

mod connect;
mod ident;
mod lock;
mod open;
mod sessions;
mod socket;
mod sqlstate;
pub mod wire;

pub use connect::{
    Connection, Endpoint, Error, Login, Logins, Notice, Notices, connect, connect_listening,
    connect_noticing, shortened,
};
pub use ident::{Ident, literal};
pub use lock::AdvisoryLock;
pub use sessions::{Sessions, Waits};
pub use socket::Guard;
pub use sqlstate::{is_outage, is_refused_login};
