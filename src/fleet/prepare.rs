//! Prepare: the roles that every server of the fleet has.

use tokio_postgres::Client;

use super::roles::{BACKUP, HISTORY, MIGRATORS, OWNER};
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
    if role_exists(client, BACKUP).await? {
        // `pg_read_all_data` says nothing of large objects: those are read by the rights of their owners.
        for role in std::iter::once(OWNER).chain(api_roles.iter().map(String::as_str)) {
            grant(client, role, BACKUP).await?;
        }
    }
    Ok(())
}

/// Whether the role is there that reads whole databases, as the set-up of a server makes it. The admin can't: that takes a
/// superuser.
///
/// # Errors
/// When it is not, with the statement that makes it; or the server can't be asked.
pub(super) async fn check_backup(server: &FleetServer, client: &Client) -> Result<(), FleetError> {
    let sql = "SELECT r.rolbypassrls AND NOT r.rolcanlogin AND r.rolinherit AND NOT r.rolsuper
                      AND pg_catalog.pg_has_role(r.oid, 'pg_read_all_data', 'USAGE')
                      AND EXISTS (SELECT FROM pg_catalog.pg_auth_members m
                                  WHERE m.roleid = r.oid AND m.member = session_user::pg_catalog.regrole AND m.admin_option)
               FROM pg_catalog.pg_roles r WHERE r.rolname = $1";
    let row = client.query_opt(sql, &[&BACKUP]).await.doing(|| format!("looking at role `{BACKUP}`"))?;
    let good = row.map(|row| row.try_get::<_, bool>(0)).transpose().doing(|| "reading roles".into())?;
    let (name, remedy) = (server.endpoint.name(), backup_remedy(&server.admin()?.user, good.is_some()));
    let why = match good {
        Some(true) => return Ok(()),
        Some(false) => "is not as it must be",
        None => "is not there",
    };
    Err(FleetError::Settings(format!(
        "server `{name}`: role `{BACKUP}`, which reads tenants' databases whole for backups and copies, {why}; as a \
         superuser: {remedy}"
    )))
}

/// The statements by which a superuser makes the role that reads whole databases, or mends it where it is `there`.
pub(super) fn backup_remedy(admin: &str, there: bool) -> String {
    let admin = Ident::new(admin);
    if there {
        format!(
            "ALTER ROLE {BACKUP} NOLOGIN INHERIT NOSUPERUSER BYPASSRLS; GRANT pg_read_all_data TO {BACKUP}; GRANT {BACKUP} TO \
             {admin} WITH ADMIN OPTION;"
        )
    } else {
        format!("CREATE ROLE {BACKUP} NOLOGIN BYPASSRLS IN ROLE pg_read_all_data ADMIN {admin};")
    }
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
