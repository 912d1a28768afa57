//! Watch: a rollout as it stands at a moment, for whoever looks at it from anywhere.

use std::time::Duration;

use super::plan::Plan;
use super::report::{WaveReport, waves};
use crate::catalog::{Catalog, CatalogError, RolloutRow, StepRow};

/// Most steps that somebody who watches is shown.
const MOST_STEPS: i64 = 200;

/// A rollout at a moment.
#[derive(Debug, Clone, serde::Serialize)]
pub struct View {
    /// Where it stands.
    #[serde(flatten)]
    pub rollout: RolloutRow,
    /// Its waves, in order.
    pub waves: Vec<WaveReport>,
    /// The steps that run now, and those that failed.
    pub steps: Vec<StepRow>,
    /// How long what is left may take, at the pace of what was done; `None` before anything was.
    #[serde(skip)]
    pub left: Option<Duration>,
}

impl View {
    /// Looks at a rollout.
    ///
    /// # Errors
    /// When the catalog can't be read, or has the plan in a form that this program doesn't know.
    pub async fn look(catalog: &Catalog, rollout: RolloutRow) -> Result<Self, CatalogError> {
        let plan = Plan::read(&rollout)?;
        let counts = catalog.wave_counts(rollout.id).await?;
        let steps = catalog.steps_of_note(rollout.id, MOST_STEPS).await?;
        let waves = waves(&plan, &counts);
        let left = left(&rollout, &plan, &waves);
        Ok(Self { rollout, waves, steps, left })
    }

    /// How many steps ended in one way or another, and how many there are.
    pub fn progress(&self) -> (usize, usize) {
        let closed = self.waves.iter().map(|wave| wave.counts.closed()).sum();
        (closed, self.waves.iter().map(|wave| wave.counts.all()).sum())
    }
}

/// The open wave's pace for all that is left, and the bake times.
fn left(rollout: &RolloutRow, plan: &Plan, waves: &[WaveReport]) -> Option<Duration> {
    let open = usize::try_from(rollout.wave).unwrap_or(0);
    let wave = waves.get(open)?;
    let since = Duration::try_from(rollout.wave_ended.unwrap_or(rollout.now) - rollout.wave_begun?).ok()?;
    let done = u32::try_from(wave.counts.closed()).ok().filter(|done| *done > 0)?;
    let todo: usize = waves.iter().skip(open).map(|wave| wave.counts.open()).sum();
    let bakes: Duration = plan.waves.iter().skip(open).map(|wave| wave.policy.bake).sum();
    Some((since / done).saturating_mul(u32::try_from(todo).unwrap_or(u32::MAX)).saturating_add(bakes))
}
