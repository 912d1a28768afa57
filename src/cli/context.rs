//! Context: what every command needs: settings, servers (a private one if none is set), keys, the fleet.

use std::sync::Arc;

use super::{Done, Failure};
use crate::embedded::{self, Embedded};
use crate::fleet::{self, Fleet, Servers};
use crate::settings::Settings;
use crate::vault::KeyRing;

pub(super) struct Context {
    pub(super) settings: Settings,
    pub(super) servers: Servers,
    pub(super) embedded: Option<Embedded>,
}

impl Context {
    /// Starts or joins the private PostgreSQL when the settings name no server.
    pub(super) async fn start(settings: Settings) -> Result<Self, Failure> {
        let embedded = start_embedded(&settings).await?;
        let url = embedded.as_ref().map(Embedded::admin_url);
        let servers = Servers::new(&settings, url.as_deref())?;
        Ok(Self { settings, servers, embedded })
    }

    /// The fleet, which must have been made by `init` before.
    pub(super) async fn fleet(&self) -> Result<Fleet, Failure> {
        let keys = KeyRing::load(&self.settings.keys)?;
        Ok(Fleet::open(self.settings.clone(), self.servers.clone(), Arc::new(keys)).await?)
    }

    /// Makes what is missing of key, roles, catalog and stored schemas, and opens the fleet.
    pub(super) async fn init(&self) -> Result<Fleet, Failure> {
        let keys = KeyRing::load_or_create(&self.settings.keys)?;
        fleet::init(&self.settings, &self.servers, &keys).await?;
        let fleet = self.fleet().await?;
        fleet.record_missing_schemas().await?;
        Ok(fleet)
    }

    /// Lets the private PostgreSQL go; the last command out stops it.
    pub(super) async fn stop(self) -> Done {
        match self.embedded {
            Some(embedded) => Ok(embedded.stop().await?),
            None => Ok(()),
        }
    }
}

/// Starts or joins the private PostgreSQL when the settings name no server.
pub(super) async fn start_embedded(settings: &Settings) -> Result<Option<Embedded>, Failure> {
    if !settings.is_embedded() {
        return Ok(None);
    }
    let options =
        embedded::Options { folder: settings.embedded.folder.clone(), tcp: false, settings: Vec::new() };
    Ok(Some(Embedded::start(&options).await?))
}
