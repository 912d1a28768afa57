//! `manybox tenant change-edition`: a tenant goes on by another edition's files.

use super::super::{Done, Output};
use super::adopt::words;
use crate::fleet::{Fleet, IntoEdition};

#[derive(clap::Args)]
pub(in crate::cli) struct ChangeEdition {
    /// The tenant
    slug: String,
    /// The edition that it shall be of
    #[arg(long = "to", value_name = "EDITION")]
    edition: String,
    /// The version of that edition that its database has: the files up to this one are recorded as applied, in place of its
    /// history
    #[arg(long, value_name = "VERSION")]
    baseline: i64,
    /// Show what would be done and how its schema differs, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do it although its schema differs from what the files make, and accept that
    #[arg(long, requires = "reason", conflicts_with = "dry_run")]
    accept: bool,
    /// Why it is accepted, for the journal
    #[arg(long, value_name = "TEXT", requires = "accept")]
    reason: Option<String>,
}

impl ChangeEdition {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        let edition = fleet.edition(&self.edition)?;
        let into = IntoEdition { edition: &edition, version: self.baseline, dry_run: self.dry_run };
        let spinner = output.spinner(format!("comparing {} with edition {}", self.slug, self.edition));
        let changed = fleet.change_edition(&self.slug, into, self.reason.as_deref()).await;
        spinner.finish_and_clear();
        output.answer(&changed?, words)
    }
}
