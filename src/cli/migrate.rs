//! `manybox migrate`: rollouts, from the plan to the report.

mod control;
mod lint;
mod plan;
mod rehearse;
mod repair;
mod run;
mod screen;
mod squash;
mod status;
mod stop;
mod which;

use std::collections::BTreeMap;

use super::{Context, Done, Output};
use crate::fleet::Fleet;
use crate::settings::Settings;
use plan::Ask;
use stop::Stop;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct MigrateCommand {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    ask: Ask,
    /// Databases brought up at the same time, in place of what the policy says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

#[derive(clap::Subcommand)]
enum Sub {
    /// Say what the linter finds in the files, without server or catalog
    Lint(lint::Lint),
    /// Show and store what would be done, in which waves; `migrate run` does it
    Plan(Ask),
    /// Carry out a stored plan, or help whoever does
    Run(run::Run),
    /// Apply pending files to copies of real tenants, and say what they lock, rewrite and leave; the copies are dropped
    Rehearse(rehearse::Rehearse),
    /// Change what histories say was applied, where they are not as the files are; no file is run
    Repair(repair::RepairCommand),
    /// Write one file in place of all up to a version, for templates that are made from nothing
    Squash(squash::Squash),
    /// Show every tenant's version, from the catalog: no tenant's database is connected to
    Status(status::Status),
    /// Follow a rollout, from any machine
    Watch(which::Which),
    /// List rollouts, newest first
    List(control::List),
    /// Begin no further tenant; those that are being worked on are finished
    Pause(control::Pause),
    /// Go on with a rollout that was paused, or whose process was killed
    Resume(control::Resume),
    /// Give a rollout up; what was done stays
    Abort(control::Pause),
    /// Try what failed again, and go on
    Retry(control::Retry),
    /// Leave tenants out of a rollout
    Skip(control::Skip),
    /// Show what became of every tenant
    Report(control::ReportCommand),
}

impl MigrateCommand {
    /// Runs what needs neither catalog nor server; `None` for everything else.
    pub(super) fn offline(&self, settings: &Settings, output: Output) -> Option<Done> {
        match &self.command {
            Some(Sub::Lint(lint)) if lint.is_offline() => Some(lint.run(settings, BTreeMap::new(), output)),
            _ => None,
        }
    }

    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let fleet = context.fleet().await?;
        let stop = Stop::default();
        // Ctrl-C has a use of its own here: what runs in tenants' databases is cancelled and waited for.
        tokio::select! {
            done = self.dispatch(&fleet, &stop, output) => done,
            left = stop.on_signals(output) => Err(left),
        }
    }

    async fn dispatch(self, fleet: &Fleet, stop: &Stop, output: Output) -> Done {
        match self.command {
            Some(Sub::Lint(lint)) => lint.run_with_builds(fleet, stop, output).await,
            Some(Sub::Rehearse(rehearse)) => rehearse.run(fleet, stop, output).await,
            Some(Sub::Repair(repair)) => repair.run(fleet, output).await,
            Some(Sub::Squash(squash)) => squash.run(fleet, stop, output).await,
            None => run::migrate(fleet, &self.ask, self.jobs, stop, output).await,
            Some(Sub::Plan(ask)) => plan::command(fleet, &ask, stop, output).await,
            Some(Sub::Run(run)) => run.run(fleet, stop, output).await,
            Some(Sub::Status(status)) => status.run(fleet, output).await,
            Some(Sub::Watch(which)) => control::watch(fleet, &which, output).await,
            Some(Sub::List(list)) => list.run(fleet, output).await,
            Some(Sub::Pause(pause)) => pause.pause(fleet, output).await,
            Some(Sub::Resume(resume)) => resume.run(fleet, stop, output).await,
            Some(Sub::Abort(abort)) => abort.abort(fleet, output).await,
            Some(Sub::Retry(retry)) => retry.run(fleet, stop, output).await,
            Some(Sub::Skip(skip)) => skip.run(fleet, output).await,
            Some(Sub::Report(report)) => report.run(fleet, output).await,
        }
    }
}
