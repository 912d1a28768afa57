//! The operator's word on a rollout: watch, list, pause, resume, abort, retry, skip, report.

use std::path::PathBuf;

use super::super::output::{line, time};
use super::super::{Done, Failure, Output};
use super::plan::Ask;
use super::run::{execute, migrate};
use super::screen::Screen;
use super::stop::Stop;
use super::which::{MOST_LISTED, OPEN, Which, newest};
use crate::catalog::{RolloutRow, RolloutState, StepRow};
use crate::fleet::Fleet;
use crate::rollout::{self, Plan, Report, failure_of, refuse_unrehearsed, some_of};
use crate::settings::DEFAULT_POLICY;

pub(super) async fn watch(fleet: &Fleet, which: &Which, output: Output) -> Done {
    let row = newest(fleet, which.rollout, &OPEN).await?;
    let row = Screen::new(output).until_over(fleet, row.id).await?;
    if matches!(row.state, RolloutState::Done | RolloutState::Paused) {
        return Ok(());
    }
    Err(Failure(format!("rollout {0} is {1}; see `manybox migrate report {0}`", row.id, row.standing())))
}

#[derive(clap::Args)]
pub(super) struct List {
    /// How many
    #[arg(long, value_name = "N", default_value_t = MOST_LISTED, value_parser = clap::value_parser!(i64).range(1..=1000))]
    last: i64,
}

impl List {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        let rows = fleet.catalog.rollouts(self.last).await?;
        output.list(
            &rows,
            &["ROLLOUT", "STATE", "POLICY", "EDITIONS", "PLANNED", "REASON"],
            |row| {
                let plan = Plan::read(row).ok();
                let editions = plan.as_ref().map(|plan| {
                    let targets = plan.targets.iter();
                    targets.map(|(name, t)| format!("{name} to {}", t.version)).collect::<Vec<_>>().join(", ")
                });
                vec![
                    row.id.to_string(),
                    row.state.as_str().to_owned(),
                    plan.map(|plan| plan.policy_name).unwrap_or_default(),
                    editions.unwrap_or_default(),
                    time(row.created_at),
                    row.reason.clone().unwrap_or_default(),
                ]
            },
            "there was no rollout yet",
        )
    }
}

#[derive(clap::Args)]
pub(super) struct Pause {
    /// The rollout; the newest that isn't over when not given
    rollout: Option<i64>,
    /// Why, for those who see it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Pause {
    pub(super) async fn pause(self, fleet: &Fleet, output: Output) -> Done {
        self.stop(fleet, &[RolloutState::Running], RolloutState::Paused, output).await
    }

    pub(super) async fn abort(self, fleet: &Fleet, output: Output) -> Done {
        self.stop(fleet, &OPEN, RolloutState::Aborted, output).await
    }

    async fn stop(self, fleet: &Fleet, from: &[RolloutState], to: RolloutState, output: Output) -> Done {
        let row = newest(fleet, self.rollout, from).await?;
        if !fleet.catalog.rollout_move(row.id, from, to, self.reason.as_deref()).await? {
            return Err(Failure(format!("rollout {} is {} already", row.id, row.state.as_str())));
        }
        let row = newest(fleet, Some(row.id), from).await?;
        output.answer(&row, |row| {
            let next = match to {
                RolloutState::Paused => format!("; `manybox migrate resume {}` goes on", row.id),
                _ => "; what was done stays".to_owned(),
            };
            format!("rollout {} is {}: no further tenant is begun{next}", row.id, row.state.as_str())
        })
    }
}

#[derive(clap::Args)]
pub(super) struct Resume {
    /// The rollout; the newest that is paused, running or halted when not given. One that was never begun is begun
    rollout: Option<i64>,
    /// Open the gate that halted it, by hand
    #[arg(long)]
    approve: bool,
    /// Databases brought up at the same time, in place of what the policy says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

impl Resume {
    pub(super) async fn run(self, fleet: &Fleet, stop: &Stop, output: Output) -> Done {
        let from = [RolloutState::Paused, RolloutState::Running, RolloutState::Halted];
        let row = match newest(fleet, self.rollout, &from).await {
            Ok(row) => row,
            Err(none) if self.rollout.is_none() => return Err(never_begun(fleet).await.unwrap_or(none)),
            Err(unknown) => return Err(unknown),
        };
        if row.state == RolloutState::Planned {
            rollout::begin(fleet, &row).await?;
            return execute(fleet, row, self.jobs, stop, output).await;
        }
        if self.approve {
            fleet.catalog.rollout_approve(row.id).await?;
        }
        go_on(fleet, row, self.jobs, stop, output).await
    }
}

/// What to say where no rollout can go on, and one was planned.
async fn never_begun(fleet: &Fleet) -> Option<Failure> {
    let row = newest(fleet, None, &[RolloutState::Planned]).await.ok()?;
    Some(Failure(format!(
        "rollout {0} was planned and never begun: `manybox migrate run {0}` begins it",
        row.id
    )))
}

/// Lets a rollout that isn't over run, and takes part in it.
async fn go_on(fleet: &Fleet, row: RolloutRow, jobs: Option<u16>, stop: &Stop, output: Output) -> Done {
    refuse_unrehearsed(fleet, &row).await?;
    let from = [RolloutState::Paused, RolloutState::Running, RolloutState::Halted];
    if !fleet.catalog.rollout_move(row.id, &from, RolloutState::Running, None).await? {
        return Err(Failure(format!(
            "rollout {} is {}: it can't go on; see `manybox migrate list`",
            row.id,
            row.state.as_str()
        )));
    }
    execute(fleet, row, jobs, stop, output).await
}

#[derive(clap::Args)]
pub(super) struct Retry {
    /// The rollout; the newest that isn't over when not given
    rollout: Option<i64>,
    /// Only these tenants; ends their quarantine, too
    #[arg(long, value_name = "SLUG")]
    tenant: Vec<String>,
    /// Databases brought up at the same time, in place of what the policy says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

impl Retry {
    /// Gives failed steps back and goes on. With other files than the rollout was planned with, it is replaced by a new
    /// plan of the same policy and scope: new files begin with the first wave, too.
    pub(super) async fn run(self, fleet: &Fleet, stop: &Stop, output: Output) -> Done {
        for slug in &self.tenant {
            fleet.catalog.tenant_quarantine(&fleet.tenant(slug).await?.record.id, false).await?;
        }
        let open = [RolloutState::Running, RolloutState::Paused, RolloutState::Halted];
        let row = match newest(fleet, self.rollout, &open).await {
            Ok(row) => row,
            // Out of any rollout: each by itself.
            Err(_) if self.rollout.is_none() && !self.tenant.is_empty() => {
                for slug in self.tenant {
                    let ask = Ask {
                        edition: None,
                        tenant: Some(slug),
                        target: None,
                        policy: DEFAULT_POLICY.into(),
                        allow_out_of_order: false,
                        verify: false,
                    };
                    migrate(fleet, &ask, self.jobs, stop, output).await?;
                }
                return Ok(());
            }
            Err(none) => return Err(none),
        };
        let plan = Plan::read(&row)?;
        if plan.has_other_files(&fleet.editions().sound) {
            let reason = "other files are here now: it is planned anew";
            fleet.catalog.rollout_move(row.id, &open, RolloutState::Aborted, Some(reason)).await?;
            output.note(&format!("rollout {}: {reason}", row.id));
            let scope = plan.scope;
            let ask = Ask {
                edition: scope.edition,
                tenant: scope.tenant,
                target: scope.target,
                policy: plan.policy_name,
                allow_out_of_order: plan.policy.allow_out_of_order,
                verify: false,
            };
            return migrate(fleet, &ask, self.jobs, stop, output).await;
        }
        fleet.catalog.steps_retry(row.id, &self.tenant).await?;
        fleet.catalog.wave_reopened(row.id).await?;
        go_on(fleet, row, self.jobs, stop, output).await
    }
}

#[derive(clap::Args)]
pub(super) struct Skip {
    /// The rollout; the newest that isn't over when not given
    rollout: Option<i64>,
    /// The tenants
    #[arg(long, value_name = "SLUG", required = true)]
    tenant: Vec<String>,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Skip {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        let row = newest(fleet, self.rollout, &OPEN).await?;
        let skipped = fleet.catalog.steps_skip(row.id, &self.tenant, self.reason.as_deref()).await?;
        let not: Vec<_> =
            self.tenant.iter().filter(|slug| !skipped.contains(slug)).map(String::as_str).collect();
        let answer = serde_json::json!({ "rollout": row.id, "skipped": skipped });
        output.answer(&answer, |_| {
            let slugs: Vec<_> = skipped.iter().map(String::as_str).collect();
            match slugs.is_empty() {
                true => format!("rollout {} goes on as it was", row.id),
                false => format!("rollout {} leaves out {}", row.id, some_of(&slugs)),
            }
        })?;
        if not.is_empty() {
            return Ok(());
        }
        Err(Failure(format!(
            "{} can't be left out of rollout {}: not part of it, done, or being worked on",
            some_of(&not),
            row.id
        )))
    }
}

#[derive(clap::Args)]
pub(super) struct ReportCommand {
    /// The rollout; the newest when not given
    rollout: Option<i64>,
    /// Write it as JUnit's XML, which pipelines read
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

impl ReportCommand {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        let any = [OPEN.as_slice(), &[RolloutState::Aborted, RolloutState::Done]].concat();
        let row = newest(fleet, self.rollout, &any).await?;
        let report = Report::read(&fleet.catalog, row).await?;
        if let Some(file) = &self.junit {
            let written = std::fs::write(file, report.junit()?);
            written.map_err(|e| Failure(format!("cannot write `{}`: {e}", file.display())))?;
            return output
                .answer(&serde_json::json!({ "file": file }), |_| format!("written to {}", file.display()));
        }
        if output.json {
            return output.answer(&report, |_| String::new());
        }
        let rollout = &report.rollout;
        line(&format!("rollout {} is {}\n", rollout.id, rollout.standing()));
        output.list(
            &report.tenants,
            &["WAVE", "TENANT", "STATE", "FROM", "TO", "SECONDS", "TRIES", "WHAT WAS WRONG"],
            |step| row_of(&report, step),
            "it has no tenants",
        )
    }
}

fn row_of(report: &Report, step: &StepRow) -> Vec<String> {
    let wave = usize::try_from(step.wave).ok().and_then(|at| report.waves.get(at));
    let seconds = step.begun_at.zip(step.ended_at).map(|(begun, ended)| (ended - begun).as_seconds_f64());
    vec![
        wave.map(|wave| wave.name.clone()).unwrap_or_default(),
        step.slug.clone(),
        step.state.as_str().to_owned(),
        step.before.to_string(),
        step.after.to_string(),
        seconds.map(|seconds| format!("{seconds:.2}")).unwrap_or_default(),
        step.attempts.to_string(),
        failure_of(step),
    ]
}
