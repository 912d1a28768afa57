//! Keys: keeps the master keys of a control service those of its key file, so that a rotation needs no restart.

use std::time::Duration;

use super::jobs::Jobs;
use crate::fleet::Fleet;
use crate::vault::{KeyRing, KeyState};

/// How often the key file is looked at, and what the catalog knows of the keys.
const LOOK: Duration = Duration::from_secs(1);

/// Follows the key file until the jobs are stopped. A key that no router may have yet is not used.
pub(super) fn follow(fleet: Fleet, jobs: Jobs) {
    tokio::spawn(async move {
        let mut amiss = None;
        while jobs.goes_on_for(LOOK).await {
            // Whoever asks for the catalog is told that it is away.
            let Ok(known) = fleet.catalog.master_keys().await else { continue };
            let before = fleet.keys.version();
            let mut wrong = None;
            if fleet.settings.keys.master.is_none() {
                match KeyRing::load(&fleet.settings.keys) {
                    Ok(ring) => {
                        let newest = ring.newest();
                        let state = known.iter().find(|key| key.fingerprint == newest.fingerprint());
                        match state.map(|key| key.state) {
                            Some(KeyState::Introduced) => {}
                            Some(_) => fleet.keys.take_up(&ring),
                            None => wrong = ring.fit(&known).err().map(|misfit| misfit.to_string()),
                        }
                    }
                    Err(error) => wrong = Some(error.to_string()),
                }
            }
            fleet.keys.hear(known);
            if fleet.keys.version() != before {
                tracing::info!(key = fleet.keys.newest().id(), "master keys reloaded");
            }
            if wrong != amiss {
                match &wrong {
                    Some(wrong) => tracing::error!("{wrong}"),
                    None => tracing::info!("the key file is as it must be again"),
                }
                amiss = wrong;
            }
        }
    });
}
