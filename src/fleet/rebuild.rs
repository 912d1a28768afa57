//! Rebuild: a catalog made anew for servers whose own was lost, with the identity that they keep.

use std::collections::{BTreeMap, BTreeSet};

use super::init::{Prepared, init, init_as};
use super::{Doing, FleetError, Servers, claim, router};
use crate::settings::Settings;
use crate::vault::KeyRing;

/// Makes a catalog anew for the servers of a fleet whose catalog was lost: without tenants, and closed to routers, which serve
/// on from what they know until [`init`] opens it. Where there is one that routers may read, this is no other than [`init`].
///
/// Servers that can't be reached are left, but for the catalog's.
///
/// # Errors
/// As [`init`]; when no server keeps an identity, they keep different ones, or the master keys are not those of which the
/// routers' password was made.
pub async fn rebuild_catalog(
    settings: &Settings,
    servers: &Servers,
    keys: &KeyRing,
) -> Result<Prepared, FleetError> {
    if is_open_to_routers(settings, servers).await? {
        return init(settings, servers, keys).await;
    }
    let name = &settings.catalog.database;
    let (mut kept, mut reached): (BTreeMap<String, BTreeSet<&str>>, Vec<_>) = Default::default();
    for (server, access) in servers.iter() {
        match access.connect_admin().await {
            Ok(client) => {
                if let Some(id) = claim::kept(access, &client, name).await? {
                    kept.entry(id).or_default().insert(server);
                    reached.push(access);
                }
            }
            Err(error) if error.is_outage() && *server != *settings.catalog.server => {}
            Err(error) => return Err(error),
        }
    }
    let id = match kept.len() {
        1 => kept.into_keys().next(),
        0 => {
            return Err(FleetError::Settings(format!(
                "no server of the settings was a fleet's with catalog `{name}`, so there is nothing to rebuild: a new fleet is \
                 made with `manybox init`"
            )));
        }
        _ => {
            let whose = |(id, servers): (&String, &BTreeSet<&str>)| {
                format!("{} to {id}", servers.iter().copied().collect::<Vec<_>>().join(", "))
            };
            return Err(FleetError::Settings(format!(
                "the servers belong to different fleets ({}): take those of the other one out of the settings",
                kept.iter().map(whose).collect::<Vec<_>>().join("; ")
            )));
        }
    };
    for server in reached {
        router::refuse_wrong_key(server, keys, name, &router::login_of(name)).await?;
    }
    init_as(settings, servers, keys, id).await
}

/// Whether there is a catalog that routers may read.
async fn is_open_to_routers(settings: &Settings, servers: &Servers) -> Result<bool, FleetError> {
    let (server, name) = (servers.get(&settings.catalog.server)?, &settings.catalog.database);
    let looking = || format!("looking at the catalog `{name}`");
    let sql = "SELECT datallowconn FROM pg_catalog.pg_database WHERE datname = $1";
    let client = server.connect_admin().await?;
    let there = client.query_opt(sql, &[name]).await.doing(looking)?;
    if !there.map(|row| row.try_get::<_, bool>(0)).transpose().doing(looking)?.unwrap_or_default() {
        return Ok(false);
    }
    let sql = "SELECT COALESCE(bool_or(pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')), false)
               FROM pg_catalog.pg_namespace n, pg_catalog.pg_roles r WHERE n.nspname = 'catalog' AND r.rolname = $1";
    let inside = server.connect_admin_inside(name).await?;
    let open = inside.query_one(sql, &[&router::login_of(name)]).await.and_then(|row| row.try_get(0));
    inside.close().await;
    open.doing(looking)
}
