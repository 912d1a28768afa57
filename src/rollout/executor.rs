//! Executor: carries a rollout out, several tenants at a time; outcomes are written to the catalog beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join3;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::planner::{Rollout, RolloutStep};
use crate::catalog::Migrated;
use crate::fleet::{Fleet, FleetError};
use crate::migrate;

/// Outcomes that may wait to be written, and the most in one statement.
const UNWRITTEN: usize = 64;
/// How long an outcome waits for others to be written with. A commit each would cost as much as a small migration.
const GATHER: Duration = Duration::from_millis(50);

/// What became of one tenant.
#[derive(Debug, Clone, serde::Serialize)]
pub struct StepResult {
    /// The tenant.
    pub slug: String,
    /// Its version before.
    pub before: i64,
    /// Its version now.
    pub after: i64,
    /// Why it went no further.
    pub failure: Option<String>,
}

/// What became of a rollout.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// Templates that were brought up, as (server, edition).
    pub templates: Vec<(String, String)>,
    /// Every tenant that was touched, by slug.
    pub tenants: Vec<StepResult>,
}

impl Report {
    /// The tenants that failed.
    pub fn failures(&self) -> impl Iterator<Item = &StepResult> {
        self.tenants.iter().filter(|result| result.failure.is_some())
    }
}

impl Rollout {
    /// Carries it out with at most `jobs` databases at a time, telling `progress` of each tenant done. A tenant that
    /// fails is recorded and does not stop the others; run again, only what is not current is touched.
    ///
    /// A tenant's outcome is written when the catalog has time for it, with those of others. A kill in between loses
    /// nothing: the catalog then calls a tenant behind whose own history says that it is current, and the next
    /// rollout reads that history and applies nothing.
    ///
    /// # Errors
    /// When a template can't be brought up (if a file fails there, no tenant is touched: the file itself is at fault),
    /// or the catalog can't be written.
    pub async fn execute(
        &self,
        fleet: &Fleet,
        jobs: usize,
        progress: &(dyn Fn(&StepResult) + Sync),
    ) -> Result<Report, FleetError> {
        let editions = fleet.editions().sound;
        let (outcomes, written) = mpsc::channel(UNWRITTEN);
        let (applied, applying) = mpsc::channel(self.templates.len() * 2 + 1);
        let editions = &editions;
        let tenants = async move {
            let foreign = &self.databases_with_foreign_objects(fleet).await;
            if !all_sent(applying, self.templates.len()).await {
                return;
            }
            stream::iter(&self.steps)
                .map(|step| {
                    let found = foreign.get(step.tenant.server.as_str());
                    let all_owned = found.is_some_and(|found| !found.contains(&step.tenant.id.database()));
                    migrate_tenant(fleet, step, editions.get(&step.lineage.edition), all_owned)
                })
                .buffer_unordered(jobs.max(1))
                // Waits while the catalog is behind. The channel is closed when the catalog is lost: no further tenant is begun.
                .any(|outcome| {
                    let outcomes = outcomes.clone();
                    async move { outcomes.send(outcome).await.is_err() }
                })
                .await;
        };
        let templates = self.templates(fleet, editions, applied);
        let ((), written, templates) = join3(tenants, write(fleet, written, progress), templates).await;
        templates?;
        let mut report = Report { templates: self.templates.clone(), tenants: written? };
        report.tenants.sort_by(|a, b| a.slug.cmp(&b.slug));
        Ok(report)
    }

    /// By server, the databases in which not everything belongs to the owner.
    async fn databases_with_foreign_objects(&self, fleet: &Fleet) -> HashMap<&str, HashSet<String>> {
        let servers: BTreeSet<_> = self.steps.iter().map(|step| step.tenant.server.as_str()).collect();
        let mut foreign = HashMap::new();
        for server in servers {
            // A server that can't be asked fails its tenants by itself, and no others.
            if let Ok(found) = fleet.databases_with_foreign_objects(server).await {
                foreign.insert(server, found);
            }
        }
        foreign
    }

    /// Migrates the templates, and sends each one's index when its files have been applied. The rest of the work on a
    /// template runs beside the tenants'. Then drops those that were replaced; each drop waits for a checkpoint.
    async fn templates(
        &self,
        fleet: &Fleet,
        editions: &BTreeMap<String, migrate::Edition>,
        applied: mpsc::Sender<usize>,
    ) -> Result<(), FleetError> {
        for (place, (server, edition)) in self.templates.iter().enumerate() {
            let Some(edition) = editions.get(edition) else {
                return Err(FleetError::Settings(format!("there is no edition `{edition}`")));
            };
            let told = || {
                // Each has room for the two that a reuse gone wrong may send.
                let _ = applied.try_send(place);
            };
            fleet.refresh_template(server, edition, &told).await?;
        }
        drop(applied);
        fleet.tend_templates().await?;
        for (server, edition) in &self.templates {
            fleet.sweep_templates(server, edition).await?;
        }
        Ok(())
    }
}

/// Waits until every index below `number` has come; false when the sender ended before.
async fn all_sent(mut places: mpsc::Receiver<usize>, number: usize) -> bool {
    let mut seen = BTreeSet::new();
    while seen.len() < number {
        match places.recv().await {
            Some(place) => seen.insert(place),
            None => return false,
        };
    }
    true
}

/// Writes outcomes to the catalog, all that have come meanwhile in one statement.
async fn write(
    fleet: &Fleet,
    mut outcomes: mpsc::Receiver<(Migrated, StepResult)>,
    progress: &(dyn Fn(&StepResult) + Sync),
) -> Result<Vec<StepResult>, FleetError> {
    let (mut results, mut batch) = (Vec::new(), Vec::new());
    while outcomes.recv_many(&mut batch, UNWRITTEN).await > 0 {
        let gathered = Instant::now() + GATHER;
        while batch.len() < UNWRITTEN {
            let room = UNWRITTEN - batch.len();
            let more = outcomes.recv_many(&mut batch, room);
            // None more will come, or not in time.
            if !matches!(timeout_at(gathered, more).await, Ok(1..)) {
                break;
            }
        }
        let (migrated, done): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        fleet.catalog.tenants_migrated(&migrated).await?;
        done.iter().for_each(progress);
        results.extend(done);
    }
    Ok(results)
}

async fn migrate_tenant(
    fleet: &Fleet,
    step: &RolloutStep,
    edition: Option<&migrate::Edition>,
    all_owned: bool,
) -> (Migrated, StepResult) {
    let tenant = &step.tenant;
    let outcome = async {
        // The planner takes no tenant of an edition that isn't there.
        let Some(edition) = edition else {
            return Err(FleetError::Settings(format!("there is no edition `{}`", step.lineage.edition)));
        };
        let options = migrate::Options { all_owned, ..fleet.migrate_options() };
        let (database, known) = (tenant.id.database(), step.lineage.version);
        fleet.migrate_database(&tenant.server, &database, known, edition, &options).await
    };
    let (stands, failure) = match outcome.await {
        Ok(Ok(outcome)) => (Some((outcome.after, outcome.history)), None),
        Ok(Err(failure)) => {
            let message = failure.to_string();
            // 0 also stands for a history that could not be read: then what the catalog knows stays.
            ((failure.reached > 0).then_some((failure.reached, failure.history)), Some(message))
        }
        Err(unreachable) => (None, Some(unreachable.to_string())),
    };
    let before = step.lineage.version;
    let after = stands.as_ref().map_or(before, |(version, _)| *version);
    let result = StepResult { slug: tenant.slug.to_string(), before, after, failure: failure.clone() };
    (Migrated { id: tenant.id.clone(), stands, failure }, result)
}
