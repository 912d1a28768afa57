//! `manybox migrate` and `migrate run`: a rollout carried out, with everything that happens on the way told.

use super::super::output::table;
use super::super::{Done, Failure, Output};
use super::plan::{self, Ask};
use super::screen::Screen;
use super::stop::Stop;
use super::which::newest;
use crate::catalog::{RolloutRow, RolloutState};
use crate::fleet::Fleet;
use crate::rollout::{self, Ending, Executor, Found, Plan, Report, failure_of};

/// Most failures that are listed at the end; the report has them all.
const MOST_LISTED: usize = 20;

#[derive(clap::Args)]
pub(super) struct Run {
    /// The rollout; the newest that is planned or running when not given
    rollout: Option<i64>,
    /// Databases brought up at the same time, in place of what the policy says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

impl Run {
    pub(super) async fn run(self, fleet: &Fleet, stop: &Stop, output: Output) -> Done {
        let states = [RolloutState::Planned, RolloutState::Running];
        let row = newest(fleet, self.rollout, &states).await?;
        rollout::begin(fleet, &row).await?;
        execute(fleet, row, self.jobs, stop, output).await
    }
}

/// Plans and runs.
pub(super) async fn migrate(
    fleet: &Fleet,
    ask: &Ask,
    jobs: Option<u16>,
    stop: &Stop,
    output: Output,
) -> Done {
    let Found { draft, problems, notes } = plan::find(fleet, ask, stop, output).await?;
    notes.iter().for_each(|note| output.note(note));
    if draft.is_empty() {
        let nothing =
            serde_json::json!({ "id": null, "templates": [], "tenants": [], "left_out": draft.left_out });
        output.answer(&nothing, |_| plan::nothing_to_do(&draft))?;
        return plan::fail_for(&problems);
    }
    let row = match begun_before(fleet, &draft.plan).await? {
        Some(row) => {
            output.note(&format!("rollout {} of these files is running: taking part in it", row.id));
            row
        }
        None => {
            rollout::refuse_beside_open(fleet, &draft.plan, None).await?;
            let row = rollout::store(fleet, &draft).await?;
            if let Err(refused) = rollout::begin(fleet, &row).await {
                // Nobody asked for a plan that waits.
                let (from, reason) = ([RolloutState::Planned], Some("it was refused at its beginning"));
                fleet.catalog.rollout_move(row.id, &from, RolloutState::Aborted, reason).await?;
                return Err(refused.into());
            }
            row
        }
    };
    let done = execute(fleet, row, jobs, stop, output).await;
    match (done, plan::fail_for(&problems)) {
        (Err(Failure(done)), Err(Failure(problems))) => Err(Failure(format!("{done}\n{problems}"))),
        (done, problems) => done.and(problems),
    }
}

/// A rollout with the same aim that runs, or did when its process was killed.
async fn begun_before(fleet: &Fleet, plan: &Plan) -> Result<Option<RolloutRow>, Failure> {
    let files = fleet.editions().sound;
    for row in fleet.catalog.rollouts_open().await? {
        let before = Plan::read(&row)?;
        let same = before.scope == plan.scope
            && before.policy_name == plan.policy_name
            && before.policy.allow_out_of_order == plan.policy.allow_out_of_order;
        if row.state == RolloutState::Running && same && !before.has_other_files(&files) {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// Carries a running rollout out, shows how it goes, and says what became of it.
pub(super) async fn execute(
    fleet: &Fleet,
    row: RolloutRow,
    jobs: Option<u16>,
    stop: &Stop,
    output: Output,
) -> Done {
    let id = row.id;
    let executor = Executor::new(fleet, &row, jobs.map(usize::from), stop.armed())?;
    let mut screen = Screen::new(output);
    let ending = tokio::select! {
        ending = executor.run() => ending,
        never = screen.follow(fleet, id) => match never {},
    };
    screen.last_look(fleet, id).await?;
    let ending = ending.map_err(|error| {
        Failure(format!("{error}\nrollout {id} is halted; mend it and run `manybox migrate retry {id}`"))
    })?;
    if ending == Ending::Stopped {
        // It stays a running one: others may be at work on it, and whoever comes next goes on.
        fleet.catalog.rollout_waits(id, Some("its process was told to stop")).await?;
    }
    tell(fleet, id, &ending, output).await
}

/// Says what became of a rollout.
async fn tell(fleet: &Fleet, id: i64, ending: &Ending, output: Output) -> Done {
    let Some(row) = fleet.catalog.rollout(id).await? else {
        return Err(Failure(format!("rollout {id} is gone from the catalog")));
    };
    let report = Report::read(&fleet.catalog, row).await?;
    let done = report.waves.iter().map(|wave| wave.counts.done).sum::<usize>();
    output.answer(&report, |report| {
        format!("{done} tenant(s) and {} template(s) brought up", report.templates.len())
    })?;
    let failed: Vec<_> = report.failures().collect();
    let next = match ending {
        Ending::Done if failed.is_empty() => return Ok(()),
        Ending::Done => {
            "the others are done. Mend these, then run `manybox migrate` again: it touches only them.".into()
        }
        Ending::Stopped => format!("stopped; `manybox migrate resume {id}` goes on."),
        Ending::Paused => format!("rollout {id} is paused; `manybox migrate resume {id}` goes on."),
        Ending::Halted(reason) => format!(
            "rollout {id} is halted: {reason}. Mend what failed and run `manybox migrate retry {id}`, leave it out \
             (`migrate skip {id} --tenant SLUG`), or give it up (`migrate abort {id}`)."
        ),
        Ending::Aborted => format!("rollout {id} is {}; what was done stays.", report.rollout.standing()),
    };
    if failed.is_empty() {
        return Err(Failure(next));
    }
    let rows = failed
        .iter()
        .take(MOST_LISTED)
        .map(|step| vec![step.slug.clone(), step.after.to_string(), failure_of(step)]);
    let list = table(&["TENANT", "VERSION", "FAILURE"], rows);
    let more = match failed.len().saturating_sub(MOST_LISTED) {
        0 => String::new(),
        n => format!("\n… and {n} more: `manybox migrate report {id}`"),
    };
    Err(Failure(format!(
        "{} of {} tenant(s) failed; {next}\n{list}{more}",
        failed.len(),
        report.tenants.len()
    )))
}
