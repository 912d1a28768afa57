//! Executor: carries a rollout out, several tenants at a time; every outcome is in the catalog before the next step.

use futures_util::future::join;
use futures_util::stream::{self, StreamExt as _};

use super::planner::{Rollout, Step};
use crate::fleet::{Error, Fleet};
use crate::migrate;

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
        let mut results = stream::iter(&self.steps)
            .map(|step| {
                let edition = editions.get(&step.lineage.edition);
                async move {
                    let result = bring(fleet, step, edition).await?;
                    progress(&result);
                    Ok::<_, Error>(result)
                }
            })
            .buffer_unordered(jobs.max(1));
        let mut report = Report { templates: self.templates.clone(), tenants: Vec::new() };
        let mut broken = None;
        let tenants = async {
            // To the end even when the catalog fails under one: the others' outcomes still count.
            while let Some(result) = results.next().await {
                match result {
                    Ok(result) => report.tenants.push(result),
                    Err(error) => broken = Some(error),
                }
            }
        };
        let ((), swept) = join(tenants, self.sweep(fleet)).await;
        report.tenants.sort_by(|a, b| a.slug.cmp(&b.slug));
        broken.map_or(swept.map(|()| report), Err)
    }

    /// Drops the templates that were replaced, beside the tenants' work: each waits for a checkpoint.
    async fn sweep(&self, fleet: &Fleet) -> Result<(), Error> {
        for (server, edition) in &self.templates {
            fleet.sweep_templates(server, edition).await?;
        }
        Ok(())
    }
}

async fn bring(fleet: &Fleet, step: &Step, edition: Option<&migrate::Edition>) -> Result<StepResult, Error> {
    let tenant = &step.tenant;
    let before = step.lineage.version;
    let mut result = StepResult { slug: tenant.slug.to_string(), before, after: before, failure: None };
    let Some(edition) = edition else { return Ok(result) };
    let outcome = async {
        let server = fleet.servers.get(&tenant.server)?;
        let mut client = server.connect_migrator(&tenant.id.database()).await?;
        Ok::<_, Error>(migrate::bring(&mut client, edition, &fleet.migrate_options()).await)
    };
    let (lineage, failure) = match outcome.await {
        Ok(Ok(outcome)) => (Some((outcome.after, outcome.history)), None),
        Ok(Err(failure)) => {
            let message = failure.to_string();
            // 0 also stands for a history that could not be read: then what the catalog knows stays.
            ((failure.reached > 0).then_some((failure.reached, failure.history)), Some(message))
        }
        Err(unreachable) => (None, Some(unreachable.to_string())),
    };
    let stands = lineage.as_ref().map(|(version, history)| (*version, history.as_str()));
    fleet.catalog.tenant_migrated(&tenant.id, stands, failure.as_deref()).await?;
    result.after = stands.map_or(before, |(version, _)| version);
    result.failure = failure;
    Ok(result)
}
