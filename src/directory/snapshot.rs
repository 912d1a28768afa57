//! Snapshot: the directory on disk, so that a router can start while the catalog is away.
//!
//! It holds what leads a request to its database, and no secret, sealed ones neither: passwords are derived from the master
//! key, and a tenant that has a secret of its own waits for the catalog. What changed since is missed, as it is by a router
//! that runs; whoever was suspended or moved meanwhile is fenced by the server itself.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use time::OffsetDateTime;

use super::Directory;
use crate::policy::{Invalid, Stored};
use crate::settings::Settings;
use crate::tenant::{Adopted, Lineage, Origin, Record, Sealed, Tenant};

/// The form of the file. One of another form is not read.
const FORM: u32 = 1;
/// Longest file that is read, in bytes: some hundred thousand tenants.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    form: u32,
    /// Which catalog: its server and database, as the settings have them.
    catalog: String,
    /// When it was true, by this machine's clock.
    #[serde(with = "time::serde::rfc3339")]
    taken_at: OffsetDateTime,
    /// This router's share of each server's connections.
    shares: BTreeMap<String, u32>,
    tenants: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    slug: String,
    state: String,
    tier: String,
    server: String,
    generation: i32,
    key: i32,
    edition: Option<String>,
    version: Option<i64>,
    history: Option<String>,
    database: Option<String>,
    login_role: Option<String>,
    base_urls: Vec<String>,
    #[serde(serialize_with = "masked")]
    overrides: Stored,
    /// Whether it has secrets, which are not here.
    has_secrets: bool,
    reloads: i32,
}

/// What was read.
pub(super) struct Restored {
    pub(super) taken_at: OffsetDateTime,
    pub(super) shares: BTreeMap<String, u32>,
    /// Tenants that can be served.
    pub(super) records: Vec<Record>,
    /// How many must wait for the catalog, because they have secrets.
    pub(super) waiting: usize,
}

impl Entry {
    fn of(record: &Record) -> Self {
        let lineage = record.lineage();
        let adopted = match &record.origin {
            Origin::Adopted(adopted) => Some(adopted),
            Origin::Lineage(_) => None,
        };
        Self {
            id: record.id.to_string(),
            slug: record.slug.to_string(),
            state: record.state.to_string(),
            tier: record.tier.clone(),
            server: record.server.clone(),
            generation: record.generation,
            key: record.key,
            edition: lineage.map(|lineage| lineage.edition.clone()),
            version: lineage.map(|lineage| lineage.version),
            history: lineage.map(|lineage| lineage.history.clone()),
            database: adopted.map(|adopted| adopted.database.clone()),
            login_role: adopted.map(|adopted| adopted.login_role.clone()),
            base_urls: record.base_urls.iter().map(ToString::to_string).collect(),
            overrides: Stored(record.overrides.clone()),
            has_secrets: !record.sealed.is_empty() || record.overrides.jwt_secret().is_some(),
            reloads: record.reloads,
        }
    }

    fn record(self) -> Result<Record, String> {
        let id = self.id.clone();
        self.parsed().map_err(|e| format!("tenant {id}: {e}"))
    }

    fn parsed(self) -> Result<Record, Invalid> {
        let origin = match (self.edition, self.version, self.history, self.database, self.login_role) {
            (Some(edition), Some(version), Some(history), None, None) => {
                Origin::Lineage(Lineage { edition, version, history })
            }
            (None, None, None, Some(database), Some(login_role)) => {
                Origin::Adopted(Adopted { database, login_role })
            }
            _ => return Err(Invalid("where its database comes from is unclear".into())),
        };
        Ok(Record {
            id: self.id.parse()?,
            slug: self.slug.parse()?,
            state: self.state.parse()?,
            tier: self.tier,
            server: self.server,
            generation: self.generation,
            key: self.key,
            origin,
            base_urls: self.base_urls.iter().map(|url| url.parse()).collect::<Result<_, _>>()?,
            overrides: self.overrides.0,
            sealed: Sealed::new(),
            reloads: self.reloads,
        })
    }
}

/// A secret among them would be masked.
fn masked<S: Serializer>(overrides: &Stored, serializer: S) -> Result<S::Ok, S::Error> {
    overrides.0.serialize(serializer)
}

/// Where a router keeps its snapshot.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) catalog: String,
    /// An older one is not used.
    pub(super) stale: Duration,
}

impl Place {
    /// Writes the records as they are now, so that a crash leaves the old file or the new one. Only this process's user may
    /// read it.
    pub(super) fn write<'a>(
        &self,
        records: impl Iterator<Item = &'a Record>,
        shares: BTreeMap<String, u32>,
    ) -> io::Result<()> {
        let mut tenants: Vec<_> = records.map(Entry::of).collect();
        tenants.sort_by(|one, other| one.id.cmp(&other.id));
        let snapshot = Snapshot {
            form: FORM,
            catalog: self.catalog.clone(),
            taken_at: OffsetDateTime::now_utc(),
            shares,
            tenants,
        };
        let text = serde_json::to_vec(&snapshot).map_err(io::Error::other)?;
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        // A name of this process's own: routers on one machine may share the file.
        let draft = self.file.with_extension(format!("{}.draft", std::process::id()));
        let written = write_private(&draft, &text).and_then(|()| fs::rename(&draft, &self.file));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }

    /// Reads it; `None` where there is none.
    ///
    /// # Errors
    /// When it is too old, of another catalog, or can't be read; in words for the log.
    pub(super) fn read(&self) -> Result<Option<Restored>, String> {
        let at = |e: &dyn std::fmt::Display| format!("{}: {e}", self.file.display());
        let length = match fs::metadata(&self.file) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&error)),
        };
        if length > MAX_BYTES {
            return Err(at(&"is too long"));
        }
        let text = fs::read(&self.file).map_err(|e| at(&e))?;
        let snapshot: Snapshot = serde_json::from_slice(&text).map_err(|e| at(&e))?;
        if snapshot.form != FORM {
            return Err(at(&"was written by another version of manybox"));
        }
        if snapshot.catalog != self.catalog {
            return Err(at(&format!("is of catalog {}, not {}", snapshot.catalog, self.catalog)));
        }
        let age = OffsetDateTime::now_utc() - snapshot.taken_at;
        if age > self.stale || age < -time::Duration::minutes(5) {
            let whole = Duration::from_secs(age.unsigned_abs().as_secs());
            return Err(at(&format!(
                "is {} old, and listen.stale_directory is {}",
                humantime::format_duration(whole),
                humantime::format_duration(self.stale)
            )));
        }
        let all = snapshot.tenants.len();
        let whole = snapshot.tenants.into_iter().filter(|entry| !entry.has_secrets);
        let records = whole.map(Entry::record).collect::<Result<Vec<_>, _>>().map_err(|e| at(&e))?;
        let waiting = all - records.len();
        Ok(Some(Restored { taken_at: snapshot.taken_at, shares: snapshot.shares, records, waiting }))
    }
}

fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// A router's snapshots: where they are, and what else is kept with them.
#[derive(Clone)]
pub struct Snapshots {
    place: Place,
    shares: Arc<dyn Fn() -> BTreeMap<String, u32> + Send + Sync>,
    restored: Arc<dyn Fn(BTreeMap<String, u32>) + Send + Sync>,
    /// Whether the log has said that none can be written.
    told: Arc<AtomicBool>,
}

impl Snapshots {
    /// Where the settings say; `None` when they want none. `shares` tells this router's shares of the servers' connections,
    /// and `restored` hears of those that were read.
    pub fn new(
        settings: &Settings,
        shares: impl Fn() -> BTreeMap<String, u32> + Send + Sync + 'static,
        restored: impl Fn(BTreeMap<String, u32>) + Send + Sync + 'static,
    ) -> Option<Self> {
        let stale = settings.listen.stale_directory;
        let catalog = format!("{}/{}", settings.catalog.server, settings.catalog.database);
        let place = Place { file: settings.listen.directory_file.clone(), catalog, stale };
        let (shares, restored) = (Arc::new(shares), Arc::new(restored));
        (!stale.is_zero()).then(|| Self { place, shares, restored, told: Arc::default() })
    }

    /// Writes the directory as it is now. Where that can't be done, the log says so once.
    pub(super) async fn write(&self, tenants: Vec<Arc<Tenant>>) {
        let own = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            own.place.write(tenants.iter().map(|tenant| &***tenant), (own.shares)())
        });
        match written.await {
            Ok(Ok(())) => self.told.store(false, Ordering::Relaxed),
            Ok(Err(error)) if !self.told.swap(true, Ordering::Relaxed) => tracing::warn!(
                %error,
                file = %self.place.file.display(),
                "the directory is not kept on disk: without it this router can't start while the catalog is away"
            ),
            Ok(Err(_)) | Err(_) => {}
        }
    }

    /// Fills the directory from the file, if there is one that will do.
    pub(super) fn restore(&self, directory: &Directory, settings: &Settings) {
        match self.place.read() {
            Ok(None) => {}
            Ok(Some(Restored { taken_at, shares, records, waiting })) => {
                let tenants = records.into_iter().map(|record| settings.tenant(record)).collect();
                directory.restore(tenants, taken_at);
                (self.restored)(shares);
                tracing::warn!(
                    tenants = directory.len(),
                    waiting,
                    file = %self.place.file.display(),
                    age.s = (OffsetDateTime::now_utc() - taken_at).whole_seconds(),
                    "the catalog is away: serving from the directory on disk; tenants that have secrets of their own wait for \
                     the catalog"
                );
            }
            Err(reason) => tracing::warn!(%reason, "the directory on disk is not used"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn place(folder: &Path) -> Place {
        Place {
            file: folder.join("directory.json"),
            catalog: "main/catalog".into(),
            stale: Duration::from_secs(60),
        }
    }

    #[test]
    fn what_is_written_is_read_without_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        assert!(place.read().unwrap().is_none());
        let mut acme = Record::example("aaaaaaaaaaaaaaaa", "acme");
        acme.base_urls = vec!["https://acme.example".parse().unwrap()];
        acme.overrides.set("max_rows", "7").unwrap();
        let mut globex = Record::example("bbbbbbbbbbbbbbbb", "globex");
        globex.sealed.insert("jwt_secret".into(), "sealed words".into());
        let shares = BTreeMap::from([("main".to_owned(), 12)]);
        place.write([&globex, &acme].into_iter(), shares.clone()).unwrap();
        let text = fs::read_to_string(&place.file).unwrap();
        assert!(!text.contains("sealed words") && !text.contains("jwt_secret"), "{text}");
        assert_eq!(fs::metadata(&place.file).unwrap().mode() & 0o777, 0o600);
        let restored = place.read().unwrap().unwrap();
        assert_eq!((restored.records, restored.shares, restored.waiting), (vec![acme], shares, 1));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft stays");
    }

    #[test]
    fn an_old_one_or_anothers_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = place(folder.path());
        place.write([].into_iter(), BTreeMap::new()).unwrap();
        let words = |place: &Place| place.read().err().unwrap();
        let other = Place { catalog: "main/other".into(), ..place.clone() };
        assert!(words(&other).contains("is of catalog main/catalog"));
        place.stale = Duration::ZERO;
        assert!(words(&place).contains("listen.stale_directory"));
        fs::write(&place.file, "half a").unwrap();
        assert!(words(&place).contains("directory.json"));
    }
}
