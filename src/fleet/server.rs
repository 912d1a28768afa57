//! Server: where it is, who administers it, and how the control plane works there without being held up.

mod sizes;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::{Doing, FleetError};
use crate::pg::{self, Connection, Endpoint, Login};
use crate::settings::Settings;

/// The database that CREATE and DROP DATABASE are sent from.
const MAINTENANCE: &str = "postgres";

/// Oldest minor version of each major that is used, by CVE-2024-10976 (row security and role switches in cached
/// plans). 13 and 14 also had the fix, but are past their end of life, and 15 is the first with
/// `pg_database_owner`-owned `public` and CREATE DATABASE … STRATEGY.
const OLDEST_VERSIONS: [(i32, i32); 3] = [(15, 9), (16, 5), (17, 1)];

/// How long the control plane waits for a lock before it looks who has it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ends the sessions that hold a lock on something that all databases of the server share (a role, a database, a setting),
/// for which a session of ours has waited. Any tenant's code can take one and keep it: by `ALTER ROLE` of a role that it
/// may become, for itself or in another's database, in a transaction that it does not end.
const END_HOLDERS: &str = "
SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(holder.pid))
FROM pg_catalog.pg_stat_activity ours
JOIN pg_catalog.pg_locks l ON l.pid = ours.pid AND NOT l.granted AND COALESCE(l.database, 0) = 0
CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(ours.pid)) AS blocking (pid)
JOIN pg_catalog.pg_stat_activity holder ON holder.pid = blocking.pid
JOIN pg_catalog.pg_roles r ON r.oid = holder.usesysid
WHERE ours.usename = session_user AND holder.usename <> session_user AND NOT r.rolsuper";

/// A PostgreSQL server of the fleet.
#[derive(Debug, Clone)]
pub struct FleetServer {
    /// Where it is.
    pub endpoint: Endpoint,
    admin: Option<Login>,
}

/// All servers by name.
#[derive(Debug, Clone)]
pub struct Servers(BTreeMap<String, FleetServer>);

impl Servers {
    /// The servers of the settings; `embedded` is the admin URL of the private one when there are none.
    ///
    /// # Errors
    /// When a URL or a certificate can't be read.
    pub fn new(settings: &Settings, embedded: Option<&str>) -> Result<Self, FleetError> {
        let parse = |name: &str, url: &str, root_cert: Option<&std::path::Path>| {
            let (endpoint, admin) =
                Endpoint::parse(name, url, root_cert).doing(|| "reading the settings".to_owned())?;
            Ok((name.to_owned(), FleetServer { endpoint, admin }))
        };
        let mut servers = settings
            .servers
            .iter()
            .map(|(name, server)| parse(name, &server.url, server.root_cert.as_deref()))
            .collect::<Result<BTreeMap<_, _>, FleetError>>()?;
        if let Some(url) = embedded {
            servers.extend([parse("main", url, None)?]);
        }
        Ok(Self(servers))
    }

    /// The server of this name.
    ///
    /// # Errors
    /// When the settings don't have it.
    pub fn get(&self, name: &str) -> Result<&FleetServer, FleetError> {
        self.0.get(name).ok_or_else(|| {
            let known: Vec<_> = self.0.keys().map(|known| format!("`{known}`")).collect();
            FleetError::Settings(format!(
                "there is no server `{name}` in the settings; expected one of {}, or add [servers.{name}]",
                known.join(", ")
            ))
        })
    }

    /// All of them by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &FleetServer)> {
        self.0.iter().map(|(name, server)| (name.as_str(), server))
    }

    /// Their places without any credentials: what the data plane gets.
    pub fn endpoints(&self) -> std::collections::HashMap<String, Endpoint> {
        self.0.iter().map(|(name, server)| (name.clone(), server.endpoint.clone())).collect()
    }
}

impl FleetServer {
    /// The admin's login.
    ///
    /// # Errors
    /// When the server's URL has no user and password.
    pub fn admin(&self) -> Result<&Login, FleetError> {
        self.admin.as_ref().ok_or_else(|| {
            let name = self.endpoint.name();
            FleetError::Settings(format!(
                "server `{name}`: its url has no user and password; give this command the admin's by MANYBOX__SERVERS__{}__URL",
                name.to_uppercase().replace('-', "_")
            ))
        })
    }

    /// A session as the admin on the maintenance database.
    ///
    /// # Errors
    /// When the server can't be reached or refuses.
    pub async fn connect_admin(&self) -> Result<Connection, FleetError> {
        self.connect_admin_to(MAINTENANCE).await
    }

    /// A session as the admin on this database.
    ///
    /// # Errors
    /// When the server can't be reached or refuses.
    pub async fn connect_admin_to(&self, database: &str) -> Result<Connection, FleetError> {
        pg::connect(&self.endpoint, self.admin()?, database).await.doing(|| "connecting as the admin".into())
    }

    /// A session as the admin for definitions in a database that a tenant may write to. It finds PostgreSQL's own names
    /// only: an operator or a function that somebody made in `public` would run with the admin's rights.
    ///
    /// # Errors
    /// When the server can't be reached or refuses.
    pub(super) async fn connect_admin_inside(&self, database: &str) -> Result<Connection, FleetError> {
        let connection = self.connect_admin_to(database).await?;
        run(&connection, "SET search_path = pg_catalog, pg_temp").await?;
        Ok(connection)
    }

    /// Does work of the control plane on this server, and ends other sessions whose locks it waits for: nobody's
    /// transaction decides when a tenant is suspended, created or dropped.
    pub(super) async fn unhindered<T>(&self, work: impl Future<Output = T>) -> T {
        let (mut work, mut watching) = (std::pin::pin!(work), None);
        loop {
            if let Ok(done) = timeout(PATIENCE, &mut work).await {
                return done;
            }
            match self.end_holders(&mut watching).await {
                Ok(0) => {}
                Ok(ended) => tracing::warn!(
                    server = self.endpoint.name(),
                    sessions.ended = ended,
                    "sessions held locks that the control plane waited for"
                ),
                Err(error) => {
                    tracing::warn!(server = self.endpoint.name(), error = %error, "cannot look who holds locks");
                }
            }
        }
    }

    async fn end_holders(&self, watching: &mut Option<Connection>) -> Result<i64, FleetError> {
        let admin = match watching.take().filter(|watching| !watching.is_closed()) {
            Some(admin) => watching.insert(admin),
            None => watching.insert(self.connect_admin().await?),
        };
        let row = admin.query_one(END_HOLDERS, &[]).await.and_then(|row| row.try_get(0));
        row.doing(|| "ending sessions that hold locks".into())
    }
}

/// Whether the server's version is one that manybox works with.
///
/// # Errors
/// When the connection fails, or the version is older than those with the security fixes that isolation needs.
pub async fn check_version(client: &Client, server: &str) -> Result<(), FleetError> {
    version(client, server).await.map(drop)
}

/// The server's version as (major, minor).
///
/// # Errors
/// As [`check_version`].
pub(super) async fn version(client: &Client, server: &str) -> Result<(i32, i32), FleetError> {
    let row = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .doing(|| format!("asking server `{server}` for its version"))?;
    let number: i32 = row.try_get(0).doing(|| "reading the server's version".into())?;
    let (major, minor) = (number / 10_000, number % 10_000);
    if !is_supported(major, minor) {
        return Err(FleetError::Settings(format!(
            "server `{server}` is PostgreSQL {major}.{minor}; manybox needs 15.9, 16.5, 17.1 or newer: older ones lack \
             the fix of CVE-2024-10976 or are past their end of life"
        )));
    }
    Ok((major, minor))
}

/// Whether a version has the security fixes that isolation needs.
pub(super) fn is_supported(major: i32, minor: i32) -> bool {
    let oldest = OLDEST_VERSIONS.iter().find(|(m, _)| *m == major);
    major >= OLDEST_VERSIONS[0].0 && oldest.is_none_or(|(_, oldest)| minor >= *oldest)
}

/// Whether a role of this name is there.
pub(super) async fn role_exists(client: &Client, role: &str) -> Result<bool, FleetError> {
    client
        .query_opt("SELECT FROM pg_catalog.pg_roles WHERE rolname = $1", &[&role])
        .await
        .map(|row| row.is_some())
        .doing(|| format!("looking for role `{role}`"))
}

/// Runs a utility statement that takes no parameters.
pub(super) async fn run(client: &Client, sql: &str) -> Result<(), FleetError> {
    // The first words say enough; the rest may hold a verifier.
    client.batch_execute(sql).await.doing(|| sql.split(" PASSWORD ").next().unwrap_or_default().to_owned())
}
