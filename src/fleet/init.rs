//! Init: the roles of every server, and the catalog. Run again, it changes nothing.

use std::time::Duration;

use super::server::{OWNER, prepare, run};
use super::{Doing, FleetError, Servers, database, router};
use crate::catalog::{self, Catalog};
use crate::migrate;
use crate::pg::{AdvisoryLock, Ident, Waits};
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
        prepare(server, &client, &settings.roles()).await?;
        router::prepare(server, &client, keys, &settings.catalog.database).await?;
        if name == settings.catalog.server {
            make_catalog(settings, server, &client, keys).await?;
        }
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
    if !database::exists(client, name).await? {
        database::create_closed(client, name, "template0").await?;
    }
    database::open(client, name, &[&router.user]).await?;

    let admin = server.connect_admin_to(name).await?;
    migrate::prepare_template(&admin, OWNER, &[]).await.doing(|| "preparing the catalog".into())?;
    let edition = migrate::Edition::embedded("catalog", catalog::MIGRATIONS)?;
    let mut migrator = server.connect_migrator(name).await?;
    let options = migrate::Options { owner: OWNER.to_owned(), ..migrate::Options::default() };
    migrate::migrate(&mut migrator, &edition, &options).await.map_err(|failure| FleetError::Migrate {
        doing: "upgrading the catalog".into(),
        source: Box::new(failure),
    })?;
    let role = Ident::new(&router.user);
    let grants = format!(
        "GRANT USAGE ON SCHEMA catalog TO {role};
         GRANT SELECT ON catalog.tenant, catalog.base_url, catalog.clock, catalog.schema TO {role};
         GRANT EXECUTE ON FUNCTION catalog.renew_lease, catalog.end_leases TO {role};"
    );
    run(&admin, &grants).await
}
