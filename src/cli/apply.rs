//! `manybox apply`: declared tenants into being.

use std::collections::BTreeSet;
use std::process::ExitCode;

use futures_util::stream::{self, StreamExt as _};

use super::progress::Bar;
use super::{Context, Done, Failure, Output};
use crate::fleet::{Change, Fleet};

/// The exit code of a dry run that found something to do, as Terraform's detailed exit codes have it.
const CHANGES: u8 = 2;
/// Tenants of one failing template that are named; the others are counted.
const NAMED: usize = 5;

#[derive(clap::Args)]
pub(super) struct Apply {
    /// Show what would be done, and do nothing: exit code 0 for nothing to do, 2 for changes, 1 for an error
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Tenants worked on at the same time; four databases at most are copied at a time
    #[arg(long, default_value_t = 8, value_name = "N")]
    jobs: usize,
}

impl Apply {
    pub(super) async fn run(self, context: &Context, output: Output) -> Result<ExitCode, Failure> {
        let (fleet, left) = if self.dry_run {
            (context.fleet().await?, Vec::new())
        } else {
            let initialised = context.init(output).await?;
            (initialised.fleet, initialised.left)
        };
        let plan = fleet.plan().await?;
        let mut executed = Executed::default();
        if !self.dry_run {
            executed = execute(&fleet, &plan.changes, self.jobs, output).await?;
            if !left.is_empty() {
                executed.failures.push(format!("not all was prepared:\n  {}", left.join("\n  ")));
            }
        }
        let is_done = |change: &&Change| !executed.failed.contains(change.slug());
        let shown: Vec<_> = plan.changes.iter().filter(is_done).collect();
        // What was done is told beside what failed, and that nothing was to be done only where nothing failed.
        if shown.is_empty() {
            executed.whole()?;
        }
        let done = if self.dry_run { "would " } else { "" };
        output.list(
            &shown,
            &["TENANT", "CHANGE"],
            |change| vec![change.slug().to_owned(), format!("{done}{}", change.words())],
            "nothing to do: the fleet is as declared",
        )?;
        executed.whole()?;
        let conflicts = plan.changes.iter().filter(|change| change.is_conflict()).count();
        match (self.dry_run, plan.changes.len()) {
            (true, _) if conflicts > 0 => {
                Err(Failure(format!("{conflicts} tenant(s) can't be made as they are declared")))
            }
            (true, 1..) => Ok(ExitCode::from(CHANGES)),
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}

/// What came of a plan.
#[derive(Default)]
pub(super) struct Executed {
    /// The tenants that something failed of.
    failed: BTreeSet<String>,
    /// What failed, in words.
    failures: Vec<String>,
}

impl Executed {
    /// Whether all was done.
    pub(super) fn whole(&self) -> Done {
        if self.failures.is_empty() { Ok(()) } else { Err(Failure(self.failures.join("\n"))) }
    }
}

/// Carries out a plan. One tenant that fails does not stop the others; all failures are told at the end.
pub(super) async fn execute(
    fleet: &Fleet,
    changes: &[Change],
    jobs: usize,
    output: Output,
) -> Result<Executed, Failure> {
    let spinner = output.spinner("making templates");
    let without = fleet.make_templates(changes).await;
    spinner.finish_and_clear();
    let told = without.iter().map(|(why, slugs)| format!("{}: {why}", few(slugs))).collect::<Vec<_>>();
    let without: BTreeSet<_> = without.into_iter().flat_map(|(_, slugs)| slugs).collect();
    let bar = Bar::new(output, changes.len() - without.len(), "applying");
    let failures: Vec<(&str, String)> =
        stream::iter(changes.iter().filter(|change| !without.contains(change.slug())))
            .map(|change| {
                let bar = &bar;
                async move {
                    let outcome = fleet.apply(change).await;
                    bar.inc();
                    outcome.err().map(|error| (change.slug(), error.to_string()))
                }
            })
            .buffer_unordered(jobs.max(1))
            .filter_map(std::future::ready)
            .collect()
            .await;
    bar.finish();
    let mut except = without.clone();
    except.extend(failures.iter().map(|(slug, _)| (*slug).to_owned()));
    fleet.remember_declared(&except).await?;
    let failures = failures.into_iter().map(|(slug, error)| format!("{slug}: {error}"));
    let mut executed = Executed::default();
    if !except.is_empty() {
        let told = told.into_iter().chain(failures).collect::<Vec<_>>();
        let (failed, all) = (except.len(), changes.len());
        executed.failures.push(format!("{failed} of {all} failed:\n  {}", told.join("\n  ")));
    }
    executed.failed = except;
    Ok(executed)
}

/// Slugs in words, when there are many the first of them.
fn few(slugs: &[String]) -> String {
    let named = slugs.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match slugs.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
