//! Prepare: the roles that every server of the fleet has.

use tokio_postgres::Client;

use super::roles::{HISTORY, MIGRATORS, OWNER};
use super::server::{role_exists, run, version};
use super::{Doing, FleetError, FleetServer, database};
use crate::pg::Ident;

/// Makes the roles that every server of the fleet has: the owner of tenants' objects, the owner of their histories, the
/// group of the migrators, the API roles. What is there stays as it is, but for the one migrator that fleets had before
/// there was one for each database: it is closed, and its sessions end.
pub(super) async fn prepare(
    server: &FleetServer,
    client: &Client,
    api_roles: &[String],
) -> Result<(), FleetError> {
    let name = server.endpoint.name();
    version(client, name).await?;
    for role in [OWNER, HISTORY, MIGRATORS].into_iter().chain(api_roles.iter().map(String::as_str)) {
        make_role(client, role).await?;
    }
    let open = "SELECT FROM pg_catalog.pg_roles WHERE rolname = $1 AND rolcanlogin";
    let open = client.query_opt(open, &[&MIGRATORS]).await.doing(|| "looking at the migrators".into())?;
    if open.is_some() {
        let sql = format!("ALTER ROLE {} NOLOGIN NOINHERIT PASSWORD NULL", Ident::new(MIGRATORS));
        run(client, &sql).await?;
        database::terminate(client, MIGRATORS).await?;
    }
    grant(client, OWNER, MIGRATORS).await?;
    for role in [OWNER, HISTORY] {
        grant_to_admin(server, client, role).await?;
    }
    Ok(())
}

/// Makes a role that nobody logs in as, unless it is there.
pub(super) async fn make_role(client: &Client, role: &str) -> Result<(), FleetError> {
    if role_exists(client, role).await? {
        return Ok(());
    }
    run(client, &format!("CREATE ROLE {} NOLOGIN NOINHERIT", Ident::new(role))).await
}

/// Makes one role a member of another, unless it is one.
pub(super) async fn grant(client: &Client, role: &str, to: &str) -> Result<(), FleetError> {
    grant_if_missing(client, role, to, "MEMBER", "").await
}

/// Lets the admin do what the role may, without becoming it first.
pub(super) async fn grant_to_admin(
    server: &FleetServer,
    client: &Client,
    role: &str,
) -> Result<(), FleetError> {
    let (major, _) = version(client, server.endpoint.name()).await?;
    // 16 and later: whoever creates a role administers it but neither inherits from it nor may become it.
    let options = if major >= 16 { " WITH SET TRUE, INHERIT TRUE" } else { "" };
    grant_if_missing(client, role, &server.admin()?.user, "USAGE", options).await
}

/// Makes a role a member of another, unless it is one in this way (`MEMBER`, or `USAGE`: without SET ROLE).
async fn grant_if_missing(
    client: &Client,
    role: &str,
    to: &str,
    way: &str,
    options: &str,
) -> Result<(), FleetError> {
    let member = client
        .query_one("SELECT pg_catalog.pg_has_role($1::name, $2::name, $3)", &[&to, &role, &way])
        .await
        .and_then(|row| row.try_get::<_, bool>(0))
        .doing(|| format!("asking whether `{to}` is a member of `{role}`"))?;
    if !member {
        run(client, &format!("GRANT {} TO {}{options}", Ident::new(role), Ident::new(to))).await?;
    }
    Ok(())
}
