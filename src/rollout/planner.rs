//! Planner: which databases a rollout touches, and in which order. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{Template, TenantRow};
use crate::migrate::{Edition, Standing, standing};
use crate::tenant::{Lineage, Record, State};

/// Which part of the fleet an operator means; `None` means all.
#[derive(Debug, Clone, Default)]
pub struct RolloutScope {
    /// Only tenants of this edition.
    pub edition: Option<String>,
    /// Only the tenant with this slug.
    pub tenant: Option<String>,
}

/// Why a tenant is in the rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepReason {
    /// Its version is lower than its edition's newest.
    Behind,
    /// Its last migration failed.
    Failed,
    /// Its history is not the edition's. It is tried all the same, so that the operator sees the reason again.
    Divergent,
    /// Its version is higher than its edition's newest: likewise.
    Ahead,
}

/// One tenant to migrate.
#[derive(Debug, Clone)]
pub struct RolloutStep {
    /// The tenant.
    pub tenant: Record,
    /// What its database has.
    pub lineage: Lineage,
    /// Why.
    pub reason: StepReason,
}

/// The work of a rollout. Templates come first, so that tenants created meanwhile have the newest version.
#[derive(Debug, Clone, Default)]
pub struct Rollout {
    /// (server, edition) whose template is not at the newest version.
    pub templates: Vec<(String, String)>,
    /// Tenants, by slug.
    pub steps: Vec<RolloutStep>,
}

/// Compares what the catalog says of every database with what the editions' files say.
///
/// Tenants in creation get their template's version; purged ones have no database. Retired ones are migrated as well,
/// so that a restored tenant is current.
pub fn plan(
    editions: &BTreeMap<String, Edition>,
    templates: &[Template],
    tenants: &[TenantRow],
    scope: &RolloutScope,
) -> Rollout {
    let in_scope = |row: &&TenantRow| {
        scope.edition.as_ref().is_none_or(|e| row.record.lineage().is_some_and(|l| *e == l.edition))
            && scope.tenant.as_ref().is_none_or(|t| t == row.record.slug.as_str())
            && matches!(row.record.state, State::Active | State::Suspended | State::Retired)
    };
    let mut rollout = Rollout::default();
    for row in tenants.iter().filter(in_scope) {
        // An adopted database has no edition: its migrations are its owner's.
        let Some(lineage) = row.record.lineage() else { continue };
        let Some(edition) = editions.get(&lineage.edition) else { continue };
        let reason = match standing(edition, lineage) {
            Standing::Divergent => Some(StepReason::Divergent),
            Standing::Ahead => Some(StepReason::Ahead),
            _ if row.failure.is_some() => Some(StepReason::Failed),
            Standing::Behind { .. } => Some(StepReason::Behind),
            Standing::Current => None,
        };
        rollout.steps.extend(reason.map(|reason| RolloutStep {
            tenant: row.record.clone(),
            lineage: lineage.clone(),
            reason,
        }));
    }
    // One tenant alone says nothing about those to come: its rollout leaves the template as it is.
    if scope.tenant.is_none() {
        let ready = templates.iter().filter(|t| t.state == "ready");
        let servers: BTreeSet<_> = ready
            .filter(|t| scope.edition.as_ref().is_none_or(|e| *e == t.lineage.edition))
            .filter(|t| {
                editions
                    .get(&t.lineage.edition)
                    .is_some_and(|edition| standing(edition, &t.lineage) != Standing::Current)
            })
            .map(|t| (t.server.clone(), t.lineage.edition.clone()))
            .collect();
        rollout.templates.extend(servers);
    }
    rollout
}
