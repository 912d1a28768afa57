//! Check: whether a server has what manybox needs and nothing that it must not have, by its catalogs alone; and a trial of
//! all of it on a scratch database, which changes the server.

use super::database::DatabaseRights;
use super::prepare::{backup_remedy, check_backup, prepare};
use super::roles::{self, BACKUP, HISTORY, MIGRATORS, OWNER, migrator_of};
use super::server::{role_exists, run, version};
use super::standing::identity;
use super::{Doing, FleetError, FleetServer, claim, database, hosts, rights};
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

impl Finding {
    fn new(trial: impl Into<String>, wrong: Option<(String, String)>) -> Self {
        let ok = wrong.is_none();
        let (message, remedy) = wrong.unwrap_or_default();
        Self { trial: trial.into(), ok, message, remedy }
    }
}

/// What the admin is and may do, and databases that PUBLIC may connect to, as trial, whether it fails, what was seen and what
/// mends it. $1: the roles that manybox makes or may find; $2: those that the admin must be able to become; $3: the catalog.
const QUESTIONS: &str = include_str!("check.sql");

/// Looks at one server, and changes nothing. A server that can't be reached is a finding.
pub async fn check(settings: &Settings, server: &FleetServer) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = look(settings, server, &mut findings).await {
        let remedy = "see whether the server is up, and whether its url is right".to_owned();
        findings.push(Finding::new("look at it", Some((error.to_string(), remedy))));
    }
    findings
}

async fn look(
    settings: &Settings,
    server: &FleetServer,
    findings: &mut Vec<Finding>,
) -> Result<(), FleetError> {
    let (name, catalog) = (server.endpoint.name(), &settings.catalog.database);
    let client = server.connect_admin().await?;
    // A host that does not answer is a failure: where it was to take over, nobody will.
    let hosts = hosts::look(server, &client).await?.into_iter();
    findings.extend(hosts.map(|(host, seen)| Finding {
        trial: format!("host {host}"),
        ok: seen.is_ok(),
        message: seen.unwrap_or_else(|error| error.to_string()),
        remedy: String::new(),
    }));
    let upgrade = |error: FleetError| (error.to_string(), "upgrade PostgreSQL".to_owned());
    let old = version(&client, name).await.err().map(upgrade);
    findings.push(Finding::new("version with the security fixes", old));
    let shared = [OWNER, HISTORY, MIGRATORS].map(str::to_owned);
    let roles: Vec<_> = shared.iter().cloned().chain(settings.roles()).collect();
    let becomes = [OWNER, HISTORY].map(str::to_owned);
    let looking = || format!("looking at server `{name}`");
    let rows = client.query(QUESTIONS, &[&roles, &&becomes[..], &catalog]).await.doing(looking)?;
    for row in rows {
        let (trial, wrong): (String, bool) = (row.try_get(0).doing(looking)?, row.try_get(1).doing(looking)?);
        let (seen, remedy): (String, String) =
            (row.try_get(2).doing(looking)?, row.try_get(3).doing(looking)?);
        findings.push(Finding::new(trial, wrong.then_some((seen, remedy))));
    }
    let there = role_exists(&client, BACKUP).await?;
    let admin = &server.admin()?.user;
    let unread =
        check_backup(server, &client).await.err().map(|e| (e.to_string(), backup_remedy(admin, there)));
    findings.push(Finding::new("read tenants whole, for backups", unread));
    let others = claim::others(&client, catalog).await?;
    let seen = || {
        let seen = format!("so have the routers of other fleets, with these catalogs: {}", others.join(", "));
        let remedy = "give each fleet a server of its own, or divide it by budget.max_connections of both";
        (seen, remedy.to_owned())
    };
    let shared = (!others.is_empty()).then(seen);
    findings.push(Finding::new("only this fleet's routers have a login here", shared));
    let kept = claim::kept(server, &client, catalog).await?;
    // Asked of the catalog's server, which may be another one.
    let other = match kept {
        Some(kept) if name == settings.catalog.server => {
            let ours = identity(server, &client, catalog).await?;
            (ours.as_ref() != Some(&kept)).then(|| {
                let seen = match ours {
                    Some(ours) => format!("it belongs to fleet {kept}, this one is {ours}"),
                    None => format!("it belongs to fleet {kept}, whose catalog `{catalog}` is not here"),
                };
                let remedy = format!(
                    "restore the catalog of that fleet from its backup, or run `manybox server claim {name}` if it is gone"
                );
                (seen, remedy)
            })
        }
        _ => None,
    };
    findings.push(Finding::new("it belongs to this fleet, or to none", other));
    Ok(())
}

/// Makes the roles that are missing on one server, and tries everything there on a scratch database, cleaning up after
/// itself. Stops at the first trial that later ones build on.
///
/// # Errors
/// When the server can't be reached as its admin, or belongs to another fleet.
pub async fn try_out(settings: &Settings, server: &FleetServer) -> Result<Vec<Finding>, FleetError> {
    let client = server.connect_admin().await?;
    let (name, catalog) = (server.endpoint.name(), &settings.catalog.database);
    if name == settings.catalog.server {
        let ours = identity(server, &client, catalog).await?;
        claim::refuse_other(server, &client, catalog, ours.as_deref()).await?;
    }
    let admin = Ident::new(&server.admin()?.user);
    let scratch = format!("mb_check_{}", TenantId::random()?);
    let scratch_ident = Ident::new(&scratch);
    let mut findings = Vec::new();
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
