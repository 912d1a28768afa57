//! Provision: a tenant's login and database, from the intent in the catalog to the first request.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::database::DatabaseRights;
use super::roles::{self, MIGRATORS, OWNER, migrator_of};
use super::{Doing, Fleet, FleetError, database};
use crate::catalog::{CatalogError, NewTenant, Template, TenantRow};
use crate::migrate;
use crate::pg::{AdvisoryLock, Ident, literal};
use crate::policy::{Limits, Overrides};
use crate::tenant::{BaseUrl, Lineage, Origin, Record, Slug, State, TenantId};

/// How long to wait for another command that is at work on the same tenant. The backend of a killed command finishes
/// its CREATE DATABASE before its lock goes.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// What an operator asks for; what is `None` comes from `[defaults]`.
#[derive(Debug, Clone, Default)]
pub struct TenantSpec {
    /// The edition.
    pub edition: Option<String>,
    /// The tier.
    pub tier: Option<String>,
    /// The server.
    pub server: Option<String>,
    /// Base URLs beside those from `listen.base_urls`.
    pub base_urls: Vec<BaseUrl>,
    /// What it has different.
    pub overrides: Overrides,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What its database will be filled from, when not from its edition's template.
    pub filling: Option<String>,
    /// The tenant whose place its database will take, when it is filled.
    pub replaces: Option<TenantId>,
}

impl Fleet {
    /// Creates a tenant, or finishes the creation that a killed command began. One that is there as it is asked for is
    /// returned as it is.
    ///
    /// # Errors
    /// When the slug is a tenant's that is otherwise, a base URL is taken, or a server refuses; run again, it goes on where
    /// it stopped.
    pub async fn create(&self, slug: &Slug, spec: &TenantSpec) -> Result<TenantRow, FleetError> {
        let row = self.begin_create(slug, spec).await?;
        match row.record.state {
            State::Creating => Box::pin(self.finish_create(&row)).await,
            _ => Ok(row),
        }
    }

    /// Writes the intent to create a tenant, unless it is there: [`Fleet::finish_create`] does the rest.
    ///
    /// # Errors
    /// As [`Fleet::create`].
    pub async fn begin_create(&self, slug: &Slug, spec: &TenantSpec) -> Result<TenantRow, FleetError> {
        match self.catalog.tenant_by_slug(slug.as_str()).await? {
            Some(row) => self.created_again(row, spec),
            // Boxed, both: a creation's futures are large, and callers hold them on their stack.
            None => match Box::pin(self.intend(TenantId::random()?, slug, spec)).await {
                // Another command was quicker.
                Err(FleetError::Catalog(CatalogError::Server(error)))
                    if error.code() == Some(&SqlState::UNIQUE_VIOLATION) =>
                {
                    match self.catalog.tenant_by_slug(slug.as_str()).await? {
                        Some(row) => self.created_again(row, spec),
                        None => Err(CatalogError::Server(error).into()),
                    }
                }
                intended => intended,
            },
        }
    }

    /// The tenant that has the slug already, when it is what is asked for.
    fn created_again(&self, row: TenantRow, spec: &TenantSpec) -> Result<TenantRow, FleetError> {
        let record = &row.record;
        let edition = record.lineage().map_or("(adopted)", |lineage| &lineage.edition);
        let given = |url: &BaseUrl| record.base_urls.contains(url);
        let mut others = Vec::new();
        for (what, is, wanted) in [
            ("edition", edition, &spec.edition),
            ("tier", &record.tier, &spec.tier),
            ("server", &record.server, &spec.server),
        ] {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != is) {
                others.push(format!("its {what} is `{is}`, not `{wanted}`"));
            }
        }
        others.extend(
            spec.labels
                .iter()
                .filter(|(name, value)| row.labels.get(*name) != Some(*value))
                .map(|(name, value)| format!("it does not have the label {name}={value}")),
        );
        others.extend(
            spec.base_urls.iter().filter(|url| !given(url)).map(|url| format!("it does not have {url}")),
        );
        if record.is_adopted() {
            others.push("its database was adopted".into());
        }
        let is_there = matches!(record.state, State::Creating | State::Active | State::Suspended);
        if others.is_empty() && is_there {
            return Ok(row);
        }
        let why = if others.is_empty() { String::new() } else { format!(": {}", others.join(", ")) };
        Err(FleetError::Settings(format!(
            "tenant `{0}` is there already ({1}){why}; nothing was changed, see `manybox tenant show {0}`",
            record.slug, record.state
        )))
    }

    /// Writes the intent to create a tenant of this id.
    ///
    /// # Errors
    /// [`FleetError::Foreign`] when its role or database is there: nothing of a fresh id can be ours.
    pub async fn intend(
        &self,
        id: TenantId,
        slug: &Slug,
        spec: &TenantSpec,
    ) -> Result<TenantRow, FleetError> {
        let defaults = &self.settings.defaults;
        let edition = spec.edition.clone().or_else(|| defaults.edition.clone()).ok_or_else(|| {
            FleetError::Settings(
                "no edition was given and defaults.edition is not set; give --edition".into(),
            )
        })?;
        self.refuse_contradiction(&self.edition(&edition)?).await?;
        let tier = spec.tier.clone().unwrap_or_else(|| defaults.tier.clone());
        self.known_tier(&tier)?;
        let server = spec.server.clone().unwrap_or_else(|| defaults.server.clone());
        let (_, client) = self.admin(&server).await?;
        let name = id.database();
        let foreign = |what| FleetError::Foreign { what, name: name.clone(), server: server.clone() };
        let found = database::found(&client, &name).await?;
        if found.database {
            return Err(foreign("database"));
        }
        if found.login || found.migrator {
            return Err(foreign("role"));
        }
        self.keep(&server, client);
        let (_, api) = spec.overrides.applied_to(Limits::default(), self.settings.edition_api(&edition));
        self.settings.check_roles(&api)?;
        let new = NewTenant {
            id: id.clone(),
            slug: slug.clone(),
            tier,
            server: server.clone(),
            origin: Origin::Lineage(Lineage { edition, version: 0, history: String::new() }),
            key: self.keys.newest().id(),
            templated: self.templated(slug)?,
            given: spec.base_urls.clone(),
            sealed: self.sealed_anew(&id, &spec.overrides)?,
            overrides: spec.overrides.clone(),
            labels: spec.labels.clone(),
            filling: spec.filling.clone(),
            replaces: spec.replaces.clone(),
        };
        self.catalog.tenant_insert(&new).await?;
        self.catalog.tenant(&id).await?.ok_or_else(|| FleetError::Unknown(slug.to_string()))
    }

    /// The base URLs that the settings give to a slug.
    pub(super) fn templated(&self, slug: &Slug) -> Result<Vec<BaseUrl>, FleetError> {
        self.settings.listen.base_urls.iter().map(|t| Ok(t.fill(slug)?)).collect()
    }

    /// Brings an intended tenant into service, from wherever an earlier attempt stopped.
    ///
    /// # Errors
    /// When a server refuses; what was made stays for the next attempt.
    pub async fn finish_create(&self, row: &TenantRow) -> Result<TenantRow, FleetError> {
        let record = &row.record;
        let (server, client) = self.admin(&record.server).await?;
        let busy = || FleetError::Busy(format!("tenant `{}`", record.slug));
        // Held by the connection that runs CREATE DATABASE. Its backend outlives a kill -9 of this process, and the next
        // attempt can tell what is there only after it has ended.
        let lock =
            AdvisoryLock::acquire(&client, self.keys.lock_key(&["tenant", record.id.as_str()]), LOCK_WAIT)
                .await
                .doing(|| format!("locking tenant `{}`", record.slug))?
                .ok_or_else(busy)?;
        let current = self.catalog.tenant(&record.id).await?.ok_or_else(busy)?;
        if let Some(filling) = &current.filling {
            return Err(FleetError::Settings(format!(
                "tenant `{}` was being {filling}, and that was stopped: run it again, or `manybox tenant purge` it",
                record.slug
            )));
        }
        if current.record.state == State::Creating {
            server.unhindered(Box::pin(self.make(&client, &current.record))).await?;
        }
        lock.release(&client).await.doing(|| "releasing the tenant's lock".into())?;
        self.keep(&record.server, client);
        self.mark(&record.id).await;
        self.catalog.tenant(&record.id).await?.ok_or_else(busy)
    }

    /// Makes the database; then its login, its rights and the opening in one transaction; then writes to the catalog.
    /// What an interrupted attempt left is made anew.
    async fn make(&self, client: &Client, record: &Record) -> Result<(), FleetError> {
        let name = record.id.database();
        let mut found = database::found(client, &name).await?;
        if found.database {
            // Nobody knows which template it was copied from. A new copy takes milliseconds.
            database::drop(client, &name).await?;
            found = database::found(client, &name).await?;
        }
        let template = self.copy(client, record).await?;
        let migrator = migrator_of(&name);
        let mut logins = self.login(record, found.login)?;
        logins.push_str(&roles::migrator(&migrator, MIGRATORS, found.migrator));
        let temporary = self.temporary(&template.lineage.edition);
        let rights = DatabaseRights { owner: OWNER, logins: &[&name, &migrator], temporary: &temporary };
        database::open(client, &name, &rights, &logins).await?;
        self.run_per_tenant(record, &template).await?;
        let newest = self.keys.newest().id();
        if record.key != newest {
            let (sealed, lost) = self.resealed(record, false)?;
            self.catalog.tenant_rekeyed(record, newest, &sealed, &lost).await?;
        }
        if self.catalog.tenant_created(&record.id, &template).await? {
            return Ok(());
        }
        Err(FleetError::Busy(format!("the template of edition `{}`", template.lineage.edition)))
    }

    /// Does in a copy of the template what its files are marked to do in each tenant. Cut off in between, the copy is made
    /// anew.
    async fn run_per_tenant(&self, record: &Record, template: &Template) -> Result<(), FleetError> {
        let Lineage { edition, version, .. } = &template.lineage;
        let edition = self.edition(edition)?;
        if !edition.is_per_tenant(*version) {
            return Ok(());
        }
        let migrator = self.migrator(&record.server, &record.id.database()).await?;
        let done = migrate::run_per_tenant(&migrator, &edition, *version, &self.migrate_options()).await;
        self.close_migrator(&record.server, migrator).await?;
        done.map_err(|source| FleetError::PerTenant {
            slug: record.slug.to_string(),
            source: Box::new(source),
        })
    }

    /// Copies the ready template.
    async fn copy(&self, client: &Client, record: &Record) -> Result<Template, FleetError> {
        // An adopted tenant is never in creation.
        let lineage =
            record.lineage().ok_or_else(|| FleetError::Adopted(record.slug.to_string(), "created"))?;
        // Fails only when closed, which it never is.
        let _leave = self.copies.acquire().await;
        let mut tries = 0;
        loop {
            let template = self.template(&record.server, &lineage.edition).await?;
            match database::create_closed(client, &record.id.database(), &template.database).await {
                Ok(()) => return Ok(template),
                // It was replaced between look-up and copy: a migration is under way.
                Err(FleetError::Server { source, .. })
                    if tries == 0
                        && [SqlState::INVALID_CATALOG_NAME, SqlState::OBJECT_IN_USE]
                            .iter()
                            .any(|code| source.code() == Some(code)) =>
                {
                    tries += 1;
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// The statements that make the tenant's login a member of the API roles.
    pub(super) fn login(&self, record: &Record, there: bool) -> Result<String, FleetError> {
        let login = self.keys.newest().tenant_login(record);
        let verifier = login.verifier()?;
        let role = Ident::new(&login.user);
        let mut sql = format!(
            "{} ROLE {role} LOGIN NOINHERIT CONNECTION LIMIT {} PASSWORD {};",
            if there { "ALTER" } else { "CREATE" },
            self.connection_limit(record),
            literal(&verifier)
        );
        for api_role in &self.settings.roles() {
            sql.push_str(&format!("GRANT {} TO {role};", Ident::new(api_role)));
        }
        Ok(sql)
    }
}
