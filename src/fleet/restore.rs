//! Restore: a tenant from an archive or from another tenant, beside the one that is there, and then in its place.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Client;

use super::anonymise::check_script;
use super::backup::{BackupFiles, TenantManifest, written};
use super::database::DatabaseRights;
use super::fill::Source;
use super::roles::{self, MIGRATORS, OWNER, migrator_of};
use super::{Doing, Fleet, FleetError, FleetServer, TenantSpec, Watcher, database};
use crate::catalog::{Filter, TenantRow};
use crate::pg::{AdvisoryLock, Ident};
use crate::policy::Secret;
use crate::tenant::{BaseUrl, Record, Slug, TenantId, Verb, labelled};

/// A lock that somebody else has is not waited for.
const NO_WAIT: Duration = Duration::ZERO;

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
    /// The tenant whose place its database will take.
    pub replaces: Option<TenantId>,
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

impl Fleet {
    /// Brings a tenant back from a backup: into a new database beside the one that it has, which is compared with the
    /// manifest and then takes its place. The one from before is kept by a retired tenant with a name of its own. The
    /// tenant keeps id, keys, passwords, base URLs and settings. Where no tenant has the slug, one is made.
    ///
    /// # Errors
    /// When the backup is another tenant's, the archive is damaged, the settings don't have its edition, the watcher stopped it,
    /// a server refuses, or what came out is not what the manifest says. The tenant is as it was then, and nothing is left of
    /// the new database.
    pub async fn restore_from(
        &self,
        slug: &Slug,
        files: &BackupFiles,
        spec: &CopySpec,
        watcher: Watcher<'_>,
    ) -> Result<Filled, FleetError> {
        self.alone_into(slug, Box::pin(self.restore_alone(slug, files, spec, watcher))).await
    }

    async fn restore_alone(
        &self,
        slug: &Slug,
        files: &BackupFiles,
        spec: &CopySpec,
        watcher: Watcher<'_>,
    ) -> Result<Filled, FleetError> {
        let live = self.tenant_to_replace(slug).await?;
        self.refuse_another(&files.read()?.tenant, slug, live.as_ref()).await?;
        let manifest = self.check_archive(files, watcher).await?;
        let Some(live) = live else {
            let (base_urls, notes) = self.own_base_urls(slug, &manifest.tenant).await?;
            let spec = CopySpec { base_urls, ..spec.clone() };
            let mut filled = self.fill_new(slug, Source::Files(files, &manifest), &spec, watcher).await?;
            filled.notes.extend(notes);
            return Ok(filled);
        };
        let id = &live.record.id;
        if live.record.is_adopted() {
            return Err(FleetError::Adopted(slug.to_string(), "restored here, but as another tenant (--as)"));
        }
        let beside = self.name_beside(slug).await?;
        let server = Some(live.record.server.clone());
        let spec = CopySpec { server, replaces: Some(id.clone()), ..spec.clone() };
        let filled = self.fill_new(&beside, Source::Files(files, &manifest), &spec, watcher).await?;
        self.retire(beside.as_str(), None).await?;
        if let Err(error) = self.exchange(id, &filled.tenant.record.id).await {
            return Err(FleetError::Settings(format!(
                "the restored database is ready, as that of `{beside}`, but was not switched to: {error}; `manybox apply` \
                 tries that again"
            )));
        }
        let tenant = self.tenant(slug.as_str()).await?;
        Ok(Filled { tenant, replaced: Some(beside.to_string()), notes: filled.notes })
    }

    /// The base URLs of its own that a tenant had which is made anew, and a sentence for each that it does not get: one that
    /// is another's now, and all where the catalog doesn't know of the tenant, so that nothing but a file says they are its.
    async fn own_base_urls(
        &self,
        slug: &Slug,
        of: &TenantManifest,
    ) -> Result<(Vec<BaseUrl>, Vec<String>), FleetError> {
        let known = match of.id.parse::<TenantId>() {
            Ok(id) => self.catalog.tenant(&id).await?.is_some(),
            Err(_) => false,
        };
        let (templated, rows) = (self.templated(slug)?, self.catalog.tenants(&Filter::default()).await?);
        let (mut own, mut notes) = (Vec::new(), Vec::new());
        for url in &of.base_urls {
            let url: BaseUrl = url.parse()?;
            let holder = rows.iter().find(|row| row.record.base_urls.contains(&url));
            let why = match holder {
                _ if templated.contains(&url) => continue,
                None if known => {
                    own.push(url);
                    continue;
                }
                Some(row) => format!("it is tenant `{}`'s now", row.record.slug),
                None => "the catalog does not know that tenant".into(),
            };
            notes.push(format!(
                "base URL {url} was not taken over: {why}; see `manybox tenant set {slug} base_urls=…`"
            ));
        }
        Ok((own, notes))
    }

    /// Does what makes a tenant of this slug from a source, unless another command is just doing that.
    pub(super) async fn alone_into<T>(
        &self,
        slug: &Slug,
        work: impl Future<Output = Result<T, FleetError>>,
    ) -> Result<T, FleetError> {
        let place = &self.settings.catalog.server;
        let (_, client) = self.admin(place).await?;
        let key = self.keys.lock_key(&["into", &self.settings.catalog.database, slug.as_str()]);
        let lock = AdvisoryLock::acquire(&client, key, NO_WAIT).await;
        let lock = lock.doing(|| format!("locking the name `{slug}`"))?;
        let lock =
            lock.ok_or_else(|| FleetError::Busy(format!("a restore, clone or import into `{slug}`")))?;
        let done = work.await;
        // Its session may have ended in all that time, and the lock with it.
        if lock.release(&client).await.is_ok() {
            self.keep(place, client);
        }
        done
    }

    /// The name of the tenant that keeps the database from before a restore.
    async fn name_beside(&self, slug: &Slug) -> Result<Slug, FleetError> {
        // A slug has forty characters, and a moment sixteen.
        let stem: String = slug.as_str().chars().take(19).collect();
        let mut moment = OffsetDateTime::now_utc();
        loop {
            let beside = format!("{}-old-{}", stem.trim_end_matches('-'), written(moment).to_lowercase());
            let beside: Slug = beside.parse()?;
            if self.catalog.tenant_by_slug(beside.as_str()).await?.is_none() {
                return Ok(beside);
            }
            // Another restore within this second, perhaps of a tenant whose name begins alike.
            moment += Duration::from_secs(1);
        }
    }

    /// The tenant that a restore is for, when what killed restores of it left has been finished or dropped.
    async fn tenant_to_replace(&self, slug: &Slug) -> Result<Option<TenantRow>, FleetError> {
        let live = self.catalog.tenant_by_slug(slug.as_str()).await?;
        let id = live.as_ref().map(|row| row.record.id.to_string());
        if let Some(live) = &live
            && live.exchange.is_some()
        {
            self.settle(&live.record.id).await?;
        }
        for row in self.catalog.tenants(&Filter::default()).await? {
            let half = row.filling.is_some() && row.record.slug == *slug;
            if half || row.replaces.is_some() && row.replaces == id {
                self.carry_out_now(row.record.slug.as_str(), Verb::Purge).await?;
            }
        }
        Ok(self.catalog.tenant_by_slug(slug.as_str()).await?)
    }

    /// Refuses the backup of another tenant: nobody may find another's data under his own name. Where the catalog doesn't
    /// know whose id the backup has, it comes from another fleet, and its name decides.
    async fn refuse_another(
        &self,
        of: &TenantManifest,
        slug: &Slug,
        live: Option<&TenantRow>,
    ) -> Result<(), FleetError> {
        if live.is_some_and(|live| live.record.id.as_str() == of.id) {
            return Ok(());
        }
        let known = match of.id.parse::<TenantId>() {
            Ok(id) if live.is_some() => self.catalog.tenant(&id).await?,
            _ => None,
        };
        let whose = match known {
            None if of.slug == slug.as_str() => return Ok(()),
            Some(row) if row.record.slug == *slug => {
                format!(
                    "`{slug}`, which is {}: this one was made since, retire and purge it first",
                    row.record.state
                )
            }
            Some(row) => format!("`{}`, which is {}", row.record.slug, row.record.state),
            None => format!("`{}`", of.slug),
        };
        Err(FleetError::Settings(format!(
            "the backup is not of `{slug}`, but of tenant {} ({whose}); nothing was restored. To make a tenant of it: \
             `manybox tenant restore {} --from FILE --as NEW`",
            of.id, of.slug
        )))
    }

    /// Makes a tenant of this slug from a backup of the tenant `of`.
    ///
    /// # Errors
    /// As [`Fleet::restore_from`], and when the slug is taken.
    pub async fn restore_as(
        &self,
        (of, slug): (&Slug, &Slug),
        files: &BackupFiles,
        spec: &CopySpec,
        watcher: Watcher<'_>,
    ) -> Result<Filled, FleetError> {
        let manifest = files.read()?;
        if manifest.tenant.slug != of.as_str() {
            let live = self.catalog.tenant_by_slug(of.as_str()).await?;
            self.refuse_another(&manifest.tenant, of, live.as_ref()).await?;
        }
        let work = async {
            self.refuse_taken(slug).await?;
            let manifest = self.check_archive(files, watcher).await?;
            self.fill_new(slug, Source::Files(files, &manifest), spec, watcher).await
        };
        self.alone_into(slug, Box::pin(work)).await
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
        watcher: Watcher<'_>,
    ) -> Result<Filled, FleetError> {
        spec.anonymise.as_deref().map_or(Ok(()), check_script)?;
        let work = async {
            self.refuse_taken(slug).await?;
            self.fill_new(slug, Source::Tenant(source), spec, watcher).await
        };
        self.alone_into(slug, Box::pin(work)).await
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
        watcher: Watcher<'_>,
    ) -> Result<Filled, FleetError> {
        let (row, mut notes) = self.intend_copy(slug, source, spec).await?;
        let filled = Box::pin(self.fill_tenant(&row.record, source, spec, watcher)).await;
        match filled {
            Ok(more) => {
                notes.extend(more);
                let tenant = self.tenant(slug.as_str()).await?;
                Ok(Filled { tenant, replaced: None, notes })
            }
            Err(error) => {
                // Nothing half is left; where the server is away, `purge` is what its row still allows.
                if let Err(left) = Box::pin(self.carry_out(slug.as_str(), Verb::Purge)).await {
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
                    labels: labelled(&BTreeMap::new(), labels)?,
                    filling: Some(from),
                    replaces: spec.replaces.clone(),
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
        watcher: Watcher<'_>,
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
            let (lineage, notes) =
                self.fill(server, (&name, &edition), source, spec.anonymise.as_deref(), watcher).await?;
            let migrator = migrator_of(&name);
            let temporary = self.temporary(&edition);
            let rights = DatabaseRights { owner: OWNER, logins: &[&name, &migrator], temporary: &temporary };
            let mut login = self.login(record, false)?;
            if spec.replaces.is_some() {
                // It waits, retired, until the two trade.
                login.push_str(&format!("ALTER ROLE {} NOLOGIN;", Ident::new(&name)));
            }
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

    /// Fills a scratch database from a backup, compares it, and drops it. Gives what should be known.
    ///
    /// # Errors
    /// When the archive is damaged, can't be restored, or what came out is not what the manifest says.
    pub async fn verify_backup(
        &self,
        files: &BackupFiles,
        watcher: Watcher<'_>,
    ) -> Result<Vec<String>, FleetError> {
        let manifest = self.check_archive(files, watcher).await?;
        let of = &manifest.tenant;
        let server =
            self.servers.get(&of.server).or_else(|_| self.servers.get(&self.settings.defaults.server))?;
        let scratch = self.make_scratch(server, &of.edition, "template0").await?;
        let source = Source::Files(files, &manifest);
        let filled = self.fill(server, (&scratch.name, &of.edition), source, None, watcher).await;
        self.drop_scratch(server, scratch).await?;
        filled.map(|(_, notes)| notes)
    }
}
