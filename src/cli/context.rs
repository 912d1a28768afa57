//! Context: what every command needs: settings, servers (a private one if none is set), keys, the fleet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{self, StreamExt as _};

use super::progress::Bar;
use super::{Done, Failure, Output};
use crate::catalog::{Catalog, Made};
use crate::doctor::misfits;
use crate::embedded::{self, Embedded};
use crate::fleet::{self, Fleet, Servers, Standing, Unprepared};
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
    pub(super) async fn start(
        settings: Settings,
        source: &SettingsSource,
        output: Output,
    ) -> Result<Self, Failure> {
        let embedded = start_embedded(&settings, source, output).await?;
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

    /// The catalog, whatever master key this machine has.
    pub(super) async fn catalog(&self) -> Result<Catalog, Failure> {
        Ok(Fleet::open_catalog(&self.settings, &self.servers).await?)
    }

    /// Makes what is missing of key, roles, catalog and stored schemas, drops what is left of templates, opens the fleet,
    /// and gives databases of earlier versions the rights of this one. A server that can't be prepared does not stop the
    /// others. What it changed behind somebody's back it says on standard error.
    pub(super) async fn init(&self, output: Output) -> Result<Initialised, Failure> {
        let keys = self.keys_to_begin_with(output).await?;
        let spinner = output.spinner("preparing servers and catalog");
        let made = fleet::init(&self.settings, &self.servers, &keys).await;
        spinner.finish_and_clear();
        self.initialised(made, output).await
    }

    /// The same for servers whose catalog was lost; never with a new master key.
    pub(super) async fn rebuild(&self, output: Output) -> Result<Initialised, Failure> {
        let keys = KeyRing::load(&self.settings.keys)?;
        let spinner = output.spinner("preparing servers and catalog");
        let made = fleet::rebuild_catalog(&self.settings, &self.servers, &keys).await;
        spinner.finish_and_clear();
        self.initialised(made, output).await
    }

    async fn initialised(
        &self,
        made: Result<fleet::Prepared, fleet::FleetError>,
        output: Output,
    ) -> Result<Initialised, Failure> {
        let fleet::Prepared { unprepared: mut unreached, notes } = made?;
        notes.iter().for_each(|note| output.note(note));
        let fleet = self.fleet().await?;
        let databases = renew(&fleet, &mut unreached, output).await?;
        join(&mut unreached, fleet.tend_templates().await?);
        let mut left: Vec<String> =
            unreached.into_iter().map(|u| format!("server `{}`: {}", u.server, u.error)).collect();
        left.extend(databases);
        left.extend(renew_marks(&fleet, output).await?);
        Ok(Initialised { fleet, left })
    }

    /// The master keys; a new one where there is neither a key nor a catalog that could expect one.
    async fn keys_to_begin_with(&self, output: Output) -> Result<KeyRing, Failure> {
        let keys = &self.settings.keys;
        if KeyRing::is_given(keys) {
            return Ok(KeyRing::load(keys)?);
        }
        let standing = fleet::standing(&self.settings, &self.servers).await?;
        if standing != Standing::Absent {
            let place = &self.settings.catalog;
            return Err(Failure(format!(
                "the catalog `{}` is on server `{}` already, but there is no master key at `{}`. Nothing was changed. It \
                 expects {}: copy the key file from a machine of this fleet or from its backup; if it is lost for good, run \
                 `manybox rekey --lost`",
                place.database,
                place.server,
                keys.file.display(),
                standing.expects()
            )));
        }
        // A key that is made for nothing would be taken for this fleet's when its catalog is back.
        fleet::refuse_claimed(&self.settings, &self.servers).await?;
        let made = KeyRing::load_or_create(keys)?;
        let key = made.newest();
        output.note(&format!(
            "made master key {} (fingerprint {}) in `{}`: back this file up, apart from the databases. Every password of the \
             fleet derives from it",
            key.id(),
            key.fingerprint(),
            keys.file.display()
        ));
        Ok(made)
    }

    /// Lets the private PostgreSQL go; the last command out stops it.
    pub(super) async fn stop(self) -> Done {
        match self.embedded {
            Some(embedded) => Ok(embedded.stop().await?),
            None => Ok(()),
        }
    }
}

/// A fleet that was made ready, and what of it could not be, one sentence each.
pub(super) struct Initialised {
    pub(super) fleet: Fleet,
    pub(super) left: Vec<String>,
}

impl Initialised {
    /// Whether all of it was.
    pub(super) fn whole(&self) -> Done {
        if self.left.is_empty() {
            return Ok(());
        }
        Err(Failure(format!(
            "left as it was; run `manybox init` again when what hinders it is mended:\n  {}",
            self.left.join("\n  ")
        )))
    }
}

/// Adds servers, each once.
fn join(unreached: &mut Vec<Unprepared>, more: Vec<Unprepared>) {
    for one in more {
        if !unreached.iter().any(|known| known.server == one.server) {
            unreached.push(one);
        }
    }
}

/// Renews the rights of outdated databases, a few at a time. What can't be does not stop the others, and is returned.
async fn renew(
    fleet: &Fleet,
    unreached: &mut Vec<Unprepared>,
    output: Output,
) -> Result<Vec<String>, Failure> {
    let (outdated, unasked) = fleet.outdated_databases().await?;
    join(unreached, unasked);
    let mut left = Vec::new();
    let bar = Bar::new(output, outdated.len(), "renewing rights");
    let renewed: Vec<_> = stream::iter(&outdated)
        .map(|database| async {
            let outcome = fleet.renew_rights(database).await;
            bar.inc();
            (&database.whose, outcome)
        })
        .buffer_unordered(RENEWED_AT_A_TIME)
        .collect()
        .await;
    bar.finish();
    for (whose, outcome) in renewed {
        match outcome {
            Ok(removed) => removed.iter().for_each(|what| output.note(&format!("{whose}: removed {what}"))),
            Err(error) => left.push(format!("the rights of {whose}: {error}")),
        }
    }
    let (undone, unasked) = fleet.undo_role_settings().await?;
    join(unreached, unasked);
    undone.iter().for_each(|undone| output.note(undone));
    Ok(left)
}

/// Gives databases the marks that they should have, a few at a time. What can't be marked does not stop the others, and is
/// returned, each server that is away once.
pub(super) async fn renew_marks(fleet: &Fleet, output: Output) -> Result<Vec<String>, Failure> {
    let outdated = fleet.outdated_marks().await?;
    let bar = Bar::new(output, outdated.len(), "marking databases");
    let away: Mutex<BTreeMap<&str, String>> = Mutex::default();
    let is_away = |server: &str| away.lock().unwrap_or_else(PoisonError::into_inner).contains_key(server);
    let left: Vec<_> = stream::iter(&outdated)
        .map(|one| async {
            let renewed = if is_away(&one.server) { Ok(()) } else { fleet.renew_mark(one).await };
            bar.inc();
            match renewed {
                Ok(()) => None,
                Err(error) if error.is_outage() || fleet.servers.get(&one.server).is_err() => {
                    let mut away = away.lock().unwrap_or_else(PoisonError::into_inner);
                    away.entry(&one.server)
                        .or_insert_with(|| format!("marks on server `{}`: {error}", one.server));
                    None
                }
                Err(error) => Some(format!("the mark of tenant `{}`: {error}", one.slug)),
            }
        })
        .buffer_unordered(RENEWED_AT_A_TIME)
        .filter_map(std::future::ready)
        .collect()
        .await;
    bar.finish();
    Ok(left
        .into_iter()
        .chain(away.into_inner().unwrap_or_else(PoisonError::into_inner).into_values())
        .collect())
}

/// Where the settings come from, and what follows from that for the private PostgreSQL.
pub(super) struct SettingsSource {
    /// The file.
    pub(super) file: PathBuf,
    /// Whether it is there.
    pub(super) is_there: bool,
    /// Whether the command may make a private PostgreSQL where there is none.
    pub(super) makes_server: bool,
    /// Whether the command says that it uses one because there is no settings file.
    pub(super) tells: bool,
}

/// Starts or joins the private PostgreSQL when the settings name no server.
pub(super) async fn start_embedded(
    settings: &Settings,
    source: &SettingsSource,
    output: Output,
) -> Result<Option<Embedded>, Failure> {
    if !settings.is_embedded() {
        return Ok(None);
    }
    let folder = settings.embedded.folder.clone();
    let shown = std::path::absolute(&folder).unwrap_or_else(|_| folder.clone());
    let (shown, file) = (shown.display(), source.file.display());
    let why = if source.is_there {
        format!("`{file}` names no server")
    } else {
        format!("there is no settings file `{file}` here, so no server is named")
    };
    if !source.makes_server && !embedded::exists(&folder) {
        return Err(Failure(format!(
            "{why}, and there is no embedded PostgreSQL in `{shown}`: `manybox init` makes one; for servers of your own give \
             --config a file with [servers.NAME]. Nothing was made"
        )));
    }
    if source.tells && !source.is_there {
        output.note(&format!("{why}: the embedded PostgreSQL in `{shown}` is used"));
    }
    let options = embedded::Options { folder, tcp: false, settings: Vec::new() };
    Ok(Some(Embedded::start(&options).await?))
}
