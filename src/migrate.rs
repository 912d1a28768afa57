//! Migrations of one database: what an edition holds, what may stand in its files, and how a database is brought along.
//!
//! [`Edition`] reads and checks the files, [`bring`] applies them to one database and says how far it came,
//! [`standing`] compares a database's lineage with an edition without touching the database.
//! Which databases are brought along, and when, is decided by the rollout.

mod edition;
mod engine;
mod history;
mod inert;
mod lint;
mod outside;
mod runner;
mod session;
mod statements;
mod status;
mod template;

pub use edition::{Edition, Error, File};
pub use history::lineage;
pub use lint::Finding;
pub use runner::{Failure, Kind, Options, Outcome, bring};
pub use session::strangers;
pub use status::{Standing, standing};
pub use template::prepare_template;
