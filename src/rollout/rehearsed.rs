//! Rehearsed: whether the files of a rollout passed on copies of as many tenants as its policy asks for.

use std::collections::BTreeSet;

use super::plan::Plan;
use crate::catalog::RolloutRow;
use crate::fleet::{Fleet, FleetError};

/// What a rollout lacks of the rehearsals that its policy asks for, in words; `None` when it lacks none. A rehearsal counts as
/// long as its files are those that are here, and go as far as the rollout or further.
///
/// # Errors
/// When the catalog or the files can't be read.
pub async fn missing_rehearsals(fleet: &Fleet, rollout: &RolloutRow) -> Result<Option<String>, FleetError> {
    let plan = Plan::read(rollout)?;
    let Some(wanted) = plan.policy.rehearse else { return Ok(None) };
    let steps = fleet.catalog.steps(rollout.id).await?;
    for (name, target) in &plan.targets {
        let edition = fleet.edition(name)?;
        let tenants = steps.iter().filter(|step| step.edition == *name).count();
        let wanted = wanted.min(tenants);
        let rehearsals = fleet.catalog.rehearsals(name).await?;
        let same = rehearsals.iter().filter(|(files, _)| {
            files.version >= target.version && edition.history_digest(files.version) == files.history
        });
        let passed = same.map(|(_, tenant)| tenant).collect::<BTreeSet<_>>().len();
        if passed < wanted {
            return Ok(Some(format!(
                "policy `{}` asks for rehearsals on {wanted} tenant(s) of edition `{name}`, and these files passed on {passed}: \
                 run `manybox migrate rehearse --sample {wanted} --edition {name}` first",
                plan.policy_name
            )));
        }
    }
    Ok(None)
}
