//! Check: tries on a scratch database everything manybox will need of a server, and names the GRANT that is missing.

use super::database::DatabaseRights;
use super::prepare::prepare;
use super::roles::{self, HISTORY, MIGRATORS, OWNER, migrator_of};
use super::server::{run, version};
use super::{Doing, FleetError, FleetServer, database, hosts, rights};
use crate::pg::{Ident, literal};
use crate::settings::Settings;
use crate::tenant::TenantId;

/// The outcome of one trial.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Finding {
    /// What was tried.
    pub trial: String,
    /// Whether it worked.
    pub ok: bool,
    /// The server's words, when it did not.
    pub message: String,
    /// The statement that a superuser runs to mend it; empty when there is none.
    pub remedy: String,
}

/// Tries everything on one server, cleaning up after itself. Stops at the first trial that later ones build on.
///
/// # Errors
/// When the server can't be reached as its admin.
pub async fn check(settings: &Settings, server: &FleetServer) -> Result<Vec<Finding>, FleetError> {
    let client = server.connect_admin().await?;
    let name = server.endpoint.name();
    let admin = Ident::new(&server.admin()?.user);
    let scratch = format!("mb_check_{}", TenantId::random()?);
    let scratch_ident = Ident::new(&scratch);
    // A host that does not answer is a failure: where it was to take over, nobody will.
    let hosts = hosts::look(server, &client).await?.into_iter();
    let mut findings: Vec<_> = hosts
        .map(|(host, seen)| Finding {
            trial: format!("host {host}"),
            ok: seen.is_ok(),
            message: seen.unwrap_or_else(|error| error.to_string()),
            remedy: String::new(),
        })
        .collect();
    let mut note = |trial: &str, outcome: Result<(), FleetError>, remedy: String| {
        let ok = outcome.is_ok();
        findings.push(Finding {
            trial: trial.to_owned(),
            ok,
            message: outcome.err().map(|e| e.to_string()).unwrap_or_default(),
            remedy: if ok { String::new() } else { remedy },
        });
        ok
    };

    let current = version(&client, name).await;
    let major = current.as_ref().map_or(0, |v| v.0);
    note("version with the security fixes", current.map(drop), "upgrade PostgreSQL".into());
    let superuser = client
        .query_one("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user", &[])
        .await
        .and_then(|row| row.try_get::<_, bool>(0))
        .doing(|| "looking at the admin's role".into())?;
    let not_super = if superuser {
        Err(FleetError::Settings(
            "the admin is a superuser: nothing on this server would be kept from it".into(),
        ))
    } else {
        Ok(())
    };
    note(
        "the admin is no superuser",
        not_super,
        format!("ALTER ROLE {admin} NOSUPERUSER CREATEDB CREATEROLE;"),
    );
    let roles = prepare(server, &client, &settings.roles()).await;
    let set = if major >= 16 { " WITH SET TRUE, INHERIT TRUE" } else { "" };
    note(
        "roles: owners, migrators, API roles",
        roles,
        format!("ALTER ROLE {admin} CREATEROLE; GRANT {OWNER}, {HISTORY} TO {admin}{set};"),
    );
    let login = run(
        &client,
        &format!(
            "CREATE ROLE {scratch_ident} LOGIN NOINHERIT CONNECTION LIMIT 1 PASSWORD {}",
            literal(&scratch)
        ),
    )
    .await;
    note("create a tenant's login", login, format!("ALTER ROLE {admin} CREATEROLE;"));
    for role in &settings.roles() {
        let role = Ident::new(role);
        let remedy = format!("GRANT {role} TO {admin} WITH ADMIN OPTION;");
        note(
            &format!("make it a member of {role}"),
            run(&client, &format!("GRANT {role} TO {scratch_ident}")).await,
            remedy,
        );
    }
    let created = database::create_closed(&client, &scratch, "template0").await;
    if note("create a database, closed", created, format!("ALTER ROLE {admin} CREATEDB;")) {
        let migrator = migrator_of(&scratch);
        let temporary = [OWNER.to_owned()];
        let rights = DatabaseRights { owner: OWNER, logins: &[&scratch, &migrator], temporary: &temporary };
        let opened =
            database::open(&client, &scratch, &rights, &roles::migrator(&migrator, MIGRATORS, false)).await;
        note("set its ACL and open it", opened, format!("ALTER DATABASE {scratch_ident} OWNER TO {admin};"));
        let inside = try_template(settings, server, &scratch, &mut note).await;
        note(
            "work in it as admin and as migrator",
            inside,
            format!("GRANT {OWNER}, {HISTORY} TO {admin}{set}; GRANT {OWNER} TO {MIGRATORS};"),
        );
    }
    let signal = "SELECT pg_catalog.pg_has_role(current_user, 'pg_signal_backend', 'USAGE')";
    let signal = client.query_one(signal, &[]).await.and_then(|row| row.try_get::<_, bool>(0));
    let signal = signal.doing(|| "looking at the admin's role".into())?;
    let signal = if signal {
        Ok(())
    } else {
        Err(FleetError::Settings("the admin may not end tenants' sessions".into()))
    };
    note("end a tenant's sessions", signal, format!("GRANT pg_signal_backend TO {admin};"));
    note("close and drop the database", database::drop(&client, &scratch).await, String::new());
    note(
        "drop the login",
        run(&client, &format!("DROP ROLE IF EXISTS {scratch_ident}")).await,
        String::new(),
    );
    for database in ["postgres", "template1"] {
        let open: bool = client
            .query_one("SELECT pg_catalog.has_database_privilege('public', $1, 'CONNECT')", &[&database])
            .await
            .and_then(|row| row.try_get(0))
            .doing(|| format!("looking at database `{database}`"))?;
        let closed = if open {
            Err(FleetError::Settings("every tenant's login can connect to it".into()))
        } else {
            Ok(())
        };
        note(
            &format!("`{database}` is closed to PUBLIC"),
            closed,
            format!(
                "REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC; GRANT CONNECT ON DATABASE {database} TO {admin};"
            ),
        );
    }
    Ok(findings)
}

async fn try_template(
    settings: &Settings,
    server: &FleetServer,
    scratch: &str,
    note: &mut impl FnMut(&str, Result<(), FleetError>, String) -> bool,
) -> Result<(), FleetError> {
    let mut admin = server.connect_admin_inside(scratch).await?;
    let taken =
        crate::migrate::prepare_template(&mut admin, &roles::of_tenants(), &settings.roles(), 0).await;
    rights::all_taken(scratch, taken.doing(|| "preparing a template".into())?)?;
    let wanted: std::collections::BTreeSet<_> =
        settings.editions.values().flat_map(|e| &e.extensions).collect();
    for extension in wanted {
        let ident = Ident::new(extension);
        let made =
            run(&admin, &format!("CREATE EXTENSION IF NOT EXISTS {ident} WITH SCHEMA extensions")).await;
        note(
            &format!("create extension {ident}"),
            made,
            format!(
                "install its package on the server; an extension that is not trusted can't be an edition's ({ident})"
            ),
        );
    }
    admin.close().await;
    let migrator = server.migrator(scratch).await?;
    run(&migrator, &format!("SET ROLE {OWNER}")).await?;
    run(&migrator, "CREATE TABLE public.manybox_check (a int)").await?;
    migrator.close().await
}
