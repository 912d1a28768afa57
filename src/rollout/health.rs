//! Health: what a gate is judged by, as routers and the tenants' own databases tell it.

use std::collections::HashMap;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use time::OffsetDateTime;

use super::gate::{Health, Observation, judge};
use crate::catalog::{FleetTraffic, RolloutRow, StepRow, StepState};
use crate::fleet::{Fleet, FleetError, moment};
use crate::settings::Gate;
use crate::tenant::TenantId;

/// What a gate answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The next wave may begin.
    Open,
    /// It may not; why.
    Closed(String),
    /// It can't be told yet; what is missing.
    Unknown(String),
}

/// Asks the gate of the open wave, whose last step has ended at least the gate's window ago.
pub(super) async fn ask(fleet: &Fleet, row: &RolloutRow, gate: &Gate) -> Result<Answer, FleetError> {
    let (Some(begun), Some(ended)) = (row.wave_begun, row.wave_ended) else {
        return Ok(Answer::Unknown("the wave has not ended".into()));
    };
    let steps = fleet.catalog.steps(row.id).await?;
    // Those that an operator left out are not judged.
    let steps: Vec<_> =
        steps.into_iter().filter(|s| s.wave == row.wave && s.state != StepState::Skipped).collect();
    let asks_traffic = gate.error_rate.is_some() || gate.p99.is_some();
    let health = if asks_traffic {
        match traffic(fleet, &steps, gate, begun, ended).await? {
            Ok(health) => health,
            Err(missing) => return Ok(Answer::Unknown(missing)),
        }
    } else {
        HashMap::new()
    };
    let mut observations = Vec::with_capacity(steps.len());
    for (step, query) in queries(fleet, &steps, gate).await? {
        let (before, after) = health.get(&step.tenant).copied().unwrap_or_default();
        observations.push(Observation { slug: step.slug.clone(), before, after, query });
    }
    Ok(judge(gate, &observations).map_or(Answer::Open, Answer::Closed))
}

/// Each tenant's requests before the wave and after it, or what is missing: that nobody tells of errors must not pass for
/// that there are none.
async fn traffic(
    fleet: &Fleet,
    steps: &[StepRow],
    gate: &Gate,
    begun: OffsetDateTime,
    ended: OffsetDateTime,
) -> Result<Result<HashMap<String, (Health, Health)>, String>, FleetError> {
    let ids = steps.iter().map(|step| step.tenant.parse::<TenantId>()).collect::<Result<Vec<_>, _>>()?;
    let until = ended + gate.window;
    let before = fleet.catalog.traffic(&ids, begun - gate.window, begun).await?;
    let after = fleet.catalog.traffic(&ids, ended, until).await?;
    if after.routers.is_empty() {
        return Ok(Err("the gate waits: no router runs, so nobody knows how tenants are; start one, or open the gate by \
                       `manybox migrate resume --approve`"
            .into()));
    }
    let silent: Vec<_> = after.silent_since(until).take(3).collect();
    if !silent.is_empty() {
        return Ok(Err(format!(
            "the gate waits for reports of {} until {}",
            silent.join(", "),
            moment(until)
        )));
    }
    let health = |traffic: &FleetTraffic, id: &TenantId| {
        traffic.tenants.get(id).map_or_else(Health::default, |of_tenant| Health {
            requests: of_tenant.requests(),
            errors: of_tenant.errors,
            p99: of_tenant.latencies.quantile(0.99).unwrap_or_default().as_secs_f64(),
        })
    };
    Ok(Ok(ids.iter().map(|id| (id.to_string(), (health(&before, id), health(&after, id)))).collect()))
}

/// What the gate's query answered in each tenant's database, where that was not `true`.
async fn queries<'s>(
    fleet: &Fleet,
    steps: &'s [StepRow],
    gate: &Gate,
) -> Result<Vec<(&'s StepRow, Option<String>)>, FleetError> {
    let mut asking = Vec::with_capacity(steps.len());
    for step in steps {
        asking.push(query(fleet, step, gate));
    }
    let jobs = fleet.settings.migrate.jobs.max(1);
    let answers: Vec<_> = stream::iter(asking).buffered(jobs).try_collect().await?;
    Ok(steps.iter().zip(answers).collect())
}

async fn query(fleet: &Fleet, step: &StepRow, gate: &Gate) -> Result<Option<String>, FleetError> {
    let Some(sql) = &gate.sql else { return Ok(None) };
    let database = step.tenant.parse::<TenantId>()?.database();
    Ok(match fleet.ask_owner(&step.server, &database, sql).await {
        Ok(Some(true)) => None,
        Ok(Some(false)) => Some("the gate's query answered false".to_owned()),
        Ok(None) => Some("the gate's query answered nothing".to_owned()),
        Err(error) => Some(format!("the gate's query failed: {error}")),
    })
}
