//! Provision: a tenant's login and database, from the intent in the catalog to the first request.

use std::time::Duration;

use tokio_postgres::Client;

use super::server::{role_exists, run};
use super::{Doing, Error, Fleet, database};
use crate::catalog::{NewTenant, TenantRow};
use crate::pg::{AdvisoryLock, Ident, literal};
use crate::tenant::{BaseUrl, Limits, Lineage, Origin, Overrides, Record, Sealed, Slug, State, TenantId};

/// How long to wait for another command that is at work on the same tenant. The backend of a killed command finishes
/// its CREATE DATABASE before its lock goes.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// What an operator asks for; what is `None` comes from `[defaults]`.
#[derive(Debug, Clone, Default)]
pub struct Wish {
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
}

impl Fleet {
    /// Creates a tenant, or finishes the creation that a killed command began.
    ///
    /// # Errors
    /// When the slug or a base URL is taken, or a server refuses; run again, it goes on where it stopped.
    pub async fn create(&self, slug: &Slug, wish: &Wish) -> Result<TenantRow, Error> {
        let row = match self.catalog.tenant_by_slug(slug.as_str()).await? {
            Some(row) if row.record.state == State::Creating => row,
            Some(row) => {
                return Err(Error::Settings(format!(
                    "tenant `{slug}` is there already ({}); see `manybox tenant show {slug}`",
                    row.record.state
                )));
            }
            None => self.intend(TenantId::random()?, slug, wish).await?,
        };
        self.finish_create(&row).await
    }

    /// Writes the intent to create a tenant of this id.
    ///
    /// # Errors
    /// [`Error::Foreign`] when its role or database is there: nothing of a fresh id can be ours.
    pub async fn intend(&self, id: TenantId, slug: &Slug, wish: &Wish) -> Result<TenantRow, Error> {
        let defaults = &self.settings.defaults;
        let edition = wish.edition.clone().or_else(|| defaults.edition.clone()).ok_or_else(|| {
            Error::Settings("no edition was given and defaults.edition is not set; give --edition".into())
        })?;
        self.edition(&edition)?;
        let tier = wish.tier.clone().unwrap_or_else(|| defaults.tier.clone());
        self.known_tier(&tier)?;
        let server = wish.server.clone().unwrap_or_else(|| defaults.server.clone());
        let (_, client) = self.admin(&server).await?;
        let name = id.database();
        let foreign = |what| Error::Foreign { what, name: name.clone(), server: server.clone() };
        if role_exists(&client, &name).await? {
            return Err(foreign("role"));
        }
        if database::exists(&client, &name).await? {
            return Err(foreign("database"));
        }
        let (_, api) = wish.overrides.over(Limits::default(), self.settings.edition_api(&edition));
        self.settings.check_roles(&api)?;
        let new = NewTenant {
            id: id.clone(),
            slug: slug.clone(),
            tier,
            server: server.clone(),
            origin: Origin::Lineage(Lineage { edition, version: 0, history: String::new() }),
            key: self.keys.newest().id(),
            templated: self.templated(slug)?,
            given: wish.base_urls.clone(),
            sealed: self.sealed(&id, &Sealed::new(), &wish.overrides)?,
            overrides: wish.overrides.clone(),
        };
        self.catalog.tenant_insert(&new).await?;
        self.catalog.tenant(&id).await?.ok_or_else(|| Error::Unknown(slug.to_string()))
    }

    /// The base URLs that the settings give to a slug.
    pub(super) fn templated(&self, slug: &Slug) -> Result<Vec<BaseUrl>, Error> {
        self.settings.listen.base_urls.iter().map(|t| Ok(t.fill(slug)?)).collect()
    }

    /// Brings an intended tenant into service, from wherever an earlier attempt stopped.
    ///
    /// # Errors
    /// When a server refuses; what was made stays for the next attempt.
    pub async fn finish_create(&self, row: &TenantRow) -> Result<TenantRow, Error> {
        let record = &row.record;
        let (_, client) = self.admin(&record.server).await?;
        let busy = || Error::Busy(format!("tenant `{}`", record.slug));
        // On the connection that runs CREATE DATABASE: its backend outlives a kill -9 of this process, and only when
        // it has ended can the next attempt tell what is there.
        let lock = AdvisoryLock::acquire(&client, record.id.lock_key(), LOCK_WAIT)
            .await
            .doing(|| format!("locking tenant `{}`", record.slug))?
            .ok_or_else(busy)?;
        let current = self.catalog.tenant(&record.id).await?.ok_or_else(busy)?;
        if current.record.state == State::Creating {
            self.ensure_login(&client, &current.record).await?;
            self.ensure_database(&client, &current.record).await?;
        }
        lock.release(&client).await.doing(|| "releasing the tenant's lock".into())?;
        self.catalog.tenant(&record.id).await?.ok_or_else(busy)
    }

    async fn ensure_login(&self, client: &Client, record: &Record) -> Result<(), Error> {
        let login = self.keys.newest().tenant_login(record);
        let verifier = login.verifier()?;
        let role = Ident::new(&login.user);
        let verb = if role_exists(client, &login.user).await? { "ALTER" } else { "CREATE" };
        let limits = self.settings.tenant(record.clone()).limits;
        let sql = format!(
            "{verb} ROLE {role} LOGIN NOINHERIT CONNECTION LIMIT {} PASSWORD {}",
            limits.max_connections.saturating_mul(2),
            literal(&verifier)
        );
        run(client, &sql).await?;
        if record.key != self.keys.newest().id() {
            let sealed = self.resealed(record)?;
            self.catalog.tenant_rekeyed(&record.id, self.keys.newest().id(), &sealed).await?;
        }
        for api_role in &self.settings.roles() {
            run(client, &format!("GRANT {} TO {role}", Ident::new(api_role))).await?;
        }
        Ok(())
    }

    async fn ensure_database(&self, client: &Client, record: &Record) -> Result<(), Error> {
        let name = record.id.database();
        if database::exists(client, &name).await? {
            // A killed attempt made it. Which template it was copied from is not known any more, and a copy takes
            // milliseconds: once more from the one that is known.
            database::drop(client, &name).await?;
        }
        // An adopted tenant is never in creation.
        let lineage = record.lineage().ok_or_else(|| Error::Adopted(record.slug.to_string(), "created"))?;
        let template = self.template(&record.server, &lineage.edition).await?;
        let template = match database::create_closed(client, &name, &template.database).await {
            Ok(()) => template,
            // It was replaced between look-up and copy: a migration is under way.
            Err(Error::Server { source, .. })
                if source.code() == Some(&tokio_postgres::error::SqlState::INVALID_CATALOG_NAME) =>
            {
                let template = self.template(&record.server, &lineage.edition).await?;
                database::create_closed(client, &name, &template.database).await?;
                template
            }
            Err(other) => return Err(other),
        };
        database::open(client, &name, &[&name]).await?;
        self.catalog.tenant_created(&record.id, &template.lineage).await?;
        Ok(())
    }
}
