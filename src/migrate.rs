//! Migrations of one database: reading an edition's files, checking them, and applying them.
//!
//! [`Edition`] reads and checks the files, [`migrate`] applies them to one database and says how far it came,
//! [`standing`] compares a database's lineage with an edition without touching the database.
//! Which databases are migrated, and when, is the rollout's decision.

mod contradiction;
mod edition;
mod editions;
mod engine;
mod file;
mod fingerprint;
mod guard;
mod history;
mod inert;
mod lint;
mod outcome;
mod outside;
mod read;
mod repair;
mod resumable;
mod runner;
mod session;
mod statements;
mod status;
mod template;

pub use contradiction::{Contradiction, ContradictionKind, Member, Whose, contradiction};
pub use edition::{Edition, EditionError};
pub use editions::Editions;
pub use file::File;
pub use fingerprint::{Changed, Drift, FORM, Fact, Facts, Fingerprint, FingerprintError, facts, fingerprint};
pub use guard::strangers;
pub use history::lineage;
pub use lint::Finding;
pub use outcome::{FailureKind, MigrationFailure, MigrationOutcome};
pub use read::{History, ReadError};
pub use repair::{Repair, RepairError, Repaired, repair};
pub use runner::{Options, migrate};
pub use session::{Roles, databases_with_foreign_objects};
pub use status::{Standing, standing};
pub use template::{TakenOver, prepare_template, take_over_history};

/// Splits a text into statements and looks at them in every way in which migrations are looked at.
#[cfg(feature = "fuzzing")]
pub fn fuzz_statements(sql: &str) {
    let mut last = 0;
    for statement in statements::split(sql).iter().flat_map(|all| all.iter()) {
        assert!(statement.len() > 0 && statement.line() >= last, "statements stand behind each other");
        last = statement.line();
    }
    for transactional in [true, false] {
        lint::lint("V1__x.sql", sql, transactional);
    }
    inert::is_inert(sql);
}
