//! `manybox migrate plan`: what would be done, in which waves, and how long it may take.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::output::{line, table};
use super::super::{Done, Failure, Output};
use crate::catalog::{Filter, RolloutRow};
use crate::fleet::Fleet;
use crate::migrate::{Edition, Editions};
use crate::rollout::{self, Draft, FleetState, LeftOutReason, RolloutRequest, RolloutScope};
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

/// What was found, before anything is stored.
pub(super) struct Found {
    pub(super) draft: Draft,
    /// What keeps a part of the fleet out: one sentence each. The rest can be rolled out nonetheless.
    pub(super) problems: Vec<String>,
    /// What an operator should know: one sentence each.
    pub(super) notes: Vec<String>,
}

/// Reads files and catalog, and plans.
pub(super) async fn find(fleet: &Fleet, ask: &Ask, output: Output) -> Result<Found, Failure> {
    let mut policy = fleet.settings.rollouts.get(&ask.policy).cloned().ok_or_else(|| {
        let known: Vec<_> = fleet.settings.rollouts.keys().map(String::as_str).collect();
        Failure(format!(
            "there is no rollout policy `{}`; the settings have {} (add [rollouts.{}])",
            ask.policy,
            known.join(", "),
            ask.policy
        ))
    })?;
    policy.allow_out_of_order |= ask.allow_out_of_order;
    let scope = RolloutScope { edition: ask.edition.clone(), tenant: ask.tenant.clone(), target: ask.target };
    let mut of_tenant = None;
    if let Some(slug) = &scope.tenant {
        let row = fleet.tenant(slug).await?;
        let Some(lineage) = row.record.lineage() else {
            return Err(Failure(format!(
                "tenant `{slug}` has an adopted database: its schema is its owner's to change; after a change run `manybox tenant reload {slug}`"
            )));
        };
        of_tenant = Some(fleet.edition(&lineage.edition)?);
    }
    if ask.verify {
        verify(fleet, ask.edition.as_ref(), output).await?;
    }
    let Editions { sound: mut editions, broken } = fleet.editions();
    if policy.allow_out_of_order {
        let own = of_tenant.as_ref().map(|edition| edition.name.clone());
        let asked = |name: &&String| scope.edition.iter().chain(&own).all(|edition| edition == *name);
        let asked: Vec<_> = editions.keys().filter(asked).cloned().collect();
        for (_, edition) in editions.iter_mut().filter(|(name, _)| asked.contains(*name)) {
            *edition = fleet.with_gaps(edition).await?;
        }
        of_tenant = own.and_then(|name| editions.get(&name).cloned()).or(of_tenant);
    }
    if let Some(edition) = &of_tenant {
        // What the fleet was not made by is applied to nobody, or that one would differ from the others for good.
        fleet.refuse_contradiction(edition).await?;
    }
    if let Some(edition) = &scope.edition {
        // Its own error, where it is the one that is asked for.
        fleet.edition(edition)?;
    }
    check_target(&editions, &scope)?;
    let everything = scope.edition.is_none() && scope.tenant.is_none();
    let mut problems: Vec<String> = broken.values().filter(|_| everything).map(ToString::to_string).collect();
    if scope.tenant.is_none() {
        problems.extend(take_out_contradictions(fleet, &mut editions, &scope).await);
    }
    let (templates, tenants) = tokio::try_join!(fleet.catalog.templates(), async {
        fleet.catalog.tenants(&Filter::default()).await
    })?;
    let request = RolloutRequest { scope, policy_name: ask.policy.clone(), policy };
    let state = FleetState { editions: &editions, templates: &templates, tenants: &tenants };
    let draft = rollout::plan(state, &request);
    let mut notes = findings(&editions, &draft);
    let left_out = |reason: LeftOutReason| {
        let slugs: Vec<_> =
            draft.left_out.iter().filter(|out| out.reason == reason).map(|out| out.slug.as_str()).collect();
        (!slugs.is_empty()).then(|| some_of(&slugs))
    };
    if everything && problems.is_empty() {
        problems.extend(left_out(LeftOutReason::NoEdition).map(|slugs| {
            format!("the settings don't have the edition of {slugs}: they stay as they are; put [editions.NAME] back")
        }));
    }
    notes.extend(left_out(LeftOutReason::Quarantined).map(|slugs| {
        format!("set aside because a migration failed: {slugs}; `manybox migrate retry --tenant SLUG` takes one in again")
    }));
    Ok(Found { draft, problems, notes })
}

/// What the linter says of the files that some tenant lacks.
fn findings(editions: &BTreeMap<String, Edition>, draft: &Draft) -> Vec<String> {
    let mut found = Vec::new();
    for (name, target) in &draft.plan.targets {
        let Some(edition) = editions.get(name) else { continue };
        let lowest = draft.steps.iter().filter(|step| step.edition == *name).map(|step| step.before).min();
        let below = target.gaps.values().flatten().map(|version| version - 1).min();
        let lowest = lowest.into_iter().chain(below).min();
        let of_plan = edition.warnings(lowest.unwrap_or(0)).into_iter().filter(|f| {
            // Those of repeatable files, which have version 0, where these are run.
            f.version <= target.version && (f.version > 0 || target.files.contains(&f.file))
        });
        found.extend(of_plan.map(|finding| finding.to_string()));
    }
    found
}

/// Takes the editions out whose files are not those that the fleet was made by, with a sentence about each.
async fn take_out_contradictions(
    fleet: &Fleet,
    editions: &mut BTreeMap<String, Edition>,
    scope: &RolloutScope,
) -> Vec<String> {
    let mut refused = BTreeMap::new();
    for (name, edition) in editions.iter() {
        let is_asked = scope.edition.as_ref().is_none_or(|asked| asked == name);
        if is_asked && let Err(error) = fleet.refuse_contradiction(edition).await {
            refused.insert(name.clone(), error.to_string());
        }
    }
    editions.retain(|name, _| !refused.contains_key(name));
    refused.into_values().collect()
}

/// Asks every database what was applied to it, and corrects the catalog where that knew otherwise.
pub(super) async fn verify(fleet: &Fleet, edition: Option<&String>, output: Output) -> Done {
    let filter = Filter { edition: edition.cloned(), ..Filter::default() };
    let bar = output.bar(fleet.catalog.tenants(&filter).await?.len(), "reading histories");
    let read = fleet.read_lineages(&filter, fleet.settings.migrate.jobs, &|_| bar.inc(1)).await;
    bar.finish_and_clear();
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

fn check_target(editions: &BTreeMap<String, Edition>, scope: &RolloutScope) -> Done {
    let Some(target) = scope.target else { return Ok(()) };
    if editions.values().any(|edition| edition.files.iter().any(|file| file.version == target)) {
        return Ok(());
    }
    Err(Failure(format!(
        "no edition has a file of version {target}: give the version of one, as in V{target}__name.sql"
    )))
}

/// The first few of many names.
pub(super) fn some_of(slugs: &[&str]) -> String {
    let shown = slugs.iter().take(5).map(|slug| format!("`{slug}`")).collect::<Vec<_>>().join(", ");
    match slugs.len().saturating_sub(5) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// How long a plan's steps may take together, by what such steps took before; `None` when nobody knows.
pub(super) async fn estimate(fleet: &Fleet, draft: &Draft) -> Result<Option<Duration>, Failure> {
    let mut seconds = 0.0;
    for (edition, target) in &draft.plan.targets {
        let steps = draft.steps.iter().filter(|step| step.edition == *edition).count();
        if steps > 0 {
            let Some(mean) = fleet.catalog.mean_step(edition, target.version).await? else { return Ok(None) };
            seconds += mean * steps as f64;
        }
    }
    let jobs = fleet.settings.migrate.jobs.max(1);
    let bakes: Duration = draft.plan.waves.iter().map(|wave| wave.policy.bake).sum();
    let work = Duration::try_from_secs_f64(seconds / jobs as f64).unwrap_or_default();
    Ok((seconds > 0.0).then(|| Duration::from_secs(work.saturating_add(bakes).as_secs().max(1))))
}

/// Stores a draft.
pub(super) async fn store(fleet: &Fleet, draft: &Draft) -> Result<RolloutRow, Failure> {
    let plan = serde_json::to_value(&draft.plan)?;
    Ok(fleet.catalog.rollout_insert(&plan, &draft.steps).await?)
}

/// How many tenants a draft leaves out, as the end of a sentence.
pub(super) fn skipped(draft: &Draft) -> String {
    let count = |reason| draft.left_out.iter().filter(|out| out.reason == reason).count();
    let words = [
        (LeftOutReason::Adopted, "with an adopted database"),
        (LeftOutReason::Quarantined, "set aside"),
        (LeftOutReason::NoEdition, "of editions that can't be used"),
    ];
    let parts = words.map(|(reason, words)| (count(reason), words));
    parts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, words)| format!("; {n} tenant(s) {words} skipped"))
        .collect()
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

pub(super) async fn command(fleet: &Fleet, ask: &Ask, output: Output) -> Done {
    let Found { draft, problems, notes } = find(fleet, ask, output).await?;
    let estimate = estimate(fleet, &draft).await?;
    let stored = if draft.is_empty() { None } else { Some(store(fleet, &draft).await?) };
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
            None => line(&format!(
                "nothing to do: every tenant is at its edition's newest version{}",
                skipped(&draft)
            )),
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
