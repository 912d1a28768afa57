//! Hosts: what each of a server's hosts is, and how far its standbys are, as `server check` tells.

use super::{Doing, FleetError, FleetServer};
use crate::pg::{self, Connection};

/// What a host says of itself. Of standbys, whoever is not a member of `pg_read_all_stats` sees that there are some.
const QUESTION: &str = "
    SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('server_version'),
           pg_catalog.current_setting('synchronous_standby_names'),
           ARRAY(SELECT pg_catalog.concat_ws(' ', coalesce(nullif(application_name, ''), 'a standby'), state, sync_state)
                 FROM pg_catalog.pg_stat_replication ORDER BY 1)";

/// Each host and what it is, or why that can't be told. `used` is the session on the one that commands and requests are on.
pub(super) async fn look(
    server: &FleetServer,
    used: &Connection,
) -> Result<Vec<(String, Result<String, FleetError>)>, FleetError> {
    let mut seen = Vec::new();
    for (at, (host, endpoint)) in server.endpoint.hosts_apart().into_iter().enumerate() {
        let admin = server.admin()?;
        let asked = async {
            let session = pg::connect(&endpoint, admin, "postgres").await;
            let described = describe(&session.doing(|| format!("asking host {host}"))?).await?;
            Ok(if at == used.host() { format!("in use: {described}") } else { described })
        };
        seen.push((host.clone(), asked.await));
    }
    Ok(seen)
}

async fn describe(session: &Connection) -> Result<String, FleetError> {
    let doing = || "asking a host what it is".to_owned();
    let row = session.query_one(QUESTION, &[]).await.doing(doing)?;
    let is_standby: bool = row.try_get(0).doing(doing)?;
    let (version, synchronous): (String, String) =
        (row.try_get(1).doing(doing)?, row.try_get(2).doing(doing)?);
    let standbys: Vec<String> = row.try_get(3).doing(doing)?;
    let role = if is_standby { "standby" } else { "primary" };
    let mut described = format!("{role}, PostgreSQL {version}");
    if !standbys.is_empty() {
        described.push_str(&format!("; standbys: {}", standbys.join(", ")));
    }
    if !is_standby && !synchronous.is_empty() {
        described.push_str(&format!("; synchronous_standby_names = {synchronous}"));
    }
    Ok(described)
}
