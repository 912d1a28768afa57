//! Step: one tenant brought to its target, and what the catalog is told of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::outage::{Outages, Patience, is_outage, pause};
use super::plan::Plan;
use crate::catalog::{Claim, Migrated, StepOutcome, StepState};
use crate::fleet::{Fleet, FleetError, Proof, ProvedMigration};
use crate::migrate::{Edition, FailureKind, MigrationFailure, Options};
use crate::tenant::TenantId;

/// How often a step is begun whose connection breaks in the middle. A switchover breaks it once, its own files each time.
const MAX_CUTS: usize = 3;

/// A step that ended, or was given back.
pub(super) struct Worked {
    pub(super) id: TenantId,
    pub(super) slug: String,
    pub(super) server: String,
    /// What becomes of the step.
    pub(super) outcome: StepOutcome,
    /// What becomes of the tenant's row; `None` when the tenant wasn't touched.
    pub(super) migrated: Option<Migrated>,
}

impl Worked {
    /// A step that was taken and not begun.
    pub(super) fn given_back(claim: Claim) -> Self {
        Self::untouched(claim, StepState::Pending, None)
    }

    /// Whether it counts against the wave's budget.
    pub(super) fn has_failed(&self) -> bool {
        self.outcome.state.is_failure()
    }

    fn untouched(claim: Claim, state: StepState, failure: Option<Value>) -> Self {
        let outcome =
            StepOutcome { place: claim.place, state, version: None, failure, drift: None, notices: None };
        Self { id: claim.id, slug: claim.slug, server: claim.server, outcome, migrated: None }
    }
}

/// Brings a tenant to its target, through an outage of its server if that passes. What runs when `stop` is cancelled, or when
/// the policy's time is over, is cancelled.
pub(super) async fn work(
    fleet: &Fleet,
    plan: &Plan,
    editions: &BTreeMap<String, Edition>,
    claim: Claim,
    (options, outages): (&Options, &Outages),
    stop: &CancellationToken,
) -> Worked {
    if !claim.is_there {
        let failure = json!({ "kind": "gone", "message": "the tenant is no longer one that is migrated" });
        return Worked::untouched(claim, StepState::Skipped, Some(failure));
    }
    let Some(edition) = editions.get(&claim.lineage.edition) else {
        let message =
            format!("its edition is `{}` now, which the rollout doesn't have", claim.lineage.edition);
        return Worked::untouched(
            claim,
            StepState::Failed,
            Some(json!({ "kind": "edition", "message": message })),
        );
    };
    let (id, server, lineage) = (claim.id.clone(), claim.server.clone(), claim.lineage.clone());
    // Of our own, so that the end of this step's time is no other's.
    let mine = stop.child_token();
    let migrating = async {
        let (mut cuts, mut patience) = (0, Patience::default());
        loop {
            let outcome = fleet.migrate_tenant((&id, &server), &lineage, edition, options, &mine).await;
            let is_cut = matches!(&outcome, Ok(Err(failure)) if failure.kind == FailureKind::Connection);
            let is_away = matches!(&outcome, Err(error) if is_outage(error));
            if !is_away {
                outages.answered(&server);
                patience.renew();
            }
            cuts += usize::from(is_cut);
            let may_wait = is_away && patience.lasts() || is_cut && cuts < MAX_CUTS;
            if !(may_wait && outages.may_pass(&server)) {
                return outcome;
            }
            tracing::info!(server, tenant.id = %id, "the connection is lost: the step is tried again");
            if !pause(&mine).await {
                let message = "was stopped while its server was away".to_owned();
                return Ok(Err(MigrationFailure::stopped(message)));
            }
        }
    };
    tokio::pin!(migrating);
    let mut in_time = true;
    let outcome = tokio::select! {
        outcome = &mut migrating => outcome,
        () = tokio::time::sleep(plan.policy.step_timeout) => {
            in_time = false;
            mine.cancel();
            migrating.await
        }
    };
    let outcome = match outcome {
        Ok(Err(failure)) if failure.kind == FailureKind::Stopped && !in_time => {
            let message = format!(
                "was cancelled after {}, the policy's step_timeout: {}",
                humantime::format_duration(plan.policy.step_timeout),
                failure.message
            );
            Ok(Err(MigrationFailure { message, ..failure }))
        }
        other => other,
    };
    let stopped = in_time && stop.is_cancelled();
    tell(claim, outcome, stopped)
}

/// What the catalog is told.
fn tell(
    claim: Claim,
    outcome: Result<Result<ProvedMigration, MigrationFailure>, FleetError>,
    stopped: bool,
) -> Worked {
    let Claim { place, id, slug, server, .. } = claim;
    let said = match &outcome {
        Ok(Ok(migrated)) => migrated.outcome.notices.as_slice(),
        Ok(Err(failure)) => failure.notices.as_slice(),
        Err(_) => &[],
    };
    let notices = (!said.is_empty()).then(|| json!(said));
    let mut proved = None;
    let (stands, failure, json) = match outcome {
        Ok(Ok(ProvedMigration { outcome, proof })) => {
            proved = Some(proof);
            (Some((outcome.after, outcome.history)), None, None)
        }
        Ok(Err(failure)) => {
            // 0 also stands for a history that could not be read: then what the catalog knows stays.
            let stands = (failure.reached > 0).then(|| (failure.reached, failure.history.clone()));
            // With its place and all that the server said.
            let json = json!(failure);
            (stands, Some((failure.kind, failure.message)), Some(json))
        }
        Err(error) => {
            let message = error.to_string();
            let json = json!({ "kind": FailureKind::Connection, "message": message });
            (None, Some((FailureKind::Connection, message)), Some(json))
        }
    };
    let state = match &failure {
        // Who can't be asked is not proved to be as it should.
        None if matches!(proved, Some(Ok(Proof::Drifted(_)) | Err(_))) => StepState::Drifted,
        None => StepState::Done,
        // Nothing is wrong with the tenant: whoever goes on with the rollout takes it again.
        Some((FailureKind::Stopped, _)) if stopped => StepState::Pending,
        Some(_) => StepState::Failed,
    };
    let version = stands.as_ref().map(|(version, _)| *version);
    let failed = failure.filter(|_| state == StepState::Failed).map(|(_, message)| message);
    let json = json.filter(|_| state == StepState::Failed);
    let migrated = (state != StepState::Pending || stands.is_some()).then(|| Migrated {
        id: id.clone(),
        stands,
        failure: failed,
    });
    let outcome =
        StepOutcome { place, state, version, failure: json, drift: proved.as_ref().and_then(drift), notices };
    Worked { id, slug, server, outcome, migrated }
}

/// How a tenant's schema differs from the template's, or why that isn't known, for the catalog.
fn drift(proof: &Result<Proof, String>) -> Option<Value> {
    match proof {
        Ok(Proof::Equal(_)) => None,
        Ok(Proof::Unknown(why)) => Some(json!({ "proof": "unknown", "message": why })),
        Err(why) => Some(json!({ "proof": "none", "message": format!("not proved: {why}") })),
        Ok(other) => {
            let drift = other.drift();
            Some(
                json!({ "proof": other.word(), "message": drift.map(ToString::to_string), "differences": drift }),
            )
        }
    }
}
