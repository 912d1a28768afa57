//! Server: where it is, who administers it, and the roles every server of the fleet has.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::{Doing, FleetError};
use crate::pg::{self, Connection, Endpoint, Ident, Login, literal};
use crate::settings::Settings;
use crate::vault::migrator_login;

/// The role that owns schemas and objects in tenant databases. NOLOGIN.
pub const OWNER: &str = "mb_owner";
/// The role that migrations log in as, a member of [`OWNER`] and of nothing else.
pub const MIGRATOR: &str = "mb_migrator";

/// The database that CREATE and DROP DATABASE are sent from.
const MAINTENANCE: &str = "postgres";

/// Oldest minor version of each major that is used, by CVE-2024-10976 (row security and role switches in cached
/// plans). 13 and 14 also had the fix, but are past their end of life, and 15 is the first with
/// `pg_database_owner`-owned `public` and CREATE DATABASE … STRATEGY.
const OLDEST_VERSIONS: [(i32, i32); 3] = [(15, 9), (16, 5), (17, 1)];

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
            FleetError::Settings(format!("there is no server `{name}` in the settings; add [servers.{name}]"))
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
                name.to_uppercase()
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

    /// A session as the migrator on this database.
    ///
    /// # Errors
    /// When the server can't be reached or refuses; after a change of the admin's password `manybox init` sets the
    /// migrator's anew.
    pub async fn connect_migrator(&self, database: &str) -> Result<Connection, FleetError> {
        let login = migrator_login(self.admin()?, MIGRATOR);
        pg::connect(&self.endpoint, &login, database).await.doing(|| {
            "connecting as the migrator (if the admin's password was changed, run `manybox init`)".into()
        })
    }
}

/// The server's version as (major, minor).
///
/// # Errors
/// When the connection fails, or the version is older than those with the security fixes that isolation needs.
pub(super) async fn version(client: &Client, server: &str) -> Result<(i32, i32), FleetError> {
    let row = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .doing(|| format!("asking server `{server}` for its version"))?;
    let number: i32 = row.try_get(0).doing(|| "reading the server's version".into())?;
    let (major, minor) = (number / 10_000, number % 10_000);
    let oldest = OLDEST_VERSIONS.iter().find(|(m, _)| *m == major);
    if major < OLDEST_VERSIONS[0].0 || oldest.is_some_and(|(_, oldest)| minor < *oldest) {
        return Err(FleetError::Settings(format!(
            "server `{server}` is PostgreSQL {major}.{minor}; manybox needs 15.9, 16.5, 17.1 or newer: older ones lack \
             the fix of CVE-2024-10976 or are past their end of life"
        )));
    }
    Ok((major, minor))
}

/// Whether a role of this name is there.
pub(super) async fn role_exists(client: &Client, role: &str) -> Result<bool, FleetError> {
    client
        .query_opt("SELECT FROM pg_catalog.pg_roles WHERE rolname = $1", &[&role])
        .await
        .map(|row| row.is_some())
        .doing(|| format!("looking for role `{role}`"))
}

/// Makes the roles that every server of the fleet has: owner, migrator, API roles. What is there stays as it is, but
/// for the migrator's password, which follows the admin's.
pub(super) async fn prepare(
    server: &FleetServer,
    client: &Client,
    api_roles: &[String],
) -> Result<(), FleetError> {
    let name = server.endpoint.name();
    let (major, _) = version(client, name).await?;
    for role in [OWNER].into_iter().chain(api_roles.iter().map(String::as_str)) {
        if !role_exists(client, role).await? {
            run(client, &format!("CREATE ROLE {} NOLOGIN", Ident::new(role))).await?;
        }
    }
    let admin = server.admin()?;
    let migrator = migrator_login(admin, MIGRATOR);
    let verifier = migrator.verifier()?;
    let verb = if role_exists(client, MIGRATOR).await? { "ALTER" } else { "CREATE" };
    let migrator = Ident::new(MIGRATOR);
    run(client, &format!("{verb} ROLE {migrator} LOGIN NOINHERIT PASSWORD {}", literal(&verifier))).await?;
    grant_if_missing(client, MIGRATOR, "MEMBER", "").await?;
    // 16 and later: whoever creates a role administers it but neither inherits from it nor may become it.
    let options = if major >= 16 { " WITH SET TRUE, INHERIT TRUE" } else { "" };
    grant_if_missing(client, &admin.user, "USAGE", options).await
}

/// Makes a role a member of the owner, unless it is one in this way (`MEMBER`, or `USAGE`: without SET ROLE).
async fn grant_if_missing(client: &Client, to: &str, way: &str, options: &str) -> Result<(), FleetError> {
    let member = client
        .query_one("SELECT pg_catalog.pg_has_role($1::name, $2::name, $3)", &[&to, &OWNER, &way])
        .await
        .and_then(|row| row.try_get::<_, bool>(0))
        .doing(|| format!("asking whether `{to}` is a member of `{OWNER}`"))?;
    if !member {
        run(client, &format!("GRANT {} TO {}{options}", Ident::new(OWNER), Ident::new(to))).await?;
    }
    Ok(())
}

/// Runs a utility statement that takes no parameters.
pub(super) async fn run(client: &Client, sql: &str) -> Result<(), FleetError> {
    // The first words say enough; the rest may hold a verifier.
    client.batch_execute(sql).await.doing(|| sql.split(" PASSWORD ").next().unwrap_or_default().to_owned())
}
