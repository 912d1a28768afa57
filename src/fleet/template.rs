//! Template: a closed database per server, edition and version, from which tenants are copied.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::database::DatabaseRights;
use super::dump::facts_of;
use super::roles::{self, MIGRATORS, OWNER, migrator_of};
use super::{Doing, Fleet, FleetError, FleetServer, Unprepared, database, rights};
use crate::catalog::Template;
use crate::migrate::{self, FailureKind, Standing, standing};
use crate::pg::{AdvisoryLock, Connection, Ident};
use crate::tenant::{Lineage, TenantId};

/// How long to wait for another command that builds the same template.
const LOCK_WAIT: Duration = Duration::from_secs(300);
/// Most differences that are told.
const MAX_DIFFERENCES: usize = 20;

impl Fleet {
    /// The ready template of an edition on a server; builds the first one.
    ///
    /// # Errors
    /// When the files contradict the fleet, the server refuses, or one of the files fails.
    pub async fn template(&self, server: &str, edition: &str) -> Result<Template, FleetError> {
        let files = self.edition(edition)?;
        self.refuse_contradiction(&files).await?;
        match self.ready(server, edition).await? {
            // One whose files the rest of the fleet does not have is the odd one out.
            Some(template) if leads_to(&template, &files) && has_way(&template, &files) => Ok(template),
            // Rare, and much to keep in the future of each creation.
            _ => Box::pin(self.refresh_template(server, &files, &|| ())).await,
        }
    }

    /// The one that the catalog calls ready, if it is there as the catalog says: a server that went back to its backup has
    /// those of that time.
    async fn ready(&self, server: &str, edition: &str) -> Result<Option<Template>, FleetError> {
        let mut templates = self.catalog.templates().await?.into_iter();
        let is_it = |t: &Template| t.server == server && t.lineage.edition == edition && t.state == "ready";
        let Some(template) = templates.find(is_it) else { return Ok(None) };
        let (_, client) = self.admin(server).await?;
        let label = database::label_of(&client, &template.database).await?;
        self.keep(server, client);
        if label.as_ref() == Some(&template.lineage.history) {
            return Ok(Some(template));
        }
        let name = &template.database;
        tracing::warn!(
            server,
            edition,
            template = name,
            "the template is not as it was made: another takes its place"
        );
        match label {
            None => self.catalog.template_delete(name).await?,
            Some(_) => {
                self.catalog.template_retire(&template, "it is not what was made by its files").await?
            }
        }
        Ok(None)
    }

    /// Makes a template of the edition's newest version and switches to it. It is made beside the one in use, so that
    /// tenants can be created meanwhile. The old template stays: the version after this one is made from it. `applied`
    /// is called as soon as the files have run and the schema that they make is stored, some commits before the template is
    /// ready.
    ///
    /// Files that failed are not run again by this handle for a minute: of a thousand creations few build.
    ///
    /// # Errors
    /// When the files contradict the fleet, the server refuses, or one of the files fails; the template before stays in use,
    /// and nothing is left of the new one.
    pub async fn refresh_template(
        &self,
        server: &str,
        edition: &migrate::Edition,
        applied: &(dyn Fn() + Sync),
    ) -> Result<Template, FleetError> {
        self.refuse_contradiction(edition).await?;
        let (_, client) = self.admin(server).await?;
        let lock = self.lock_template(&client, server, &edition.name).await?;
        let refreshed = self.refresh_locked(&client, server, edition, applied).await;
        if refreshed.is_err()
            && let Err(error) = self.drop_unfinished(&client, server, &edition.name).await
        {
            tracing::warn!(server, edition = edition.name, %error, "what is left of a template stays until the next command");
        }
        self.unlock_template(&client, lock).await?;
        refreshed
    }

    /// Called under the template's lock.
    async fn refresh_locked(
        &self,
        client: &Connection,
        server: &str,
        edition: &migrate::Edition,
        applied: &(dyn Fn() + Sync),
    ) -> Result<Template, FleetError> {
        // A command with other files may have made a template while this one waited for the lock.
        self.refuse_contradiction(edition).await?;
        if let Some(ready) = self.ready(server, &edition.name).await?
            && standing(edition, &ready.lineage) == Standing::Current
        {
            applied();
            return Ok(ready);
        }
        let files = edition.history_digest(edition.latest());
        if let Some(failure) = self.failed_builds.recent(server, &edition.name, &files) {
            return Err(failed_build(&edition.name, failure));
        }
        self.drop_unfinished(client, server, &edition.name).await?;
        let built = match self.reuse(client, server, edition, applied).await {
            Ok(Some(template)) => return Ok(template),
            Ok(None) => self.build(client, server, edition, applied).await,
            // The files' fault, and then a new template fails as well and says so; or somebody changed the old one.
            Err(error) if is_of_files(&error) => {
                let built = self.build(client, server, edition, applied).await;
                if built.is_ok() {
                    let (edition, error) = (&edition.name, error.to_string());
                    tracing::warn!(
                        server,
                        edition,
                        error,
                        "template made anew: its files failed in the old one only"
                    );
                }
                built
            }
            Err(error) => Err(error),
        };
        if let Err(error @ FleetError::Migrate { source, .. }) = &built
            && is_of_files(error)
        {
            self.failed_builds.put(server, &edition.name, files, (**source).clone());
        }
        built
    }

    /// Drops what failed or killed commands left of templates, unless a command is at work on one of the same edition; the
    /// schemas of finished templates that the catalog lacks are stored.
    ///
    /// # Errors
    /// When the catalog can't be read, or a server refuses.
    pub async fn tend_templates(&self) -> Result<Vec<Unprepared>, FleetError> {
        let unfinished = self.catalog.templates().await?.into_iter().filter(|t| t.state == "building");
        let places: BTreeSet<_> = unfinished.map(|t| (t.server, t.lineage.edition)).collect();
        let mut unreached: Vec<Unprepared> = Vec::new();
        for (server, edition) in places {
            if unreached.iter().any(|u| u.server == server) {
                continue;
            }
            if let Err(error) = self.tend_unfinished(&server, &edition).await {
                unreached.push(Unprepared { server, error });
            }
        }
        self.record_missing_schemas().await?;
        Ok(unreached)
    }

    async fn tend_unfinished(&self, server: &str, edition: &str) -> Result<(), FleetError> {
        let (_, client) = self.admin(server).await?;
        let key = self.template_key(server, edition);
        let lock = AdvisoryLock::acquire(&client, key, Duration::ZERO).await;
        if let Some(lock) = lock.doing(|| format!("locking the template of edition `{edition}`"))? {
            self.drop_unfinished(&client, server, edition).await?;
            self.unlock_template(&client, lock).await?;
        }
        Ok(())
    }

    /// Drops what is left of templates that were never finished. Called under the template's lock, so they are nobody's work
    /// in progress.
    async fn drop_unfinished(
        &self,
        client: &Connection,
        server: &str,
        edition: &str,
    ) -> Result<(), FleetError> {
        let templates = self.catalog.templates().await?;
        let ours = templates.iter().filter(|t| t.server == server && t.lineage.edition == edition);
        for template in ours.filter(|t| t.state == "building") {
            self.drop_template(client, template).await?;
        }
        Ok(())
    }

    /// Drops a template, unless a creation is just copying it: then the next sweep does.
    async fn drop_template(&self, client: &Connection, template: &Template) -> Result<(), FleetError> {
        let dropping = database::drop(client, &template.database);
        match self.servers.get(&template.server)?.unhindered(dropping).await {
            Ok(()) => Ok(self.catalog.template_delete(&template.database).await?),
            Err(error) if database::in_use(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Drops templates that are of no more use: those whose creation failed or was killed, and replaced ones that the
    /// next version can't be made from. Each drop waits for a checkpoint of the server, so nobody should wait for it.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn sweep_templates(&self, server: &str, edition: &str) -> Result<(), FleetError> {
        let (_, client) = self.admin(server).await?;
        let lock = self.lock_template(&client, server, edition).await?;
        self.sweep(&client, server, edition).await?;
        self.unlock_template(&client, lock).await
    }

    pub(super) async fn lock_template(
        &self,
        client: &Connection,
        server: &str,
        edition: &str,
    ) -> Result<AdvisoryLock, FleetError> {
        let key = self.template_key(server, edition);
        AdvisoryLock::acquire(client, key, LOCK_WAIT)
            .await
            .doing(|| format!("locking the template of edition `{edition}`"))?
            .ok_or_else(|| FleetError::Busy(format!("the template of edition `{edition}`")))
    }

    /// The key of the lock that whoever works on the templates of an edition on a server holds.
    fn template_key(&self, server: &str, edition: &str) -> i64 {
        self.keys.lock_key(&["template", server, &self.settings.catalog.database, edition])
    }

    pub(super) async fn unlock_template(
        &self,
        client: &Connection,
        lock: AdvisoryLock,
    ) -> Result<(), FleetError> {
        lock.release(client).await.doing(|| "releasing the template's lock".into())
    }

    /// Migrates the template that was in use before the ready one. It lacks only the newest files; a new template would
    /// need all of them, and a DROP DATABASE of an old one, for which the server writes a checkpoint. `None` when no
    /// template's history leads to the edition, or it can't be opened any more; the sweep then drops what is left. Files that fail
    /// in it are an error.
    async fn reuse(
        &self,
        client: &Connection,
        server: &str,
        edition: &migrate::Edition,
        applied: &(dyn Fn() + Sync),
    ) -> Result<Option<Template>, FleetError> {
        let templates = self.catalog.templates().await?;
        let Some(old) = templates.iter().rfind(|t| t.server == server && reusable(t, edition)) else {
            return Ok(None);
        };
        self.catalog.template_reuse(&old.database).await?;
        let access = self.servers.get(server)?;
        let brought = async {
            access.unhindered(database::unseal(client, &old.database)).await?;
            // It may be from before there was one for each database.
            let (api_roles, temporary) = (self.settings.roles(), self.temporary(&edition.name));
            access.unhindered(database::give_migrator(client, &old.database, &api_roles, &temporary)).await?;
            self.bring_up(client, server, edition, &old.database, applied).await
        };
        match brought.await {
            Ok(template) => Ok(Some(template)),
            Err(error) if is_of_files(&error) => Err(error),
            Err(error) => {
                let (template, error) = (&old.database, error.to_string());
                tracing::warn!(
                    edition = edition.name,
                    template,
                    error,
                    "template not reused: making a new one"
                );
                Ok(None)
            }
        }
    }

    async fn build(
        &self,
        client: &Connection,
        server: &str,
        edition: &migrate::Edition,
        applied: &(dyn Fn() + Sync),
    ) -> Result<Template, FleetError> {
        let name = format!("mb_t_{}", TenantId::random()?);
        self.catalog.template_insert(&name, server, &edition.name).await?;
        database::create_closed(client, &name, "template0").await?;
        let migrator = migrator_of(&name);
        let temporary = self.temporary(&edition.name);
        let rights = DatabaseRights { owner: OWNER, logins: &[&migrator], temporary: &temporary };
        let logins = roles::migrator(&migrator, MIGRATORS, false);
        self.servers.get(server)?.unhindered(database::open(client, &name, &rights, &logins)).await?;
        self.bring_up(client, server, edition, &name, applied).await
    }

    /// Makes an open database, new or an old template, the ready template.
    async fn bring_up(
        &self,
        client: &Connection,
        server: &str,
        edition: &migrate::Edition,
        name: &str,
        applied: &(dyn Fn() + Sync),
    ) -> Result<Template, FleetError> {
        let access = self.servers.get(server)?;
        self.prepare_for_edition(access, edition, name).await?;

        let options = self.migrate_options();
        let (files, stop) = (edition.for_template(), CancellationToken::new());
        let outcome = self.migrate_database(server, name, edition.latest(), &files, &options, &stop).await?;
        let outcome = outcome.map_err(|failure| failed_build(&edition.name, failure))?;
        if outcome.before == 0 && edition.begins_squashed() {
            self.refuse_other(access, edition, &outcome.history, name).await?;
        }
        for finding in edition.frozen_values(outcome.before) {
            let (edition, finding) = (&edition.name, finding.to_string());
            tracing::warn!(edition, finding, "template made with values that all its tenants share");
        }
        let lineage =
            Lineage { edition: edition.name.clone(), version: outcome.after, history: outcome.history };
        // Before any tenant has this lineage, so that no router looks for its schema in vain.
        self.record_schema(server, name, &lineage).await?;
        applied();
        database::label(client, name, &lineage.history).await?;
        access.unhindered(database::seal(client, name)).await?;
        self.catalog.template_ready(name, lineage.version, &lineage.history).await?;
        self.ready(server, &edition.name).await?.ok_or_else(|| FleetError::Busy(format!("template `{name}`")))
    }

    /// Refuses a template that a squashed file was part of where the same files made another schema before: databases of one
    /// lineage have one.
    async fn refuse_other(
        &self,
        server: &FleetServer,
        edition: &migrate::Edition,
        history: &str,
        name: &str,
    ) -> Result<(), FleetError> {
        let (place, version) = (server.endpoint.name(), edition.latest());
        let lineage = Lineage { edition: edition.name.clone(), version, history: history.to_owned() };
        let basis = self.fingerprint_basis(place).await?;
        let Some(kept) = self.kept_facts(place, &lineage, &basis).await? else { return Ok(()) };
        let difference = facts_of(server, name).await?.difference(&kept);
        if difference.is_empty() {
            return Ok(());
        }
        Err(FleetError::Settings(format!(
            "the squashed file of edition `{}` makes another schema on server `{place}` than the fleet has at version {version}: \
             {}. Put the files back that it takes the place of, delete it, and run `manybox migrate squash` again",
            edition.name,
            difference.lines().into_iter().take(MAX_DIFFERENCES).collect::<Vec<_>>().join("; ")
        )))
    }

    /// What every database of the edition begins with, before a file of it has run.
    pub(super) async fn prepare_for_edition(
        &self,
        server: &FleetServer,
        edition: &migrate::Edition,
        name: &str,
    ) -> Result<(), FleetError> {
        let mut admin = server.connect_admin_inside(name).await?;
        let (owners, api_roles) = (roles::of_tenants(), self.settings.roles());
        let taken = migrate::prepare_template(&mut admin, &owners, &api_roles, edition.latest()).await;
        rights::all_taken(name, taken.doing(|| format!("preparing database `{name}`"))?)?;
        let extensions = self.settings.editions.get(&edition.name).map(|e| e.extensions.as_slice());
        for extension in extensions.unwrap_or_default() {
            let sql =
                format!("CREATE EXTENSION IF NOT EXISTS {} WITH SCHEMA extensions", Ident::new(extension));
            admin.batch_execute(&sql).await.doing(|| {
                format!(
                    "creating extension `{extension}` of edition `{}` (see `manybox server check`)",
                    edition.name
                )
            })?;
        }
        admin.close().await;
        Ok(())
    }

    /// Called under the template's lock, so a `building` row is nobody's work in progress.
    async fn sweep(&self, client: &Connection, server: &str, edition: &str) -> Result<(), FleetError> {
        let templates = self.catalog.templates().await?;
        let ours = templates.iter().filter(|t| t.server == server && t.lineage.edition == edition);
        let edition = self.edition(edition)?;
        let kept = ours.clone().rfind(|t| reusable(t, &edition)).map(|t| &t.database);
        for template in ours.filter(|t| t.state != "ready" && Some(&t.database) != kept) {
            self.drop_template(client, template).await?;
        }
        Ok(self.catalog.lineages_sweep(server, &edition.name).await?)
    }
}

/// Whether a build failed by what is in its files.
fn is_of_files(error: &FleetError) -> bool {
    let of_files = [FailureKind::Sql, FailureKind::Owner, FailureKind::Session];
    matches!(error, FleetError::Migrate { source, .. } if of_files.contains(&source.kind))
}

/// Whether the edition's newest version can be made from this template.
fn reusable(template: &Template, edition: &migrate::Edition) -> bool {
    // Brought up out of order it would be another than one that is made by the files in their order.
    let in_order = edition.gap(&template.lineage.history).is_none();
    template.state == "stale" && in_order && leads_to(template, edition) && has_way(template, edition)
}

/// Whether what the template lacks is here: squashed files take the place of others in new templates alone.
fn has_way(template: &Template, edition: &migrate::Edition) -> bool {
    edition.needed_by(template.lineage.version, &template.lineage.history).is_none()
}

/// Whether the edition's files begin with those that the template was made by.
fn leads_to(template: &Template, edition: &migrate::Edition) -> bool {
    matches!(standing(edition, &template.lineage), Standing::Behind { .. } | Standing::Current)
}

fn failed_build(edition: &str, failure: migrate::MigrationFailure) -> FleetError {
    FleetError::Migrate {
        doing: format!("building the template of edition `{edition}`"),
        source: Box::new(failure),
    }
}
