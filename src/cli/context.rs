//! Context: what every command needs: settings, servers (a private one if none is set), keys, the fleet.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};

use super::{Done, Failure, Output};
use crate::catalog::Made;
use crate::doctor::misfits;
use crate::embedded::{self, Embedded};
use crate::fleet::{self, Fleet, Servers};
use crate::settings::Settings;
use crate::vault::KeyRing;

/// Databases whose rights are renewed at the same time.
const RENEWED_AT_A_TIME: usize = 4;

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
        let fleet = Fleet::open(self.settings.clone(), self.servers.clone(), Arc::new(keys)).await?;
        // Every command would stumble over it sooner or later.
        if let Some(misfit) = Made::misfit(fleet.catalog.made().await?.as_ref()) {
            tracing::warn!("{misfit}");
        }
        for finding in misfits(&fleet.catalog, &self.settings).await? {
            tracing::warn!("{} {}: {}; {}", finding.code, finding.place, finding.what, finding.next);
        }
        Ok(fleet)
    }

    /// Makes what is missing of key, roles, catalog and stored schemas, drops what is left of templates, opens the fleet, and gives databases of earlier versions the
    /// rights of this one. What it changed behind somebody's back it says on standard error.
    pub(super) async fn init(&self, output: Output) -> Result<Fleet, Failure> {
        let spinner = output.spinner("preparing servers and catalog");
        let keys = KeyRing::load_or_create(&self.settings.keys)?;
        let made = fleet::init(&self.settings, &self.servers, &keys).await;
        spinner.finish_and_clear();
        made?;
        let fleet = self.fleet().await?;
        renew(&fleet, output).await?;
        fleet.tend_templates().await?;
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

/// Renews the rights of outdated databases, a few at a time. One that can't be does not stop the others.
async fn renew(fleet: &Fleet, output: Output) -> Done {
    let outdated = fleet.outdated_databases().await?;
    let bar = output.bar(outdated.len(), "renewing rights");
    let renewed: Vec<_> = stream::iter(&outdated)
        .map(|database| async {
            let outcome = fleet.renew_rights(database).await;
            bar.inc(1);
            (&database.whose, outcome)
        })
        .buffer_unordered(RENEWED_AT_A_TIME)
        .collect()
        .await;
    bar.finish_and_clear();
    let mut failures = Vec::new();
    for (whose, outcome) in renewed {
        match outcome {
            Ok(removed) => removed.iter().for_each(|what| output.note(&format!("{whose}: removed {what}"))),
            Err(error) => failures.push(format!("{whose}: {error}")),
        }
    }
    for undone in fleet.undo_role_settings().await? {
        output.note(&undone);
    }
    if failures.is_empty() {
        return Ok(());
    }
    let (failed, all) = (failures.len(), outdated.len());
    Err(Failure(format!(
        "the rights of {failed} of {all} databases stay as they were:\n  {}",
        failures.join("\n  ")
    )))
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
