//! Prepare: a rollout as an operator asks for it, found, stored and begun; by commands and the control service alike.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plan::{Draft, FleetState, LeftOutReason, Plan, RolloutRequest, RolloutScope, plan};
use super::rehearsed::missing_rehearsals;
use crate::catalog::{CatalogError, Filter, RolloutRow, RolloutState, TenantRow};
use crate::fleet::{Fleet, FleetError};
use crate::migrate::{Edition, Editions, File};

/// Which part of the fleet an operator wants to bring up, and how.
#[derive(Debug, Clone, Default)]
pub struct RolloutAsk {
    /// Only tenants of this edition.
    pub edition: Option<String>,
    /// Only this tenant.
    pub tenant: Option<String>,
    /// Only files up to this version.
    pub target: Option<i64>,
    /// The policy of the settings, `[rollouts.NAME]`.
    pub policy: String,
    /// Files below a version that was applied, too, where a tenant lacks them.
    pub allow_out_of_order: bool,
}

/// What was found, before anything is stored.
#[derive(Debug)]
pub struct Found {
    /// The plan.
    pub draft: Draft,
    /// What keeps a part of the fleet out: one sentence each. The rest can be rolled out nonetheless.
    pub problems: Vec<String>,
    /// What an operator should know: one sentence each.
    pub notes: Vec<String>,
}

/// Reads files and catalog, and plans.
///
/// # Errors
/// When there is no such policy, edition or version, its files contradict the fleet, or the catalog can't be read.
pub async fn find(fleet: &Fleet, ask: &RolloutAsk) -> Result<Found, FleetError> {
    let mut policy = fleet.settings.rollouts.get(&ask.policy).cloned().ok_or_else(|| {
        let known: Vec<_> = fleet.settings.rollouts.keys().map(String::as_str).collect();
        FleetError::Settings(format!(
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
            return Err(FleetError::Settings(format!(
                "tenant `{slug}` has an adopted database: its schema is its owner's to change; after a change run `manybox tenant reload {slug}`"
            )));
        };
        of_tenant = Some(fleet.edition(&lineage.edition)?);
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
    let mut draft = plan(state, &request);
    name_what_repeats(fleet, &editions, &tenants, &mut draft).await;
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
    problems.extend(left_out(LeftOutReason::NoFiles).map(|slugs| {
        let needed = tenants.iter().filter_map(|row| {
            let lineage = row.record.lineage()?;
            let needed = editions.get(&lineage.edition)?.needed_by(lineage.version, &lineage.history)?;
            Some((lineage.version, needed))
        });
        let needed = needed.min().map(|(_, needed)| needed);
        format!(
            "{slugs} stay(s) behind: {}",
            needed.unwrap_or_else(|| "files that they lack are not here".to_owned())
        )
    }));
    notes.extend(left_out(LeftOutReason::Quarantined).map(|slugs| {
        format!("set aside because a migration failed: {slugs}; `manybox migrate retry --tenant SLUG` takes one in again")
    }));
    Ok(Found { draft, problems, notes })
}

/// Leaves out the names of repeatable files that no tenant of the draft runs, where that can be told.
async fn name_what_repeats(
    fleet: &Fleet,
    editions: &BTreeMap<String, Edition>,
    tenants: &[TenantRow],
    draft: &mut Draft,
) {
    let slugs: BTreeSet<_> = draft.steps.iter().map(|step| step.slug.as_str()).collect();
    for (name, target) in &mut draft.plan.targets {
        let Some(edition) = editions.get(name) else { continue };
        let rows = tenants.iter().filter(|row| slugs.contains(row.record.slug.as_str()));
        let repeatables: Vec<_> = edition.repeatables.iter().map(File::file_name).collect();
        if target.files.iter().any(|file| repeatables.contains(file))
            && let Some(repeats) = fleet.repeats(edition, rows).await
        {
            target.files.retain(|file| !repeatables.contains(file) || repeats.contains(file));
        }
    }
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

fn check_target(editions: &BTreeMap<String, Edition>, scope: &RolloutScope) -> Result<(), FleetError> {
    let Some(target) = scope.target else { return Ok(()) };
    if editions.values().any(|edition| edition.files.iter().any(|file| file.version == target)) {
        return Ok(());
    }
    Err(FleetError::Settings(format!(
        "no edition has a file of version {target}: give the version of one, as in V{target}__name.sql"
    )))
}

/// The first few of many names.
pub fn some_of(slugs: &[&str]) -> String {
    let shown = slugs.iter().take(5).map(|slug| format!("`{slug}`")).collect::<Vec<_>>().join(", ");
    match slugs.len().saturating_sub(5) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// How long a plan's steps may take together, by what such steps took before; `None` when nobody knows.
///
/// # Errors
/// When the catalog can't be read.
pub async fn estimate(fleet: &Fleet, draft: &Draft) -> Result<Option<Duration>, FleetError> {
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
///
/// # Errors
/// When the catalog can't be changed.
pub async fn store(fleet: &Fleet, draft: &Draft) -> Result<RolloutRow, FleetError> {
    let plan = serde_json::to_value(&draft.plan).map_err(|error| CatalogError::Row(error.to_string()))?;
    Ok(fleet.catalog.rollout_insert(&plan, &draft.steps).await?)
}

/// Lets executors take the steps of a planned rollout.
///
/// # Errors
/// When it lacks rehearsals, another rollout is open, or it is neither planned nor running any more.
pub async fn begin(fleet: &Fleet, row: &RolloutRow) -> Result<(), FleetError> {
    refuse_unrehearsed(fleet, row).await?;
    refuse_beside_open(fleet, &Plan::read(row)?, Some(row.id)).await?;
    let from = [RolloutState::Planned, RolloutState::Running];
    if fleet.catalog.rollout_move(row.id, &from, RolloutState::Running, None).await? {
        return Ok(());
    }
    Err(FleetError::Settings(format!(
        "rollout {} is neither planned nor running any more; see `manybox migrate list`",
        row.id
    )))
}

/// Refuses a rollout whose policy asks for rehearsals that there were not.
///
/// # Errors
/// When it lacks some.
pub async fn refuse_unrehearsed(fleet: &Fleet, row: &RolloutRow) -> Result<(), FleetError> {
    match missing_rehearsals(fleet, row).await? {
        Some(missing) => Err(FleetError::Settings(format!("rollout {} does not begin: {missing}", row.id))),
        None => Ok(()),
    }
}

/// Refuses a second rollout of an edition: its waves would pass the first one's by. One tenant alone may always be
/// migrated, and a rollout whose processes are all gone is given up.
///
/// # Errors
/// When there is one.
pub async fn refuse_beside_open(fleet: &Fleet, plan: &Plan, except: Option<i64>) -> Result<(), FleetError> {
    if plan.scope.tenant.is_some() {
        return Ok(());
    }
    for open in fleet.catalog.rollouts_open().await? {
        let (id, other) = (open.id, Plan::read(&open)?);
        let shared = plan.targets.keys().find(|edition| other.targets.contains_key(*edition));
        let Some(edition) = shared.filter(|_| other.scope.tenant.is_none() && except != Some(id)) else {
            continue;
        };
        if open.state == RolloutState::Running && !fleet.is_attended(id).await? {
            let reason = "its process was gone when another was planned";
            let from = [RolloutState::Running];
            fleet.catalog.rollout_move(id, &from, RolloutState::Aborted, Some(reason)).await?;
            continue;
        }
        return Err(FleetError::Settings(format!(
            "rollout {id} of edition `{edition}` is {}{}: go on with it (`manybox migrate resume {id}`, `retry {id}` when \
             something failed), or give it up (`manybox migrate abort {id}`)",
            open.state.as_str(),
            open.reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
        )));
    }
    Ok(())
}
