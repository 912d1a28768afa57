//! Claim: whose a server is. Each server keeps its fleet's identity, so that a second fleet notices before it takes over the
//! login of the first one's routers.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::server::run;
use super::standing::identity;
use super::{Doing, FleetError, FleetServer, Servers, database, router};
use crate::pg::literal;
use crate::settings::Settings;

/// The identity that a server keeps; `None` when it keeps none. It stands in the database of the router's login, which
/// nobody but the admin and that login may connect to.
pub(super) async fn kept(
    server: &FleetServer,
    client: &Client,
    catalog: &str,
) -> Result<Option<String>, FleetError> {
    let name = router::login_of(catalog);
    if !database::exists(client, &name).await? {
        return Ok(None);
    }
    let reading = || format!("reading whose server `{}` is", server.endpoint.name());
    let inside = match server.connect_admin_inside(&name).await {
        Ok(inside) => inside,
        // Closed: it was being made.
        Err(FleetError::Server { source, .. })
            if source.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let there = inside.query_one("SELECT pg_catalog.to_regclass('public.fleet') IS NOT NULL", &[]).await;
    if !there.and_then(|row| row.try_get::<_, bool>(0)).doing(reading)? {
        return Ok(None);
    }
    let row = inside.query_opt("SELECT id FROM public.fleet", &[]).await.doing(reading)?;
    row.map(|row| row.try_get(0)).transpose().doing(reading)
}

/// Refuses a server that keeps another identity than this fleet's; `None` is that of a fleet without a catalog.
pub(super) async fn refuse_other(
    server: &FleetServer,
    client: &Client,
    catalog: &str,
    ours: Option<&str>,
) -> Result<(), FleetError> {
    let Some(kept) = kept(server, client, catalog).await?.filter(|kept| Some(kept.as_str()) != ours) else {
        return Ok(());
    };
    let name = server.endpoint.name();
    let whose = match ours {
        Some(ours) => format!("this one is {ours}, and has the same catalog.database"),
        None => format!("and this one has no catalog `{catalog}` yet"),
    };
    Err(FleetError::Settings(format!(
        "server `{name}` belongs to fleet {kept}; {whose}. Nothing was changed on it. Give this fleet another \
         catalog.database; or, if the other one is gone, run `manybox server claim {name}`; if its catalog was lost, restore \
         that from its backup, or make it anew with `manybox doctor --rebuild-catalog`"
    )))
}

/// Refuses, where there is no catalog, a catalog's server that belongs to a fleet: its catalog was lost, or it is another's.
///
/// # Errors
/// That it does, or that it can't be asked.
pub async fn refuse_claimed(settings: &Settings, servers: &Servers) -> Result<(), FleetError> {
    let server = servers.get(&settings.catalog.server)?;
    let client = server.connect_admin().await?;
    refuse_other(server, &client, &settings.catalog.database, None).await
}

/// Has a server keep this identity.
pub(super) async fn keep(server: &FleetServer, catalog: &str, id: &str) -> Result<(), FleetError> {
    let inside = server.connect_admin_inside(&router::login_of(catalog)).await?;
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS public.fleet (one boolean PRIMARY KEY DEFAULT true CHECK (one), id text NOT NULL);
         REVOKE ALL ON TABLE public.fleet FROM PUBLIC;
         INSERT INTO public.fleet (id) VALUES ({0}) ON CONFLICT (one) DO UPDATE SET id = excluded.id WHERE fleet.id <> {0}",
        literal(id)
    );
    run(&inside, &sql).await
}

/// Has a server forget whose it is, so that `init` may take it. Returns the identity that it kept.
///
/// # Errors
/// When there is no such server, it refuses, or it is this fleet's.
pub async fn release(
    settings: &Settings,
    servers: &Servers,
    name: &str,
) -> Result<Option<String>, FleetError> {
    let (server, catalog) = (servers.get(name)?, &settings.catalog.database);
    let client = server.connect_admin().await?;
    let kept = kept(server, &client, catalog).await?;
    if let Some(kept) = &kept {
        let of_catalog = servers.get(&settings.catalog.server)?;
        let client = of_catalog.connect_admin().await?;
        let ours = identity(of_catalog, &client, catalog).await?;
        if ours.as_ref() == Some(kept) {
            return Err(FleetError::Settings(format!(
                "server `{name}` belongs to this fleet, {kept}; nothing was changed"
            )));
        }
        let inside = server.connect_admin_inside(&router::login_of(catalog)).await?;
        run(&inside, "DELETE FROM public.fleet").await?;
    }
    Ok(kept)
}

/// The catalogs of other fleets whose routers have a login on this server.
pub(super) async fn others(client: &Client, catalog: &str) -> Result<Vec<String>, FleetError> {
    let sql = "SELECT pg_catalog.regexp_replace(d.datname, '_router$', '')
               FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.rolname = d.datname
               WHERE d.datname ~ '_router$' AND r.rolcanlogin AND d.datname <> $1 ORDER BY 1";
    let reading = || "looking for other fleets".to_owned();
    let rows = client.query(sql, &[&router::login_of(catalog)]).await.doing(reading)?;
    rows.iter().map(|row| row.try_get(0).doing(reading)).collect()
}
