//! Executor: carries a rollout out, several tenants at a time; outcomes are written to the catalog beside it.

use std::time::Duration;

use futures_util::future::join3;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::planner::{Rollout, Step};
use crate::catalog::Migrated;
use crate::fleet::{Error, Fleet};
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
    pub before: i32,
    /// Its version now.
    pub after: i32,
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
    /// When a template can't be brought up (then no tenant is touched: the files themselves are at fault), or the
    /// catalog can't be written.
    pub async fn execute(
        &self,
        fleet: &Fleet,
        jobs: usize,
        progress: &(dyn Fn(&StepResult) + Sync),
    ) -> Result<Report, Error> {
        for (server, edition) in &self.templates {
            fleet.refresh_template(server, &fleet.edition(edition)?).await?;
        }
        let editions = fleet.editions()?;
        let (outcomes, written) = mpsc::channel(UNWRITTEN);
        let tenants = async move {
            let editions = &editions;
            stream::iter(&self.steps)
                .map(|step| bring(fleet, step, editions.get(&step.lineage.edition)))
                .buffer_unordered(jobs.max(1))
                // Waits while the catalog is behind. Closed, the catalog is lost: then no further tenant is begun.
                .any(|outcome| {
                    let outcomes = outcomes.clone();
                    async move { outcomes.send(outcome).await.is_err() }
                })
                .await;
        };
        let ((), written, swept) = join3(tenants, write(fleet, written, progress), self.sweep(fleet)).await;
        let mut report = Report { templates: self.templates.clone(), tenants: written? };
        swept?;
        report.tenants.sort_by(|a, b| a.slug.cmp(&b.slug));
        Ok(report)
    }

    /// Drops the templates that were replaced, beside the tenants' work: each waits for a checkpoint.
    async fn sweep(&self, fleet: &Fleet) -> Result<(), Error> {
        for (server, edition) in &self.templates {
            fleet.sweep_templates(server, edition).await?;
        }
        Ok(())
    }
}

/// Writes outcomes to the catalog, all that have come meanwhile in one statement.
async fn write(
    fleet: &Fleet,
    mut outcomes: mpsc::Receiver<(Migrated, StepResult)>,
    progress: &(dyn Fn(&StepResult) + Sync),
) -> Result<Vec<StepResult>, Error> {
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

async fn bring(fleet: &Fleet, step: &Step, edition: Option<&migrate::Edition>) -> (Migrated, StepResult) {
    let tenant = &step.tenant;
    let outcome = async {
        // The planner takes no tenant of an edition that isn't there.
        let Some(edition) = edition else {
            return Err(Error::Settings(format!("there is no edition `{}`", step.lineage.edition)));
        };
        let server = fleet.servers.get(&tenant.server)?;
        let mut client = server.connect_migrator(&tenant.id.database()).await?;
        Ok(migrate::bring(&mut client, edition, &fleet.migrate_options()).await)
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
