//! Rollout: every database of the fleet brought to its edition's newest version, templates first.

mod executor;
mod planner;

pub use executor::{Report, StepResult};
pub use planner::{Rollout, RolloutScope, RolloutStep, StepReason, plan};
