//! `manybox apply`: declared tenants into being.

use futures_util::stream::{self, StreamExt as _};

use super::{Context, Done, Failure, Output};
use crate::fleet::{Change, Fleet};

#[derive(clap::Args)]
pub(super) struct Apply {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Tenants worked on at the same time; four databases at most are copied at a time
    #[arg(long, default_value_t = 8, value_name = "N")]
    jobs: usize,
}

impl Apply {
    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let fleet = if self.dry_run { context.fleet().await? } else { context.init(output).await? };
        let plan = fleet.plan().await?;
        if !self.dry_run {
            execute(&fleet, &plan.changes, self.jobs, output).await?;
        }
        let done = if self.dry_run { "would " } else { "" };
        output.list(
            &plan.changes,
            &["TENANT", "CHANGE"],
            |change| vec![change.slug().to_owned(), format!("{done}{}", change.words())],
            "nothing to do: the fleet is as declared",
        )
    }
}

/// Carries out a plan. One tenant that fails does not stop the others; all failures are told at the end.
pub(super) async fn execute(fleet: &Fleet, changes: &[Change], jobs: usize, output: Output) -> Done {
    let bar = output.bar(changes.len(), "applying");
    let failures: Vec<String> = stream::iter(changes)
        .map(|change| {
            let bar = &bar;
            async move {
                let outcome = fleet.apply(change).await;
                bar.inc(1);
                outcome.err().map(|error| format!("{}: {error}", change.slug()))
            }
        })
        .buffer_unordered(jobs.max(1))
        .filter_map(std::future::ready)
        .collect()
        .await;
    bar.finish_and_clear();
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failure(format!("{} of {} failed:\n  {}", failures.len(), changes.len(), failures.join("\n  "))))
}
