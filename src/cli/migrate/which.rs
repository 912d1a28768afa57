//! Which rollout an operator means.

use super::super::Failure;
use crate::catalog::{RolloutRow, RolloutState};
use crate::fleet::Fleet;

/// Rollouts that are looked at when none is named, newest first.
pub(super) const MOST_LISTED: i64 = 20;

/// States from which something can still happen.
pub(super) const OPEN: [RolloutState; 4] =
    [RolloutState::Planned, RolloutState::Running, RolloutState::Paused, RolloutState::Halted];

/// The rollout of this number, or the newest in one of these states.
pub(super) async fn newest(
    fleet: &Fleet,
    id: Option<i64>,
    states: &[RolloutState],
) -> Result<RolloutRow, Failure> {
    if let Some(id) = id {
        let found = fleet.catalog.rollout(id).await?;
        return found.ok_or_else(|| Failure(format!("there is no rollout {id}; see `manybox migrate list`")));
    }
    // Of the newest: an operator means what happened last.
    let rows = fleet.catalog.rollouts(MOST_LISTED).await?;
    rows.into_iter().find(|row| states.contains(&row.state)).ok_or_else(|| {
        let states: Vec<_> = states.iter().map(|state| state.as_str()).collect();
        Failure(format!("no rollout is {}; see `manybox migrate list`", states.join(" or ")))
    })
}

#[derive(clap::Args)]
pub(super) struct Which {
    /// The rollout; the newest that isn't over when not given
    pub(super) rollout: Option<i64>,
}
