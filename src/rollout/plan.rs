//! Planner: which tenants a rollout touches, in which waves. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::catalog::{CatalogError, NewStep, RolloutRow, Template, TenantRow};
use crate::migrate::{Edition, File, Standing, standing};
use crate::settings::{OrderBy, RolloutPolicy, Wave};
use crate::tenant::{Lineage, State};

/// Which part of the fleet an operator means; `None` means all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutScope {
    /// Only tenants of this edition.
    pub edition: Option<String>,
    /// Only the tenant with this slug.
    pub tenant: Option<String>,
    /// Only files up to this version.
    pub target: Option<i64>,
}

/// What an operator asks for.
#[derive(Debug, Clone, Default)]
pub struct RolloutRequest {
    /// Which tenants.
    pub scope: RolloutScope,
    /// The policy's name.
    pub policy_name: String,
    /// The policy.
    pub policy: RolloutPolicy,
}

/// The fleet as it is: files, templates, tenants.
#[derive(Debug, Clone, Copy)]
pub struct FleetState<'a> {
    /// The editions whose files can be used.
    pub editions: &'a BTreeMap<String, Edition>,
    /// Every template.
    pub templates: &'a [Template],
    /// Every tenant.
    pub tenants: &'a [TenantRow],
}

/// A plan as it is stored: made once, never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The policy's name.
    pub policy_name: String,
    /// The policy as it was.
    pub policy: RolloutPolicy,
    /// What was asked for.
    pub scope: RolloutScope,
    /// Where each edition's tenants go.
    pub targets: BTreeMap<String, Target>,
    /// (server, edition) whose template isn't at the target.
    pub templates: Vec<(String, String)>,
    /// The waves that have tenants, in order.
    pub waves: Vec<PlannedWave>,
}

/// Where an edition's tenants go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The version.
    pub version: i64,
    /// The digest of the files that lead there: an executor with other files refuses the rollout.
    pub history: String,
    /// The names of the files that some tenant of the rollout lacks.
    pub files: Vec<String>,
    /// Histories, by their digest, that lack files below their newest version, with the versions of these: they are applied out
    /// of order.
    #[serde(default)]
    pub gaps: BTreeMap<String, Vec<i64>>,
}

/// A wave with its tenants counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedWave {
    /// Its name.
    pub name: String,
    /// How many tenants it has.
    pub tenants: usize,
    /// What holds for it.
    pub policy: Wave,
}

/// A tenant that a plan leaves out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its slug.
    pub slug: String,
    /// Why.
    pub reason: LeftOutReason,
}

/// Why a plan leaves a tenant out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeftOutReason {
    /// Its database was adopted: its migrations are its owner's.
    Adopted,
    /// A migration failed, and its policy set it aside; `migrate retry --tenant` takes it in again.
    Quarantined,
    /// The settings don't have its edition, or that edition's files can't be used.
    NoEdition,
    /// It lacks files that are not here, because a squashed one takes their place.
    NoFiles,
}

/// A plan, before it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// What is stored of it.
    pub plan: Plan,
    /// Tenants, in the order in which they are begun.
    pub steps: Vec<NewStep>,
    /// Tenants that are not among them, although they are in the scope.
    pub left_out: Vec<LeftOut>,
}

impl Plan {
    /// Reads the plan of a stored rollout.
    ///
    /// # Errors
    /// When it was stored in a form that this program doesn't know.
    pub fn read(rollout: &RolloutRow) -> Result<Self, CatalogError> {
        serde_json::from_value(rollout.plan.clone())
            .map_err(|e| CatalogError::Row(format!("the plan of rollout {} can't be read ({e})", rollout.id)))
    }
}

impl Plan {
    /// Whether the files of one of its editions are others than those that it was made with.
    pub fn has_other_files(&self, editions: &BTreeMap<String, Edition>) -> bool {
        let is_same = |(name, target): (&String, &Target)| {
            let edition =
                editions.get(name).map(|e| self.scope.target.map_or_else(|| e.clone(), |v| e.ending_at(v)));
            edition.is_some_and(|e| {
                e.latest() == target.version && e.history_digest(e.latest()) == target.history
            })
        };
        !self.targets.iter().all(is_same)
    }
}

impl Draft {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.plan.templates.is_empty()
    }
}

/// Compares what the catalog says of every database with what the editions' files say, and sorts what is to be done into
/// waves.
///
/// Tenants in creation get their template's version; purged ones have no database. Retired ones are migrated as well, so
/// that a restored tenant is current. Those that are divergent, or ahead of the files, are taken in all the same: each
/// fails by itself, and says why.
pub fn plan(fleet: FleetState<'_>, request: &RolloutRequest) -> Draft {
    let scope = &request.scope;
    let targets: BTreeMap<&str, Edition> = fleet
        .editions
        .iter()
        .filter(|(name, _)| scope.edition.as_ref().is_none_or(|edition| edition == *name))
        .map(|(name, edition)| {
            (name.as_str(), scope.target.map_or_else(|| edition.clone(), |v| edition.ending_at(v)))
        })
        .collect();
    let mut behind = Vec::new();
    let mut left_out = Vec::new();
    for row in fleet.tenants.iter().filter(|row| in_scope(row, scope)) {
        match judge(row, &targets, scope) {
            Ok(false) => {}
            Ok(true) => behind.push(row),
            Err(reason) => left_out.push(LeftOut { slug: row.record.slug.to_string(), reason }),
        }
    }
    order(&mut behind, request.policy.order_by);
    let (waves, steps) = waves(&request.policy.waves, &behind);
    // One tenant alone says nothing about those to come: its rollout leaves the template as it is.
    let templates = if scope.tenant.is_some() { Vec::new() } else { templates(fleet.templates, &targets) };
    let lowest = |edition: &str| steps.iter().filter(|s| s.edition == edition).map(|s| s.before).min();
    let targets = targets
        .iter()
        .filter(|(name, _)| {
            lowest(name).is_some() || templates.iter().any(|(_, edition): &(_, String)| edition == *name)
        })
        .map(|(name, edition)| {
            let from = lowest(name).unwrap_or_else(|| edition.latest());
            let below = |file: &File| edition.gaps.values().flatten().any(|version| *version == file.version);
            let lacked = edition.files.iter().filter(|file| file.version > from || below(file));
            let others = |lineage: &Lineage| {
                lineage.edition == *name && edition.has_other_repeatables(&lineage.history)
            };
            let repeats = behind.iter().filter_map(|row| row.record.lineage()).any(others)
                || fleet
                    .templates
                    .iter()
                    .any(|template| template.state == "ready" && others(&template.lineage));
            // Which of them changed, each database knows.
            let repeated = edition.repeatables.iter().filter(|_| repeats);
            let target = Target {
                version: edition.latest(),
                history: edition.history_digest(edition.latest()),
                files: lacked.chain(repeated).map(File::file_name).collect(),
                gaps: edition.gaps.clone(),
            };
            ((*name).to_owned(), target)
        })
        .collect();
    let plan = Plan {
        policy_name: request.policy_name.clone(),
        policy: request.policy.clone(),
        scope: scope.clone(),
        targets,
        templates,
        waves,
    };
    Draft { plan, steps, left_out }
}

fn in_scope(row: &TenantRow, scope: &RolloutScope) -> bool {
    let edition = row.record.lineage().map(|lineage| &lineage.edition);
    scope.edition.as_ref().is_none_or(|wanted| edition == Some(wanted))
        && scope.tenant.as_ref().is_none_or(|wanted| wanted == row.record.slug.as_str())
        && matches!(row.record.state, State::Active | State::Suspended | State::Retired)
}

/// Whether a tenant has something to be done, or why it is left out.
fn judge(
    row: &TenantRow,
    targets: &BTreeMap<&str, Edition>,
    scope: &RolloutScope,
) -> Result<bool, LeftOutReason> {
    let Some(lineage) = row.record.lineage() else { return Err(LeftOutReason::Adopted) };
    let Some(edition) = targets.get(lineage.edition.as_str()) else { return Err(LeftOutReason::NoEdition) };
    let is_behind = match standing(edition, lineage) {
        Standing::Behind { .. } | Standing::Divergent => true,
        // Whoever names a version means the tenants below it.
        Standing::Ahead => scope.target.is_none(),
        Standing::Current => row.failure.is_some(),
    };
    if is_behind && edition.needed_by(lineage.version, &lineage.history).is_some() {
        return Err(LeftOutReason::NoFiles);
    }
    if is_behind && row.quarantined.is_some() && scope.tenant.is_none() {
        return Err(LeftOutReason::Quarantined);
    }
    Ok(is_behind)
}

fn order(rows: &mut [&TenantRow], by: OrderBy) {
    rows.sort_by(|a, b| {
        let by_slug = || a.record.slug.as_str().cmp(b.record.slug.as_str());
        match by {
            OrderBy::Slug => by_slug(),
            OrderBy::Newest => b.created_at.cmp(&a.created_at).then_with(by_slug),
            OrderBy::Oldest => a.created_at.cmp(&b.created_at).then_with(by_slug),
        }
    });
}

/// Gives each tenant to the first wave that takes it, and the others to a last one of their own.
fn waves(policy: &[Wave], rows: &[&TenantRow]) -> (Vec<PlannedWave>, Vec<NewStep>) {
    let mut left: Vec<&TenantRow> = rows.to_vec();
    let (mut planned, mut steps) = (Vec::new(), Vec::new());
    let rest = Wave { name: Some("rest".into()), ..Wave::default() };
    for (at, wave) in policy.iter().chain([&rest]).enumerate() {
        let most = wave
            .percent
            .map_or(usize::MAX, |percent| rows.len().saturating_mul(usize::from(percent)).div_ceil(100));
        let mut taken = Vec::new();
        left.retain(|row| {
            let takes = taken.len() < most && row.is_taken_by(wave);
            if takes {
                taken.push(*row);
            }
            !takes
        });
        if taken.is_empty() {
            continue;
        }
        let number = i32::try_from(planned.len()).unwrap_or(i32::MAX);
        steps.extend(taken.iter().filter_map(|row| step(row, number)));
        planned.push(PlannedWave {
            name: wave.name.clone().unwrap_or_else(|| format!("wave {}", at + 1)),
            tenants: taken.len(),
            policy: wave.clone(),
        });
    }
    (planned, steps)
}

fn step(row: &TenantRow, wave: i32) -> Option<NewStep> {
    let lineage = row.record.lineage()?;
    Some(NewStep {
        wave,
        tenant: row.record.id.to_string(),
        slug: row.record.slug.to_string(),
        server: row.record.server.clone(),
        edition: lineage.edition.clone(),
        before: lineage.version,
    })
}

/// The servers and editions whose ready template lacks files. One that has more than is asked for stays: tenants are not
/// born older than others were.
fn templates(templates: &[Template], targets: &BTreeMap<&str, Edition>) -> Vec<(String, String)> {
    let outdated: BTreeSet<_> = templates
        .iter()
        .filter(|template| template.state == "ready")
        .filter(|template| {
            let edition = targets.get(template.lineage.edition.as_str());
            edition.is_some_and(|edition| {
                matches!(standing(edition, &template.lineage), Standing::Behind { .. })
            })
        })
        .map(|template| (template.server.clone(), template.lineage.edition.clone()))
        .collect();
    outdated.into_iter().collect()
}

#[cfg(test)]
mod tests;
