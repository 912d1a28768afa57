//! `manybox migrate plan`: what would be done, in which waves, and how long it may take.

use std::time::Duration;

use super::super::output::{line, table};
use super::super::progress::Bar;
use super::super::{Done, Failure, Output};
use super::stop::Stop;
use crate::catalog::Filter;
use crate::fleet::Fleet;
use crate::rollout::{self, Draft, Found, LeftOutReason, RolloutAsk};
use crate::settings::DEFAULT_POLICY;

/// Which part of the fleet, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    /// Only tenants of this edition
    #[arg(long, value_name = "EDITION")]
    pub(super) edition: Option<String>,
    /// Only this tenant
    #[arg(long, value_name = "SLUG")]
    pub(super) tenant: Option<String>,
    /// Only files up to this version
    #[arg(long, value_name = "VERSION")]
    pub(super) target: Option<i64>,
    /// The policy of the settings, [rollouts.NAME]
    #[arg(long, value_name = "NAME", default_value = DEFAULT_POLICY)]
    pub(super) policy: String,
    /// Apply files below a version that was applied, too, where a tenant lacks them
    #[arg(long)]
    pub(super) allow_out_of_order: bool,
    /// Ask every database what was applied to it, instead of the catalog: after one was restored from a dump
    #[arg(long)]
    pub(super) verify: bool,
}

impl Ask {
    /// Without what a command alone can do.
    fn rollout(&self) -> RolloutAsk {
        RolloutAsk {
            edition: self.edition.clone(),
            tenant: self.tenant.clone(),
            target: self.target,
            policy: self.policy.clone(),
            allow_out_of_order: self.allow_out_of_order,
        }
    }
}

/// Reads files and catalog, and plans.
pub(super) async fn find(fleet: &Fleet, ask: &Ask, stop: &Stop, output: Output) -> Result<Found, Failure> {
    if ask.verify {
        verify(fleet, ask.edition.as_ref(), output).await?;
    }
    let mut found = rollout::find(fleet, &ask.rollout()).await?;
    if !found.draft.plan.templates.is_empty() {
        let spinner = output.spinner("comparing two builds of the template");
        let frozen = stop.or_swept(fleet, rollout::frozen_rows(fleet, &found.draft)).await;
        spinner.finish_and_clear();
        found.notes.extend(frozen??);
    }
    Ok(found)
}

/// Asks every database what was applied to it, and corrects the catalog where that knew otherwise.
pub(super) async fn verify(fleet: &Fleet, edition: Option<&String>, output: Output) -> Done {
    let filter = Filter { edition: edition.cloned(), ..Filter::default() };
    let bar = Bar::new(output, fleet.catalog.tenants(&filter).await?.len(), "reading histories");
    let read = fleet.read_lineages(&filter, fleet.settings.migrate.jobs, &|_| bar.inc()).await;
    bar.finish();
    let mut unread = Vec::new();
    for read in read? {
        match (&read.found, &read.failure) {
            (Some(found), _) if *found != read.known => output.note(&format!(
                "{}: its history says version {}, the catalog said {}: the catalog is corrected",
                read.slug, found.version, read.known.version
            )),
            (None, Some(failure)) => unread.push(format!("{}: {failure}", read.slug)),
            _ => {}
        }
    }
    if unread.is_empty() {
        return Ok(());
    }
    let (failed, shown) = (unread.len(), unread.iter().take(5).cloned().collect::<Vec<_>>().join("\n"));
    Err(Failure(format!("the histories of {failed} tenant(s) could not be read:\n{shown}")))
}

/// How many tenants a draft leaves out, as the end of a sentence.
fn skipped(draft: &Draft) -> String {
    let count = |reason| draft.left_out.iter().filter(|out| out.reason == reason).count();
    let words = [
        (LeftOutReason::Adopted, "with an adopted database"),
        (LeftOutReason::Quarantined, "set aside"),
        (LeftOutReason::NoEdition, "of editions that can't be used"),
        (LeftOutReason::NoFiles, "behind whose files are not here"),
    ];
    let parts = words.map(|(reason, words)| (count(reason), words));
    parts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, words)| format!("; {n} tenant(s) {words} skipped"))
        .collect()
}

/// What is said of a draft that is empty.
pub(super) fn nothing_to_do(draft: &Draft) -> String {
    let skipped = skipped(draft);
    let all = if skipped.is_empty() { ": every tenant is at its edition's newest version" } else { "" };
    format!("nothing to do{all}{skipped}")
}

/// A plan as `migrate plan --json` prints it.
#[derive(serde::Serialize)]
struct Planned<'a> {
    /// `None` when there is nothing to do.
    rollout: Option<i64>,
    #[serde(flatten)]
    plan: &'a rollout::Plan,
    steps: Vec<PlannedStep<'a>>,
    left_out: &'a [rollout::LeftOut],
    problems: &'a [String],
    notes: &'a [String],
    /// Seconds.
    estimate: Option<u64>,
}

#[derive(serde::Serialize)]
struct PlannedStep<'a> {
    wave: &'a str,
    slug: &'a str,
    edition: &'a str,
    server: &'a str,
    before: i64,
}

pub(super) async fn command(fleet: &Fleet, ask: &Ask, stop: &Stop, output: Output) -> Done {
    let Found { draft, problems, notes } = find(fleet, ask, stop, output).await?;
    let estimate = rollout::estimate(fleet, &draft).await?;
    let stored = if draft.is_empty() { None } else { Some(rollout::store(fleet, &draft).await?) };
    if output.json {
        let name = |wave: i32| {
            usize::try_from(wave).ok().and_then(|at| draft.plan.waves.get(at)).map_or("", |w| w.name.as_str())
        };
        let steps = draft.steps.iter().map(|step| PlannedStep {
            wave: name(step.wave),
            slug: &step.slug,
            edition: &step.edition,
            server: &step.server,
            before: step.before,
        });
        let planned = Planned {
            rollout: stored.as_ref().map(|row| row.id),
            plan: &draft.plan,
            steps: steps.collect(),
            left_out: &draft.left_out,
            problems: &problems,
            notes: &notes,
            estimate: estimate.map(|time| time.as_secs()),
        };
        output.answer(&planned, |_| String::new())?;
    } else {
        notes.iter().for_each(|note| output.note(note));
        match &stored {
            None => line(&nothing_to_do(&draft)),
            Some(row) => {
                line(&words(&draft, estimate));
                line(&format!(
                    "\nstored as rollout {}; `manybox migrate run {}` carries it out",
                    row.id, row.id
                ));
            }
        }
    }
    fail_for(&problems)
}

/// What a plan does, in words.
pub(super) fn words(draft: &Draft, estimate: Option<Duration>) -> String {
    let plan = &draft.plan;
    let mut text = String::new();
    for (name, target) in &plan.targets {
        text.push_str(&format!(
            "edition {name} to version {}: {}\n",
            target.version,
            target.files.join(", ")
        ));
    }
    for (server, edition) in &plan.templates {
        text.push_str(&format!("template of edition {edition} on server {server}\n"));
    }
    let rows = plan.waves.iter().map(|wave| {
        let policy = &wave.policy;
        let mut then = Vec::new();
        if !policy.bake.is_zero() {
            then.push(format!("bake {}", humantime::format_duration(policy.bake)));
        }
        if policy.gate.is_some() {
            then.push("gate".to_owned());
        }
        vec![wave.name.clone(), wave.tenants.to_string(), policy.failures.to_string(), then.join(", ")]
    });
    text.push_str(&table(&["WAVE", "TENANTS", "MAY FAIL", "THEN"], rows));
    if let Some(estimate) = estimate {
        text.push_str(&format!(
            "\nmay take {}, by what such steps took before",
            humantime::format_duration(estimate)
        ));
    }
    text
}

/// The failure that tells what keeps a part of the fleet out.
pub(super) fn fail_for(problems: &[String]) -> Done {
    if problems.is_empty() { Ok(()) } else { Err(Failure(problems.join("\n"))) }
}
