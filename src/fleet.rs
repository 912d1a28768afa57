//! Fleet: the life of tenants, from the intent in the catalog to the purge of their databases. Every verb is idempotent.

mod acting;
mod adopt;
mod anonymise;
mod apply;
mod backup;
mod baseline;
mod change_edition;
mod check;
mod claim;
mod connections;
mod database;
mod desired;
mod drift;
mod dump;
mod editions;
mod exchange;
mod failed_builds;
mod fill;
mod frozen;
mod holder;
mod hosts;
mod import;
mod init;
mod lifecycle;
mod lineages;
mod mark;
mod migration;
mod migrator;
mod prepare;
mod progress;
mod provision;
mod psql;
mod rebuild;
mod recover;
mod rehearse;
mod rekey;
mod rename;
mod repair;
mod restore;
mod rights;
mod roles;
mod router;
mod schemas;
mod scratch;
mod secrets;
mod server;
mod squash;
mod standing;
mod template;

pub use adopt::{Adoption, AdoptionSpec};
pub use apply::{Change, Plan};
pub use backup::{
    ArchiveManifest, BackupFiles, BackupRun, Manifest, TenantManifest, backup_stem, write_whole,
};
pub use baseline::{EditionAdoption, IntoEdition};
pub use check::{Finding, check, try_out};
pub use claim::{refuse_claimed, release};
pub use desired::SettingChange;
pub use drift::{Before, Proof};
pub use dump::HistoryRows;
pub use editions::editions;
pub use import::ImportSpec;
pub use init::{Prepared, init, upgrade_catalog};
pub use lineages::{ReadLineage, contradiction_among};
pub use mark::{Mark, OutdatedMark, outdated_marks};
pub use migration::ProvedMigration;
pub use migrator::Migrator;
pub use progress::{Progress, Watcher};
pub use provision::TenantSpec;
pub use psql::OperatorLogin;
pub use rebuild::rebuild_catalog;
pub use recover::{FormerlyAdopted, Found, Unclaimed, unclaimed};
pub use rehearse::{FileRehearsal, Rehearsal, TableLock, TableRewrite};
pub use rekey::Lost;
pub use repair::RepairResult;
pub use restore::{CopySpec, Filled};
pub use rights::OutdatedDatabase;
pub use roles::{BACKUP, HISTORY, MIGRATORS, OWNER, catalog_migrator, catalog_owner, migrator_of};
pub use server::{FleetServer, Servers, check_version};
pub use squash::SquashedFile;
pub use standing::{Standing, standing};

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};

use time::format_description::well_known::Rfc3339;
use tokio::sync::Semaphore;

use crate::catalog::{self, Catalog, Seat, TenantRow};
use crate::migrate;
use crate::pg::{self, Connection, Waits};
use crate::policy::Invalid;
use crate::schema;
use crate::settings::Settings;
use crate::tenant::{Lineage, State, TenantId, Verb};
use crate::vault::{KeyMisfit, KeyRing};
use failed_builds::FailedBuilds;

/// Why a verb could not be carried out; says what stands and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The catalog could not be read or changed.
    #[error(transparent)]
    Catalog(#[from] catalog::CatalogError),
    /// A server refused, or did not answer.
    #[error("{doing}: {source}")]
    Server {
        /// What was being done.
        doing: String,
        /// The server's words.
        source: pg::Error,
    },
    /// Something of our name is there that we did not make.
    #[error(
        "{what} `{name}` exists on server `{server}` but not in the journal: manybox did not make it and leaves it alone; remove or rename it by hand"
    )]
    Foreign {
        /// `role` or `database`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The server that has it.
        server: String,
    },
    /// No tenant has this slug.
    #[error("there is no tenant `{0}`; see `manybox tenant list`")]
    Unknown(String),
    /// No tenant has this slug, but others have similar ones.
    #[error("there is no tenant `{slug}`; did you mean {}? See `manybox tenant list`", near.join(" or "))]
    UnknownNear {
        /// The slug.
        slug: String,
        /// Those of tenants that are there.
        near: Vec<String>,
    },
    /// The tenant is not in a state from which the verb may start.
    #[error("cannot {verb} `{slug}`: it is {state}; {}", verb.hint(*state))]
    State {
        /// The tenant.
        slug: String,
        /// What was asked for.
        verb: Verb,
        /// Where it stands.
        state: State,
    },
    /// The tenant's database is not ours to change.
    #[error("tenant `{0}` has an adopted database: it can't be {1}, for manybox changes nothing in it")]
    Adopted(String, &'static str),
    /// A secret could not be sealed or opened.
    #[error(transparent)]
    Secret(#[from] crate::vault::VaultError),
    /// The master keys are not the fleet's.
    #[error(transparent)]
    Key(#[from] KeyMisfit),
    /// Something named in the catalog or by the operator is not in the settings.
    #[error("{0}")]
    Settings(String),
    /// A migration of a template or of the catalog failed.
    #[error("{doing}: {source}")]
    Migrate {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: Box<migrate::MigrationFailure>,
    },
    /// An edition's files are not those that the fleet was made by.
    #[error(transparent)]
    Contradiction(Box<migrate::Contradiction>),
    /// What an edition's files are marked to do in each tenant failed in a new one.
    #[error("tenant `{slug}` is not created: {source}; mend what fails there, and create it again")]
    PerTenant {
        /// The tenant.
        slug: String,
        /// What failed.
        source: Box<migrate::PartFailure>,
    },
    /// A database's history could not be read.
    #[error("reading the history of `{database}`: {source}")]
    History {
        /// The database.
        database: String,
        /// Why.
        source: migrate::ReadError,
    },
    /// A template's schema could not be read.
    #[error("reading the schema of `{database}`: {source}")]
    Schema {
        /// The template.
        database: String,
        /// Why.
        source: schema::SchemaError,
    },
    /// What a database's schema is could not be read.
    #[error("comparing the schema of `{database}`: {source}")]
    Fingerprint {
        /// The database.
        database: String,
        /// Why.
        source: migrate::FingerprintError,
    },
    /// Files can't be squashed.
    #[error(transparent)]
    Squash(#[from] migrate::SquashError),
    /// A database is not taken into an edition.
    #[error("adopting database `{database}`: {source}")]
    Baseline {
        /// The database.
        database: String,
        /// Why.
        source: migrate::BaselineError,
    },
    /// An edition's files are not usable.
    #[error(transparent)]
    Edition(#[from] migrate::EditionError),
    /// A file could not be read or written.
    #[error("{0}")]
    File(String),
    /// A retired tenant may not be purged yet.
    #[error(
        "tenant `{slug}` is kept until {}: `manybox tenant restore {slug}` brings it back; to drop it all the same, \
         purge it with --now",
        moment(*until)
    )]
    Kept {
        /// The tenant.
        slug: String,
        /// Until when.
        until: time::OffsetDateTime,
    },
    /// An operator stopped it; nothing is left half.
    #[error("interrupted: {0}; nothing is left of it")]
    Interrupted(String),
    /// Another command is at work on the same thing.
    #[error("{0} is being worked on by another command; try again when it has ended")]
    Busy(String),
}

/// A server that could not be prepared, and why: what was done elsewhere stands.
#[derive(Debug)]
pub struct Unprepared {
    /// The server.
    pub server: String,
    /// Why.
    pub error: FleetError,
}

impl FleetError {
    /// Whether a server did not answer: nothing is wrong with what was asked of it.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Server { source, .. } if pg::is_outage(source.code()))
    }
}

impl From<Invalid> for FleetError {
    fn from(error: Invalid) -> Self {
        Self::Settings(error.0)
    }
}

/// A moment as operators read and write it: RFC 3339, to the second.
pub fn moment(at: time::OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// Adds what was being done to a server's error.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, FleetError>;
}

impl<T, E: Into<pg::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, FleetError> {
        self.map_err(|e| FleetError::Server { doing: what(), source: e.into() })
    }
}

/// Sessions that are kept for the next who needs one.
const KEPT_SESSIONS: usize = 8;

/// Databases that are copied at the same time. Copying is bound by the disk and the kernel. The other steps of a creation
/// mostly wait for the disk, so more tenants than these may be in creation at once.
const CONCURRENT_COPIES: usize = 4;

/// What a folder of files is like: their names, lengths, and when they were changed. Whoever writes a file changes the last,
/// whatever they do to its other times.
type FolderStamp = Vec<(OsString, u64, i64, i64)>;

type Agreed = HashMap<String, (String, Vec<catalog::Template>)>;

/// The control plane's handle: settings, catalog, servers with their admins, master keys. Clones share all but the settings.
#[derive(Clone)]
pub struct Fleet {
    /// The settings this process was started with.
    pub settings: Settings,
    /// The control database.
    pub catalog: Catalog,
    /// Every server by name.
    pub servers: Servers,
    /// The master keys.
    pub keys: Arc<KeyRing>,
    /// Sessions as the admin that wait for their next use, with their server's name.
    kept: Arc<Mutex<Vec<(String, Connection)>>>,
    /// Permits to copy a database.
    copies: Arc<Semaphore>,
    /// By edition, the digest of the files and the templates that last were found to agree with the fleet.
    agreed: Arc<tokio::sync::Mutex<Agreed>>,
    failed_builds: Arc<FailedBuilds>,
    /// Editions as they were read, with what their folders were like: to look takes less than to check the files again.
    read: Arc<Mutex<HashMap<String, (FolderStamp, migrate::Edition)>>>,
    /// By server and lineage, the fingerprint that last was the kept one: for a thousand tenants the catalog is asked once.
    proved: Arc<Mutex<HashMap<(String, Lineage), migrate::Fingerprint>>>,
}

impl Fleet {
    /// Opens the catalog as the admin of its server, if the master keys are the fleet's.
    ///
    /// # Errors
    /// When it is not there ([`init`] makes it), its server can't be reached, or it expects other keys.
    pub async fn open(settings: Settings, servers: Servers, keys: Arc<KeyRing>) -> Result<Self, FleetError> {
        let fleet = Self::open_with_any_key(settings, servers, keys).await?;
        let known = fleet.catalog.master_keys().await?;
        fleet.keys.fit(&known)?;
        fleet.keys.hear(known);
        Ok(fleet)
    }

    /// The same with whatever keys there are: for what changes them, and must not make anything from wrong ones.
    ///
    /// # Errors
    /// When the catalog is not there, or its server can't be reached.
    pub async fn open_with_any_key(
        settings: Settings,
        servers: Servers,
        keys: Arc<KeyRing>,
    ) -> Result<Self, FleetError> {
        let catalog = Self::open_catalog(&settings, &servers).await?;
        Ok(Self {
            settings,
            catalog,
            servers,
            keys,
            kept: Arc::default(),
            copies: Arc::new(Semaphore::new(CONCURRENT_COPIES)),
            agreed: Arc::default(),
            failed_builds: Arc::default(),
            read: Arc::default(),
            proved: Arc::default(),
        })
    }

    /// Opens the catalog as the admin of its server.
    ///
    /// # Errors
    /// When it is not there ([`init`] makes it), or its server can't be reached.
    pub async fn open_catalog(settings: &Settings, servers: &Servers) -> Result<Catalog, FleetError> {
        let server = servers.get(&settings.catalog.server)?;
        let (admin, database) = (server.admin()?, &settings.catalog.database);
        let catalog = Catalog::open(&server.endpoint, admin, database, Waits::default()).await;
        catalog.map_err(|error| match error {
            catalog::CatalogError::Server(e)
                if e.code() == Some(&tokio_postgres::error::SqlState::INVALID_CATALOG_NAME) =>
            {
                FleetError::Settings(format!(
                    "there is no catalog `{}` on server `{}`; make it with `manybox init`",
                    settings.catalog.database, settings.catalog.server
                ))
            }
            other => other.into(),
        })
    }

    /// The tenant that has this slug.
    ///
    /// # Errors
    /// [`FleetError::Unknown`] when none has.
    pub async fn tenant(&self, slug: &str) -> Result<TenantRow, FleetError> {
        if let Some(row) = self.catalog.tenant_by_slug(slug).await? {
            return Ok(row);
        }
        let slugs = self.catalog.slugs().await?;
        let mut near: Vec<_> = slugs
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, slug), known))
            .filter(|(distance, known)| *distance <= 2 || (slug.len() > 2 && known.starts_with(slug)))
            .collect();
        near.sort();
        let near: Vec<_> = near.into_iter().take(3).map(|(_, known)| format!("`{known}`")).collect();
        Err(match near.is_empty() {
            true => FleetError::Unknown(slug.to_owned()),
            false => FleetError::UnknownNear { slug: slug.to_owned(), near },
        })
    }

    /// A seat for an executor of this rollout, by a session of its own in the catalog.
    ///
    /// # Errors
    /// When the catalog's server refuses.
    pub async fn executor_seat(&self, rollout: i64) -> Result<Seat, FleetError> {
        let server = self.servers.get(&self.settings.catalog.server)?;
        let connection = server.connect_admin_inside(&self.settings.catalog.database).await?;
        let key = self.keys.lock_key(&["executor", TenantId::random()?.as_str()]);
        Ok(Seat::take(connection, key, self.attendance(rollout)).await?)
    }

    /// Whether any executor is at work on a rollout, or waits for it.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn is_attended(&self, rollout: i64) -> Result<bool, FleetError> {
        Ok(self.catalog.is_held(self.attendance(rollout)).await?)
    }

    /// The key of the lock that all executors of a rollout share.
    fn attendance(&self, rollout: i64) -> i64 {
        self.keys.lock_key(&["rollout", &rollout.to_string()])
    }

    /// A session as the admin on the server's maintenance database.
    async fn admin(&self, server: &str) -> Result<(&FleetServer, Connection), FleetError> {
        let server = self.servers.get(server)?;
        let kept = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.retain(|(_, connection)| !connection.is_closed());
            let at = kept.iter().position(|(name, _)| name == server.endpoint.name());
            at.map(|at| kept.swap_remove(at).1)
        };
        match kept {
            Some(connection) => Ok((server, connection)),
            None => Ok((server, server.connect_admin().await?)),
        }
    }

    /// Keeps a session for the next who needs one. It must hold nothing: no transaction, no lock.
    fn keep(&self, server: &str, connection: Connection) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_SESSIONS {
            kept.push((server.to_owned(), connection));
        }
    }
}
