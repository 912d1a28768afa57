//! Standing: what is there of a catalog before anything is made, and whether the master keys are its own.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{Doing, FleetError, Servers, database, router};
use crate::settings::Settings;
use crate::vault::{KeyRing, KnownKey};

/// What is there of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// None, or one that an interrupted `init` has only begun.
    Absent,
    /// One of a version that does not know of master keys, or has not been told of one.
    Untold,
    /// One that knows the fleet's master keys.
    Keys(Vec<KnownKey>),
}

/// Looks what is there of the catalog.
///
/// # Errors
/// When its server can't be reached or refuses.
pub async fn standing(settings: &Settings, servers: &Servers) -> Result<Standing, FleetError> {
    let (server, name) = (servers.get(&settings.catalog.server)?, &settings.catalog.database);
    let client = server.connect_admin().await?;
    if !database::exists(&client, name).await? {
        return Ok(Standing::Absent);
    }
    let looking = || format!("looking at the catalog `{name}`");
    let catalog = match server.connect_admin_inside(name).await {
        Ok(catalog) => catalog,
        // Closed: it was being made.
        Err(FleetError::Server { source, .. })
            if source.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) =>
        {
            return Ok(Standing::Absent);
        }
        Err(error) => return Err(error),
    };
    let sql = "SELECT pg_catalog.to_regclass('catalog.tenant') IS NOT NULL,
                      pg_catalog.to_regclass('catalog.master_key') IS NOT NULL";
    let row = catalog.query_one(sql, &[]).await.doing(looking)?;
    match (row.try_get(0).doing(looking)?, row.try_get(1).doing(looking)?) {
        (false, _) => return Ok(Standing::Absent),
        (true, false) => return Ok(Standing::Untold),
        (true, true) => {}
    }
    let sql = "SELECT number, fingerprint, state FROM catalog.master_key ORDER BY number";
    let mut known = Vec::new();
    for row in catalog.query(sql, &[]).await.doing(looking)? {
        known.push(KnownKey {
            number: row.try_get(0).doing(looking)?,
            fingerprint: row.try_get(1).doing(looking)?,
            state: row.try_get::<_, String>(2).doing(looking)?.parse()?,
        });
    }
    Ok(if known.is_empty() { Standing::Untold } else { Standing::Keys(known) })
}

/// The fleet's identity, as its catalog has it; `None` where there is no catalog, or one of a version without.
pub(super) async fn identity(
    server: &super::FleetServer,
    client: &Client,
    catalog: &str,
) -> Result<Option<String>, FleetError> {
    if !database::exists(client, catalog).await? {
        return Ok(None);
    }
    let reading = || format!("reading the identity of the fleet in catalog `{catalog}`");
    let inside = match server.connect_admin_inside(catalog).await {
        Ok(inside) => inside,
        Err(FleetError::Server { source, .. })
            if source.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let there = inside.query_one("SELECT pg_catalog.to_regclass('catalog.fleet') IS NOT NULL", &[]).await;
    if !there.and_then(|row| row.try_get::<_, bool>(0)).doing(reading)? {
        return Ok(None);
    }
    let row = inside.query_opt("SELECT id FROM catalog.fleet", &[]).await.doing(reading)?;
    row.map(|row| row.try_get(0)).transpose().doing(reading)
}

impl Standing {
    /// Whether these master keys are the fleet's. Of a catalog that knows none the router's login is tried: its password
    /// derives from them.
    ///
    /// # Errors
    /// [`FleetError::Key`] when they are not.
    pub async fn fits(
        &self,
        settings: &Settings,
        servers: &Servers,
        keys: &KeyRing,
    ) -> Result<(), FleetError> {
        match self {
            Self::Absent => Ok(()),
            Self::Keys(known) => Ok(keys.fit(known)?),
            Self::Untold => {
                let (server, name) = (servers.get(&settings.catalog.server)?, &settings.catalog.database);
                router::refuse_wrong_key(server, keys, name, name).await
            }
        }
    }

    /// The words for what the catalog expects, where no key is there at all.
    pub fn expects(&self) -> String {
        let Self::Keys(known) = self else { return "the master key of this fleet".into() };
        let needed = known.iter().filter(|key| key.state.is_needed()).map(ToString::to_string);
        needed.collect::<Vec<_>>().join(" and ")
    }
}
