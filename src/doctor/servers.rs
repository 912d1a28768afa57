//! Whether every server of the settings answers its admin. D4x.

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Finding, PATIENCE, Patient};

pub(super) async fn look(patient: &Patient<'_>) -> Vec<Finding> {
    let tried = patient.servers.iter().map(|(name, server)| async move {
        let reason = match timeout(PATIENCE, server.connect_admin()).await {
            Ok(Ok(_)) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} seconds", PATIENCE.as_secs()),
        };
        let next = format!("start it, or mend servers.{name}.url; then `manybox server check`");
        Some(Finding::new("D40", format!("servers.{name}"), reason, next))
    });
    join_all(tried).await.into_iter().flatten().collect()
}
