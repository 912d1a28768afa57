//! Init: the roles of every server, and the catalog with its owner and its migrator. Run again, it changes nothing.

mod journal;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::database::DatabaseRights;
use super::migrator::{Migrator, Waiting};
use super::prepare::{grant_to_admin, make_role, prepare};
use super::roles::{self, HISTORY, MIGRATORS, OWNER, catalog_journal, catalog_migrator, catalog_owner};
use super::server::{role_exists, run};
use super::standing::{identity, standing};
use super::{Doing, FleetError, Servers, Unprepared, claim, database, rights, router};
use crate::catalog::{self, Catalog};
use crate::migrate;
use crate::pg::{AdvisoryLock, Ident, Waits, literal};
use crate::settings::Settings;
use crate::vault::KeyRing;

/// The key of the lock under which a server is prepared ("manybox" in ASCII).
const LOCK: i64 = 0x6d61_6e79_626f_7800;
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// What came of an `init`.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The servers that could not be prepared.
    pub unprepared: Vec<Unprepared>,
    /// What an operator should know of the others, one sentence each.
    pub notes: Vec<String>,
}

/// Prepares every server, and makes or upgrades the catalog.
///
/// # Errors
/// When the catalog's server refuses or can't be reached, belongs to another fleet, or the master keys are not those of the
/// catalog that is there: then nothing was changed.
pub async fn init(settings: &Settings, servers: &Servers, keys: &KeyRing) -> Result<Prepared, FleetError> {
    init_as(settings, servers, keys, None).await
}

/// The same. A catalog that is `rebuilt` gets this identity, and routers may not read it: that is [`init`]'s to allow, when
/// its tenants are back.
pub(super) async fn init_as(
    settings: &Settings,
    servers: &Servers,
    keys: &KeyRing,
    rebuilt: Option<String>,
) -> Result<Prepared, FleetError> {
    standing(settings, servers).await?.fits(settings, servers, keys).await?;
    let (of_catalog, name) = (&settings.catalog.server, &settings.catalog.database);
    let server = servers.get(of_catalog)?;
    let mut prepared = Prepared::default();
    let client = server.connect_admin().await?;
    let before = match &rebuilt {
        Some(kept) => Some(kept.clone()),
        None => identity(server, &client, name).await?,
    };
    drop(client);
    let routers = rebuilt.is_none();
    let id = prepare_server(settings, server, keys, (before, routers), &mut prepared.notes).await?;
    for (other, server) in servers.iter().filter(|(other, _)| other != of_catalog) {
        if let Err(error) =
            prepare_server(settings, server, keys, (Some(id.clone()), routers), &mut prepared.notes).await
        {
            prepared.unprepared.push(Unprepared { server: other.to_owned(), error });
        }
    }
    let catalog = Catalog::open(&server.endpoint, server.admin()?, name, Waits::default()).await?;
    if let Some(kept) = &rebuilt {
        catalog.fleet_id_kept(kept).await?;
    }
    if catalog.master_keys().await?.is_empty() {
        catalog.keys_registered(&keys.as_known()).await?;
    }
    let router = router::login_of(name);
    for (name, server) in servers.iter() {
        if prepared.unprepared.iter().any(|u| u.server == name) {
            continue;
        }
        if let Err(error) = router::list_all_adopted(&catalog, server, &router).await {
            prepared.unprepared.push(Unprepared { server: name.to_owned(), error });
        }
    }
    Ok(prepared)
}

/// Makes the roles of one server, the router's login and, on its server, the catalog. Returns the fleet's identity, which
/// the server keeps from then on.
async fn prepare_server(
    settings: &Settings,
    server: &super::FleetServer,
    keys: &KeyRing,
    (id, routers): (Option<String>, bool),
    notes: &mut Vec<String>,
) -> Result<String, FleetError> {
    let (name, catalog) = (server.endpoint.name(), &settings.catalog.database);
    let client = server.connect_admin().await?;
    let lock = AdvisoryLock::acquire(&client, LOCK, LOCK_WAIT)
        .await
        .doing(|| format!("locking server `{name}`"))?
        .ok_or_else(|| FleetError::Busy(format!("server `{name}`")))?;
    let work = async {
        claim::refuse_other(server, &client, catalog, id.as_deref()).await?;
        if claim::kept(server, &client, catalog).await?.is_none() {
            notes.extend(shared(name, &claim::others(&client, catalog).await?));
        }
        prepare(server, &client, &settings.roles()).await?;
        router::prepare(server, &client, keys, catalog).await?;
        if name == settings.catalog.server {
            make_catalog(settings, server, &client, routers).await?;
        }
        let id = match id {
            Some(id) => Some(id),
            None => identity(server, &client, catalog).await?,
        };
        let id = id.ok_or_else(|| FleetError::Settings("the catalog has no identity".into()))?;
        claim::keep(server, catalog, &id).await?;
        Ok::<_, FleetError>(id)
    };
    let id = server.unhindered(work).await?;
    lock.release(&client).await.doing(|| "releasing the server's lock".into())?;
    Ok(id)
}

/// What to know where other fleets are on a server.
fn shared(server: &str, catalogs: &[String]) -> Option<String> {
    if catalogs.is_empty() {
        return None;
    }
    Some(format!(
        "server `{server}` is shared with {} other fleet(s) (catalog {}): they have the roles {OWNER}, {HISTORY}, {MIGRATORS} \
         and the API roles in common, and each counts the server's connections as its own; set budget.max_connections of both",
        catalogs.len(),
        catalogs.join(", ")
    ))
}

/// Upgrades the catalog of an earlier version, for which no master key is needed.
///
/// # Errors
/// When its server refuses or can't be reached.
pub async fn upgrade_catalog(settings: &Settings, servers: &Servers) -> Result<(), FleetError> {
    let server = servers.get(&settings.catalog.server)?;
    let client = server.connect_admin().await?;
    server.unhindered(make_catalog(settings, server, &client, true)).await
}

/// Makes or upgrades the catalog. Unless `routers` may read it, they serve on from what they know.
async fn make_catalog(
    settings: &Settings,
    server: &super::FleetServer,
    client: &tokio_postgres::Client,
    routers: bool,
) -> Result<(), FleetError> {
    let name = &settings.catalog.database;
    let router = router::login_of(name);
    // Nobody who may become the owner of tenants' objects may have a say here.
    let (owner, migrator) = (catalog_owner(name), catalog_migrator(name));
    make_role(client, &owner).await?;
    grant_to_admin(server, client, &owner).await?;
    make_role(client, &catalog_journal(name)).await?;
    if !database::exists(client, name).await? {
        database::create_closed(client, name, "template0").await?;
    }
    let rights = DatabaseRights { owner: &owner, logins: &[&router, &migrator], temporary: &[] };
    let there = role_exists(client, &migrator).await?;
    database::open(client, name, &rights, &roles::migrator(&migrator, &owner, there)).await?;

    let mut admin = server.connect_admin_inside(name).await?;
    take_from_tenants_owner(&admin, &owner).await?;
    let of_catalog = roles::of_catalog(name);
    let taken = migrate::prepare_template(&mut admin, &of_catalog, &[], 0).await;
    rights::all_taken(name, taken.doing(|| "preparing the catalog".into())?)?;
    journal::take_back(server, &admin, name).await?;
    let edition = migrate::Edition::embedded("catalog", catalog::MIGRATIONS)?;
    let options = migrate::Options { roles: of_catalog, ..migrate::Options::default() };
    let stop = CancellationToken::new();
    let waiting = Waiting { stop: &stop, activity: &options.activity };
    let mut migrator = Migrator::open(server, server.connect_admin().await?, name, migrator, waiting).await?;
    let migrated = migrator.migrate(&edition, &options, &stop).await;
    migrator.close().await?;
    migrated.map_err(|failure| FleetError::Migrate {
        doing: "upgrading the catalog".into(),
        source: Box::new(failure),
    })?;
    let made = format!(
        "INSERT INTO catalog.made (migration, by) VALUES ({newest}, {by})
         ON CONFLICT (one) DO UPDATE SET migration = excluded.migration, by = excluded.by;",
        newest = catalog::NEWEST_MIGRATION,
        by = literal(env!("CARGO_PKG_VERSION")),
    );
    run(&admin, &made).await?;
    journal::hand_over(server, &admin, name).await?;
    if !routers {
        return Ok(());
    }
    let role = Ident::new(&router);
    let grants = format!(
        "GRANT SELECT ON catalog.tenant, catalog.base_url, catalog.clock, catalog.schema, catalog.made,
             catalog.database_size TO {role};
         GRANT EXECUTE ON FUNCTION catalog.register_router, catalog.renew_lease, catalog.end_router, catalog.report_traffic,
             catalog.report_keys, catalog.forget_router_keys, catalog.claim_size_round, catalog.report_sizes TO {role};
         GRANT USAGE ON SCHEMA catalog TO {role};",
    );
    run(&admin, &grants).await
}

/// Catalogs of earlier versions belonged to the owner of tenants' objects.
async fn take_from_tenants_owner(admin: &tokio_postgres::Client, owner: &str) -> Result<(), FleetError> {
    let theirs = Ident::new(OWNER);
    let sql = format!(
        "ALTER DEFAULT PRIVILEGES FOR ROLE {theirs} GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
         REASSIGN OWNED BY {theirs} TO {}",
        Ident::new(owner)
    );
    run(admin, &sql).await
}
