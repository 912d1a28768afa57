//! Rollout: tenants brought to their edition's newest version in waves, templates first, as a plan that is stored and then
//! executed.
//!
//! [`plan`] and the gates are pure; the catalog holds what was planned and how far it came; an [`Executor`] carries it
//! out, in any number of processes.

mod executor;
mod frozen_rows;
mod gate;
mod health;
mod outage;
mod plan;
mod prepare;
mod rehearsed;
mod report;
mod step;
mod watch;

pub use executor::{Ending, Executor};
pub use frozen_rows::frozen_rows;
pub use plan::{
    Draft, FleetState, LeftOut, LeftOutReason, Plan, PlannedWave, RolloutRequest, RolloutScope, Target, plan,
};
pub use prepare::{
    Found, RolloutAsk, begin, estimate, find, refuse_beside_open, refuse_unrehearsed, some_of, store,
};
pub use rehearsed::missing_rehearsals;
pub use report::{Report, WaveReport, failure_of};
pub use watch::View;
