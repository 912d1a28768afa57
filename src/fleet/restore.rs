//! Restore: a database filled from an archive or from another tenant, and compared with its manifest before anybody is
//! served from it.

use std::process::Stdio;

use ring::digest::{Context, SHA256};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt as _;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::backup::{BackupFiles, Manifest, Progress, hex, input, named, written};
use super::database::DatabaseRights;
use super::dump::{self, Snapshot, facts_of, finished};
use super::roles::{self, MIGRATORS, OWNER, migrator_of};
use super::{Doing, Fleet, FleetError, FleetServer, OperatorLogin, TenantSpec, database};
use crate::catalog::{Filter, TenantRow};
use crate::migrate;
use crate::pg::{self, AdvisoryLock};
use crate::policy::Secret;
use crate::tenant::{BaseUrl, Lineage, Record, Slug, State, TenantId, Verb};

/// A lock that somebody else has is not waited for.
const NO_WAIT: std::time::Duration = std::time::Duration::ZERO;
/// Most differences that are told.
const MAX_DIFFERENCES: usize = 20;
const BUFFER: usize = 1024 * 1024;

/// How a tenant is to be that is made from a backup or from another tenant.
#[derive(Debug, Clone, Default)]
pub struct CopySpec {
    /// Its tier; that of the source, or the default where the settings don't have it.
    pub tier: Option<String>,
    /// Its server; that of the source, or the default where the settings don't have it.
    pub server: Option<String>,
    /// SQL that its owner runs before it opens.
    pub anonymise: Option<String>,
    /// Base URLs beside those from `listen.base_urls`.
    pub base_urls: Vec<BaseUrl>,
    /// A token secret of its own. None is taken from a source.
    pub jwt_secret: Option<Secret>,
}

/// A tenant that was filled.
#[derive(Debug, Serialize)]
pub struct Filled {
    /// The tenant.
    #[serde(flatten)]
    pub tenant: TenantRow,
    /// The retired tenant that keeps the database from before; `None` when there was none.
    pub replaced: Option<String>,
    /// What an operator should know; one sentence each.
    pub notes: Vec<String>,
}

/// Where a database's content comes from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// An archive, with what its manifest says.
    Files(&'a BackupFiles, &'a Manifest),
    /// A tenant as it is now.
    Tenant(&'a TenantRow),
}

impl Fleet {
    /// Looks whether an archive is what its manifest says, byte by byte.
    ///
    /// # Errors
    /// When it is not, can't be read, or `stop` was cancelled.
    pub async fn check_archive(
        &self,
        files: &BackupFiles,
        progress: Progress<'_>,
        stop: &CancellationToken,
    ) -> Result<Manifest, FleetError> {
        let (manifest, path) = (files.read()?, files.archive());
        let mut file = tokio::fs::File::open(&path).await.map_err(|error| named(&path, &error))?;
        let (mut buffer, mut digest, mut bytes) = (vec![0_u8; BUFFER], Context::new(&SHA256), 0_u64);
        loop {
            if stop.is_cancelled() {
                return Err(FleetError::Interrupted(format!("the check of `{}`", path.display())));
            }
            let read = file.read(&mut buffer).await.map_err(|error| named(&path, &error))?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            bytes += read as u64;
            progress(bytes);
        }
        if hex(digest.finish().as_ref()) != manifest.archive.sha256 {
            return Err(FleetError::File(format!(
                "`{}` has another checksum than its manifest says: it was changed or damaged; take another backup",
                path.display()
            )));
        }
        Ok(manifest)
    }

    /// Brings a tenant back from a backup: into a new database beside the one that it has, which is compared with the
    /// manifest and then takes its place. The one from before is kept by a retired tenant with a name of its own. The
    /// tenant keeps id, keys, passwords, base URLs and settings. Where no tenant has the slug, one is made.
    ///
    /// # Errors
    /// When the archive is damaged, the settings don't have its edition, `stop` was cancelled, a server refuses, or what
    /// came out is not what the manifest says. The tenant is as it was then, and nothing is left of the new database.
    pub async fn restore_from(
        &self,
        slug: &Slug,
        files: &BackupFiles,
        spec: &CopySpec,
        stop: &CancellationToken,
    ) -> Result<Filled, FleetError> {
        let manifest = self.check_archive(files, &|_| (), stop).await?;
        let Some(live) = self.tenant_to_replace(slug).await? else {
            return self.fill_new(slug, Source::Files(files, &manifest), spec, stop).await;
        };
        if live.record.is_adopted() {
            return Err(FleetError::Adopted(slug.to_string(), "restored here, but as another tenant (--as)"));
        }
        let beside = beside(slug)?;
        let spec = CopySpec { server: Some(live.record.server.clone()), ..spec.clone() };
        let filled = self.fill_new(&beside, Source::Files(files, &manifest), &spec, stop).await?;
        self.retire(beside.as_str(), None).await?;
        if let Err(error) = self.exchange(&live.record.id, &filled.tenant.record.id).await {
            return Err(FleetError::Settings(format!(
                "the restored database is ready, as that of `{beside}`, but was not switched to: {error}; `manybox apply` \
                 tries that again"
            )));
        }
        let tenant = self.tenant(slug.as_str()).await?;
        Ok(Filled { tenant, replaced: Some(beside.to_string()), notes: filled.notes })
    }

    /// The tenant that a restore is for, when what killed restores of it left has been dropped.
    async fn tenant_to_replace(&self, slug: &Slug) -> Result<Option<TenantRow>, FleetError> {
        let beside = format!("{}-", beside_stem(slug));
        for row in self.catalog.tenants(&Filter { state: Some(State::Creating), ..Filter::default() }).await?
        {
            let other = row.record.slug.as_str();
            if row.filling.is_some() && (other.starts_with(&beside) || other == slug.as_str()) {
                self.carry_out(other, Verb::Purge).await?;
            }
        }
        Ok(self.catalog.tenant_by_slug(slug.as_str()).await?)
    }

    /// Makes a tenant of this slug from a backup.
    ///
    /// # Errors
    /// As [`Fleet::restore_from`], and when the slug is taken.
    pub async fn restore_as(
        &self,
        slug: &Slug,
        files: &BackupFiles,
        spec: &CopySpec,
        stop: &CancellationToken,
    ) -> Result<Filled, FleetError> {
        let manifest = self.check_archive(files, &|_| (), stop).await?;
        self.refuse_taken(slug).await?;
        self.fill_new(slug, Source::Files(files, &manifest), spec, stop).await
    }

    /// Makes a tenant of this slug from another as it is now, which is served meanwhile.
    ///
    /// # Errors
    /// As [`Fleet::restore_as`].
    pub async fn clone_tenant(
        &self,
        source: &TenantRow,
        slug: &Slug,
        spec: &CopySpec,
        stop: &CancellationToken,
    ) -> Result<Filled, FleetError> {
        self.refuse_taken(slug).await?;
        self.fill_new(slug, Source::Tenant(source), spec, stop).await
    }

    /// Refuses a slug that a tenant has; what a killed copy left of it is dropped.
    pub(super) async fn refuse_taken(&self, slug: &Slug) -> Result<(), FleetError> {
        match self.tenant_to_replace(slug).await? {
            None => Ok(()),
            Some(row) => Err(FleetError::Settings(format!(
                "tenant `{slug}` is there already ({}); choose another name",
                row.record.state
            ))),
        }
    }

    pub(super) async fn fill_new(
        &self,
        slug: &Slug,
        source: Source<'_>,
        spec: &CopySpec,
        stop: &CancellationToken,
    ) -> Result<Filled, FleetError> {
        let (row, mut notes) = self.intend_copy(slug, source, spec).await?;
        let filled = Box::pin(self.fill_tenant(&row.record, source, spec, stop)).await;
        match filled {
            Ok(more) => {
                notes.extend(more);
                let tenant = self.tenant(slug.as_str()).await?;
                Ok(Filled { tenant, replaced: None, notes })
            }
            Err(error) => {
                // Nothing half is left; where the server is away, `purge` is what its row still allows.
                if let Err(left) = self.carry_out(slug.as_str(), Verb::Purge).await {
                    tracing::warn!(tenant = %slug, error = %left, "what was made stays until `manybox tenant purge {slug}`");
                }
                Err(error)
            }
        }
    }

    /// Writes the intent to make a tenant from a source, with what that has different.
    async fn intend_copy(
        &self,
        slug: &Slug,
        source: Source<'_>,
        spec: &CopySpec,
    ) -> Result<(TenantRow, Vec<String>), FleetError> {
        let mut notes = Vec::new();
        let (edition, tier, server, overrides, labels, from) = match source {
            Source::Files(files, manifest) => {
                let of = &manifest.tenant;
                let overrides = of.overrides().map_err(|error| {
                    FleetError::File(format!("settings of the manifest can't be read: {error}"))
                })?;
                let from = format!("restored from {}", files.archive().display());
                (of.edition.clone(), &of.tier, &of.server, overrides, &of.labels, from)
            }
            Source::Tenant(row) => {
                let record = &row.record;
                let lineage = record.lineage();
                let edition = lineage
                    .ok_or_else(|| FleetError::Adopted(record.slug.to_string(), "cloned"))?
                    .edition
                    .clone();
                let from = format!("cloned from {}", record.slug);
                (edition, &record.tier, &record.server, record.overrides.clone(), &row.labels, from)
            }
        };
        let known_tier = self.settings.tiers.contains_key(tier) || *tier == self.settings.defaults.tier;
        let known_server = self.servers.get(server).is_ok();
        if !known_tier && spec.tier.is_none() {
            notes.push(format!("tier `{tier}` is not in the settings: the default was taken"));
        }
        if !known_server && spec.server.is_none() {
            notes.push(format!("server `{server}` is not in the settings: the default was taken"));
        }
        let row = self
            .intend(
                TenantId::random()?,
                slug,
                &TenantSpec {
                    edition: Some(edition),
                    tier: spec.tier.clone().or_else(|| known_tier.then(|| tier.clone())),
                    server: spec.server.clone().or_else(|| known_server.then(|| server.clone())),
                    base_urls: spec.base_urls.clone(),
                    overrides: overrides.with_jwt_secret(spec.jwt_secret.clone()),
                    labels: labels.clone(),
                    filling: Some(from),
                },
            )
            .await?;
        Ok((row, notes))
    }

    /// Makes and fills the database of an intended tenant, and puts it into service.
    async fn fill_tenant(
        &self,
        record: &Record,
        source: Source<'_>,
        spec: &CopySpec,
        stop: &CancellationToken,
    ) -> Result<Vec<String>, FleetError> {
        let (server, client) = self.admin(&record.server).await?;
        let lock =
            AdvisoryLock::acquire(&client, self.keys.lock_key(&["tenant", record.id.as_str()]), NO_WAIT);
        let lock = lock.await.doing(|| format!("locking tenant `{}`", record.slug))?;
        let lock = lock.ok_or_else(|| FleetError::Busy(format!("tenant `{}`", record.slug)))?;
        let filled = async {
            let name = record.id.database();
            let edition = record.lineage().map(|lineage| lineage.edition.clone()).unwrap_or_default();
            self.make_closed(server, &client, &name, &edition).await?;
            let (lineage, notes) = self.fill(server, &name, &edition, source, spec, stop).await?;
            let migrator = migrator_of(&name);
            let temporary = self.temporary(&edition);
            let rights = DatabaseRights { owner: OWNER, logins: &[&name, &migrator], temporary: &temporary };
            let login = self.login(record, false)?;
            server.unhindered(database::open(&client, &name, &rights, &login)).await?;
            self.catalog.tenant_filled(&record.id, &lineage).await?;
            self.mark(&record.id).await;
            Ok(notes)
        };
        let filled = filled.await;
        lock.release(&client).await.doing(|| "releasing the tenant's lock".into())?;
        self.keep(&record.server, client);
        filled
    }

    /// Makes an empty database that its migrator alone may connect to.
    async fn make_closed(
        &self,
        server: &FleetServer,
        client: &Client,
        name: &str,
        edition: &str,
    ) -> Result<(), FleetError> {
        database::create_closed(client, name, "template0").await?;
        let (migrator, temporary) = (migrator_of(name), self.temporary(edition));
        let rights = DatabaseRights { owner: OWNER, logins: &[&migrator], temporary: &temporary };
        let login = roles::migrator(&migrator, MIGRATORS, false);
        server.unhindered(database::open(client, name, &rights, &login)).await
    }

    /// Fills an empty database, and compares it with what the source was. Gives its lineage and what should be known.
    pub(super) async fn fill(
        &self,
        server: &FleetServer,
        name: &str,
        edition: &str,
        source: Source<'_>,
        spec: &CopySpec,
        stop: &CancellationToken,
    ) -> Result<(Lineage, Vec<String>), FleetError> {
        let edition = self.edition(edition)?;
        self.prepare_for_edition(server, &edition, name).await?;
        let writer = self.make_operator(server.endpoint.name(), name).await?;
        let poured = tokio::select! {
            poured = self.pour(server, (name, &writer), source, stop) => poured,
            () = stop.cancelled() => Err(FleetError::Interrupted(format!("filling database `{name}`"))),
        };
        let closed = self.drop_made(server.endpoint.name(), name, &writer).await;
        let (manifest, complaints) = poured?;
        closed?;
        let mut notes = Vec::new();
        let differences = self.differences_from(server, name, &manifest, &mut notes).await?;
        if !differences.is_empty() {
            let told = differences.iter().take(MAX_DIFFERENCES).cloned().collect::<Vec<_>>().join("\n  ");
            return Err(FleetError::Settings(format!(
                "what came out differs from what was backed up:\n  {told}\n  pg_restore said: {complaints}"
            )));
        }
        if let Some(sql) = &spec.anonymise {
            self.anonymise(server, name, sql).await?;
        }
        let lineage = manifest.tenant.lineage();
        notes.extend(edition.needed_by(lineage.version, &lineage.history));
        Ok((lineage, notes))
    }

    /// Runs `pg_restore` on the source, and writes the history. Gives the manifest, and what `pg_restore` complained about:
    /// it goes on past errors, because what every database begins with is there already.
    async fn pour(
        &self,
        server: &FleetServer,
        (name, writer): (&str, &OperatorLogin),
        source: Source<'_>,
        stop: &CancellationToken,
    ) -> Result<(Manifest, String), FleetError> {
        let endpoint = &server.endpoint;
        let (manifest, complaints) = match source {
            Source::Files(files, manifest) => {
                let path = files.archive();
                let file = std::fs::File::open(&path).map_err(|error| named(&path, &error))?;
                let mut restoring = dump::restore(endpoint, (name, writer), input(file), &[])?;
                let (_, complaints) = finished("pg_restore", &mut restoring).await?;
                (manifest.clone(), complaints)
            }
            Source::Tenant(row) => {
                let mut restoring = dump::restore(endpoint, (name, writer), Stdio::piped(), &[])?;
                let Some(sink) = restoring.stdin.take() else {
                    return Err(FleetError::File("pg_restore has no input".into()));
                };
                let (manifest, restored) = tokio::join!(
                    self.backup(row, "", sink, &|_| (), stop),
                    finished("pg_restore", &mut restoring)
                );
                let (_, complaints) = restored?;
                let gave_up = |error: FleetError| FleetError::File(format!("{error}; {complaints}"));
                (manifest.map_err(gave_up)?, complaints)
            }
        };
        let session = pg::connect(endpoint, &writer.login, name).await;
        let session = session.doing(|| format!("connecting to `{name}` to write its history"))?;
        manifest.history.write(&session).await?;
        session.close().await;
        Ok((manifest, complaints))
    }

    /// How a database differs from what a manifest says, one sentence each.
    async fn differences_from(
        &self,
        server: &FleetServer,
        name: &str,
        manifest: &Manifest,
        notes: &mut Vec<String>,
    ) -> Result<Vec<String>, FleetError> {
        let mut differences = Vec::new();
        let facts = facts_of(server, name).await?;
        if facts.fingerprint().basis == manifest.fingerprint.basis {
            differences.extend(facts.difference(&manifest.facts).lines());
        } else {
            notes.push(format!(
                "the schema was not compared line by line: it comes from PostgreSQL {}, and two versions write schemas \
                 differently",
                manifest.postgres
            ));
        }
        let reader = self.make_reader(server.endpoint.name(), name).await?;
        let counted = async {
            let snapshot = Snapshot::take(&server.endpoint, name, &reader).await?;
            let lineage = migrate::lineage(snapshot.session(), &manifest.tenant.edition).await;
            let lineage = lineage.doing(|| format!("reading the history of `{name}`"))?;
            let counted =
                (snapshot.rows().await?, snapshot.sequences().await?, snapshot.large_objects().await?);
            snapshot.close().await;
            Ok::<_, FleetError>((lineage, counted))
        };
        let counted = counted.await;
        self.drop_made(server.endpoint.name(), name, &reader).await?;
        let (lineage, (rows, sequences, large_objects)) = counted?;
        if lineage != manifest.tenant.lineage() {
            differences.push("its history is another".into());
        }
        for (table, expected) in &manifest.rows {
            match rows.get(table) {
                Some(count) if count == expected => {}
                Some(count) => differences.push(format!("{table} has {count} row(s) where {expected} were")),
                None => differences.push(format!("{table} is missing")),
            }
        }
        let unset = manifest.sequences.keys().filter(|name| !sequences.contains_key(*name));
        differences.extend(unset.map(|sequence| format!("sequence {sequence} stands at its beginning")));
        if large_objects != manifest.large_objects {
            differences
                .push(format!("{large_objects} large object(s) where {} were", manifest.large_objects));
        }
        Ok(differences)
    }

    /// Runs an operator's script as the owner of a database that nobody is served from yet.
    async fn anonymise(&self, server: &FleetServer, name: &str, sql: &str) -> Result<(), FleetError> {
        let writer = self.make_operator(server.endpoint.name(), name).await?;
        let run = async {
            let doing = || "running the script that makes the copy anonymous".to_owned();
            let session = pg::connect(&server.endpoint, &writer.login, name).await.doing(doing)?;
            session.batch_execute(&format!("SET ROLE {OWNER}")).await.doing(doing)?;
            session.batch_execute(sql).await.doing(doing)?;
            session.close().await;
            Ok(())
        };
        let outcome = run.await;
        self.drop_made(server.endpoint.name(), name, &writer).await?;
        outcome
    }

    /// Fills a scratch database from a backup, compares it, and drops it. Gives what should be known.
    ///
    /// # Errors
    /// When the archive is damaged, can't be restored, or what came out is not what the manifest says.
    pub async fn verify_backup(
        &self,
        files: &BackupFiles,
        stop: &CancellationToken,
    ) -> Result<Vec<String>, FleetError> {
        let manifest = self.check_archive(files, &|_| (), stop).await?;
        let of = &manifest.tenant;
        let server =
            self.servers.get(&of.server).or_else(|_| self.servers.get(&self.settings.defaults.server))?;
        let scratch = self.make_scratch(server, &of.edition, "template0").await?;
        let source = Source::Files(files, &manifest);
        let filled = self.fill(server, &scratch.name, &of.edition, source, &CopySpec::default(), stop).await;
        self.drop_scratch(server, scratch).await?;
        filled.map(|(_, notes)| notes)
    }
}

/// The name of the tenant that keeps the database from before a restore.
fn beside(slug: &Slug) -> Result<Slug, FleetError> {
    let moment = written(OffsetDateTime::now_utc()).to_lowercase();
    Ok(format!("{}-{moment}", beside_stem(slug)).parse()?)
}

/// A slug has forty characters, and a moment sixteen.
fn beside_stem(slug: &Slug) -> String {
    let slug: String = slug.as_str().chars().take(19).collect();
    format!("{}-old", slug.trim_end_matches('-'))
}
