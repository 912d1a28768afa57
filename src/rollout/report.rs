//! Report: what became of a rollout, for people, programs and pipelines.

use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use super::plan::Plan;
use crate::catalog::{Catalog, CatalogError, RolloutRow, StepRow, StepState, WaveCounts};

/// A rollout with all that is known of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Where it stands.
    #[serde(flatten)]
    pub rollout: RolloutRow,
    /// Its policy's name.
    pub policy: String,
    /// Its waves, in order.
    pub waves: Vec<WaveReport>,
    /// Templates that it brings up, as (server, edition).
    pub templates: Vec<(String, String)>,
    /// Every tenant, in order.
    pub tenants: Vec<StepRow>,
}

/// A wave with its steps counted.
#[derive(Debug, Clone, serde::Serialize)]
pub struct WaveReport {
    /// Its name.
    pub name: String,
    /// Its steps.
    #[serde(flatten)]
    pub counts: WaveCounts,
}

/// The waves of a plan with what the catalog counts of each.
pub(super) fn waves(plan: &Plan, counts: &[WaveCounts]) -> Vec<WaveReport> {
    let of = |at: usize| {
        let number = i32::try_from(at).unwrap_or(i32::MAX);
        let none = WaveCounts { wave: number, ..WaveCounts::default() };
        counts.iter().find(|counts| counts.wave == number).cloned().unwrap_or(none)
    };
    plan.waves
        .iter()
        .enumerate()
        .map(|(at, wave)| WaveReport { name: wave.name.clone(), counts: of(at) })
        .collect()
}

impl Report {
    /// Reads it from the catalog.
    ///
    /// # Errors
    /// When the catalog can't be read, or has the plan in a form that this program doesn't know.
    pub async fn read(catalog: &Catalog, rollout: RolloutRow) -> Result<Self, CatalogError> {
        let plan = Plan::read(&rollout)?;
        let counts = catalog.wave_counts(rollout.id).await?;
        let tenants = catalog.steps(rollout.id).await?;
        let waves = waves(&plan, &counts);
        Ok(Self { rollout, policy: plan.policy_name, waves, templates: plan.templates, tenants })
    }

    /// The tenants that are not where they should be.
    pub fn failures(&self) -> impl Iterator<Item = &StepRow> {
        self.tenants.iter().filter(|step| step.state.is_failure())
    }

    /// The same as JUnit's XML: a suite for each wave, a case for each tenant.
    ///
    /// # Errors
    /// When the XML can't be written, which has no known reason.
    pub fn junit(&self) -> Result<String, quick_junit::SerializeError> {
        let mut report = quick_junit::Report::new(format!("rollout {}", self.rollout.id));
        for wave in &self.waves {
            let mut suite = TestSuite::new(&wave.name);
            for step in self.tenants.iter().filter(|step| step.wave == wave.counts.wave) {
                suite.add_test_case(case(step));
            }
            report.add_test_suite(suite);
        }
        report.to_string()
    }
}

fn case(step: &StepRow) -> TestCase {
    let sentence = failure_of(step);
    let status = match step.state {
        StepState::Done => TestCaseStatus::success(),
        StepState::Pending | StepState::Running | StepState::Skipped => TestCaseStatus::skipped(),
        StepState::Failed | StepState::Drifted => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(sentence).set_type(step.state.as_str());
            status
        }
    };
    let mut case = TestCase::new(&step.slug, status);
    case.set_classname(format!("{}.{}", step.edition, step.after));
    if let (Some(begun), Some(ended)) = (step.begun_at, step.ended_at) {
        case.set_time(Duration::try_from(ended - begun).unwrap_or_default());
    }
    case
}

/// Why a tenant is not where it should be, in a sentence; empty when it is.
pub fn failure_of(step: &StepRow) -> String {
    let text = |value: &Option<serde_json::Value>| {
        let value = value.as_ref()?;
        Some(value.get("message").and_then(|m| m.as_str()).map_or_else(|| value.to_string(), str::to_owned))
    };
    text(&step.failure).or_else(|| text(&step.drift)).unwrap_or_default()
}
