//! Migrations of one database: reading an edition's files, checking them, and applying them.
//!
//! [`Edition`] reads and checks the files, [`migrate`] applies them to one database and says how far it came,
//! [`standing`] compares a database's lineage with an edition without touching the database.
//! Which databases are migrated, and when, is the rollout's decision.

mod activity;
mod baseline;
mod check;
mod contradiction;
mod edition;
mod editions;
mod engine;
mod file;
mod file_name;
mod fingerprint;
mod frozen_rows;
mod guard;
mod history;
mod leftover;
mod lint;
mod outcome;
mod outside;
mod parts;
mod place;
mod read;
mod repair;
mod reply;
mod resumable;
mod runner;
mod script;
mod session;
mod squash;
mod squashed;
mod statements;
mod status;
mod stop;
mod template;

pub use activity::Activity;
pub use baseline::{Baseline, BaselineError, Baselined, baseline};
pub use contradiction::{Contradiction, ContradictionKind, Member, Whose, contradiction};
pub use edition::{Edition, EditionError};
pub use editions::Editions;
pub use file::{File, FileStatement};
pub use fingerprint::{
    Changed, Drift, Fact, Facts, Fingerprint, FingerprintError, facts, fingerprint, fingerprint_basis,
};
pub use guard::strangers;
pub use history::lineage;
pub use lint::{Code, Finding, Limits, Weight, codes};
pub use outcome::{FailureKind, MigrationFailure, MigrationOutcome};
pub use parts::{PartFailure, begin_trial, run_per_tenant, try_file};
pub use place::Place;
pub use read::{History, ReadError};
pub use repair::{Repair, RepairError, Repaired, repair};
pub use reply::{Notice, ServerError};
pub use runner::{Options, migrate};
pub use session::Roles;
pub use squash::{SquashError, SquashText};
pub use status::{Standing, standing};
pub use template::{TakenOver, prepare_template, take_over_history};

/// How many statements a text has.
///
/// # Errors
/// The line and the reason, when a string, a quoted name or a comment is not closed.
pub fn count_statements(sql: &str) -> Result<usize, (u64, String)> {
    Ok(statements::split(sql)?.iter().count())
}

/// Splits a text into statements and looks at them in every way in which migrations are looked at.
#[cfg(feature = "fuzzing")]
pub fn fuzz_statements(sql: &str) {
    let mut last = 0;
    for statement in statements::split(sql).iter().flat_map(|all| all.iter()) {
        assert!(statement.len() > 0 && statement.line() >= last, "statements stand behind each other");
        assert!(
            sql.get(statement.range()).is_some_and(|text| !text.is_empty()),
            "a statement is a part of the text"
        );
        last = statement.line();
    }
    for mark in ["", "-- manybox: no-transaction\n", "-- manybox: per-tenant\n"] {
        lint::Linter::new(Limits::default(), lint::Scope::Above(0)).lint(
            "V1__x.sql",
            1,
            &format!("{mark}{sql}"),
        );
    }
}
