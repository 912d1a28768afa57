//! Init: the roles of every server, and the catalog with its owner and its migrator. Run again, it changes nothing.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::database::DatabaseRights;
use super::migrator::{Migrator, Waiting};
use super::prepare::{grant_to_admin, make_role, prepare};
use super::roles::{self, OWNER, catalog_migrator, catalog_owner};
use super::server::{role_exists, run};
use super::{Doing, FleetError, Servers, database, rights, router};
use crate::catalog::{self, Catalog};
use crate::migrate;
use crate::pg::{AdvisoryLock, Ident, Waits, literal};
use crate::settings::Settings;
use crate::vault::KeyRing;

/// The key of the lock under which a server is prepared ("manybox" in ASCII).
const LOCK: i64 = 0x6d61_6e79_626f_7800;
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// Prepares every server, and makes or upgrades the catalog.
///
/// # Errors
/// When a server is too old, refuses or can't be reached.
pub async fn init(settings: &Settings, servers: &Servers, keys: &KeyRing) -> Result<(), FleetError> {
    for (name, server) in servers.iter() {
        let client = server.connect_admin().await?;
        let lock = AdvisoryLock::acquire(&client, LOCK, LOCK_WAIT)
            .await
            .doing(|| format!("locking server `{name}`"))?
            .ok_or_else(|| FleetError::Busy(format!("server `{name}`")))?;
        let work = async {
            prepare(server, &client, &settings.roles()).await?;
            router::prepare(server, &client, keys, &settings.catalog.database).await?;
            if name == settings.catalog.server {
                make_catalog(settings, server, &client, keys).await?;
            }
            Ok::<_, FleetError>(())
        };
        server.unhindered(work).await?;
        lock.release(&client).await.doing(|| "releasing the server's lock".into())?;
    }
    let (server, name) = (servers.get(&settings.catalog.server)?, &settings.catalog.database);
    let catalog = Catalog::open(&server.endpoint, server.admin()?, name, Waits::default()).await?;
    let router = keys.newest().router_login(name).user;
    for (_, server) in servers.iter() {
        router::list_all_adopted(&catalog, server, &router).await?;
    }
    Ok(())
}

async fn make_catalog(
    settings: &Settings,
    server: &super::FleetServer,
    client: &tokio_postgres::Client,
    keys: &KeyRing,
) -> Result<(), FleetError> {
    let name = &settings.catalog.database;
    let router = keys.newest().router_login(name);
    // Nobody who may become the owner of tenants' objects may have a say here.
    let (owner, migrator) = (catalog_owner(name), catalog_migrator(name));
    make_role(client, &owner).await?;
    grant_to_admin(server, client, &owner).await?;
    if !database::exists(client, name).await? {
        database::create_closed(client, name, "template0").await?;
    }
    let rights = DatabaseRights { owner: &owner, logins: &[&router.user, &migrator], temporary: &[] };
    let there = role_exists(client, &migrator).await?;
    database::open(client, name, &rights, &roles::migrator(&migrator, &owner, there)).await?;

    let mut admin = server.connect_admin_inside(name).await?;
    take_from_tenants_owner(&admin, &owner).await?;
    let of_catalog = roles::of_catalog(name);
    let taken = migrate::prepare_template(&mut admin, &of_catalog, &[], 0).await;
    rights::all_taken(name, taken.doing(|| "preparing the catalog".into())?)?;
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
    let role = Ident::new(&router.user);
    let grants = format!(
        "GRANT USAGE ON SCHEMA catalog TO {role};
         GRANT SELECT ON catalog.tenant, catalog.base_url, catalog.clock, catalog.schema, catalog.made TO {role};
         GRANT EXECUTE ON FUNCTION catalog.register_router, catalog.renew_lease, catalog.end_router, catalog.report_traffic
             TO {role};
         INSERT INTO catalog.made (migration, by) VALUES ({newest}, {by})
         ON CONFLICT (one) DO UPDATE SET migration = excluded.migration, by = excluded.by;",
        newest = catalog::NEWEST_MIGRATION,
        by = literal(env!("CARGO_PKG_VERSION")),
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
