//! Baseline: a database that other tools made becomes a tenant of an edition, at the version that it has.
//!
//! It is an adopted tenant's until all is done, so that nothing that is killed in between would drop or make anew what holds
//! somebody's data: the same command goes on.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::Client;

use super::database::{self, DatabaseRights};
use super::roles::{self, MIGRATORS, OWNER, migrator_of};
use super::{AdoptionSpec, Doing, Fleet, FleetError, FleetServer};
use crate::catalog::TenantRow;
use crate::migrate::{self, Baseline, Baselined, Drift, Edition};
use crate::pg::{AdvisoryLock, Login};
use crate::policy::{Limits, Overrides};
use crate::tenant::{Lineage, Record, Slug, TenantId};
use crate::vault::PASSWORD;

/// How long to wait for the lock of a table before anything is changed. A dry run holds the tables up, too.
const TABLE_LOCK: Duration = Duration::from_secs(2);
/// How long another command that adopts the same database is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The edition that a database becomes one of.
#[derive(Debug, Clone, Copy)]
pub struct IntoEdition<'a> {
    /// All its files.
    pub edition: &'a Edition,
    /// The version that the database has.
    pub version: i64,
    /// Whether it is only shown what would be done.
    pub dry_run: bool,
}

/// What was done to a database, or would be.
#[derive(Debug, Serialize)]
pub struct EditionAdoption {
    /// The tenant; as it was, or `None`, after a dry run.
    pub tenant: Option<TenantRow>,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The edition.
    pub edition: String,
    /// The version that the database has.
    pub version: i64,
    /// What the database is called now.
    pub database: String,
    /// Files that are recorded as applied.
    pub recorded: Vec<String>,
    /// Files of another edition whose record those take the place of.
    pub replaced: Vec<String>,
    /// Owners and rights that change, one sentence each.
    pub changes: Vec<String>,
    /// How its schema differs from what the files make.
    pub drift: Drift,
    /// The same in sentences.
    pub differences: Vec<String>,
    /// What else an operator should know.
    pub notes: Vec<String>,
    /// How long its tables were locked, in milliseconds.
    pub locked_ms: u64,
}

impl EditionAdoption {
    pub(super) fn of(
        tenant: Option<TenantRow>,
        into: IntoEdition<'_>,
        database: String,
        taken: Baselined,
        notes: Vec<String>,
    ) -> Self {
        Self {
            tenant,
            dry_run: into.dry_run,
            edition: into.edition.name.clone(),
            version: into.version,
            database,
            recorded: taken.recorded,
            replaced: taken.replaced,
            changes: taken.changes,
            differences: taken.drift.lines(),
            drift: taken.drift,
            notes,
            locked_ms: u64::try_from(taken.locked.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// The tenant that is to be.
struct Future<'a> {
    slug: &'a Slug,
    id: TenantId,
    /// The row of the adopted tenant, if there is one.
    before: Option<TenantRow>,
    server: String,
    overrides: Overrides,
}

impl Fleet {
    /// Makes a database that is there already a tenant of an edition: its history says that the files up to the version were
    /// applied, owners and rights are as in any tenant's database, and it gets the name that a tenant's has. The tenant may
    /// have been adopted before.
    ///
    /// # Errors
    /// When the edition has no file of that version, the database is another tenant's or has what can't be taken in, or a
    /// server refuses. Nothing is lost: run again, it goes on where it stopped.
    pub async fn adopt_into_edition(
        &self,
        slug: &Slug,
        spec: &AdoptionSpec,
        into: IntoEdition<'_>,
    ) -> Result<EditionAdoption, FleetError> {
        let files = files_up_to(into)?;
        self.refuse_contradiction(into.edition).await?;
        let future = self.future(slug, spec, into.edition).await?;
        let (server, client) = self.admin(&future.server).await?;
        let key = self.keys.lock_key(&["adopt", &future.server, &spec.database]);
        let lock = AdvisoryLock::acquire(&client, key, LOCK_WAIT)
            .await
            .doing(|| format!("locking database `{}`", spec.database))?
            .ok_or_else(|| FleetError::Busy(format!("database `{}`", spec.database)))?;
        let adopted = Box::pin(self.adopt_locked(server, &client, &future, spec, into, &files)).await;
        lock.release(&client).await.doing(|| format!("unlocking database `{}`", spec.database))?;
        adopted
    }

    async fn adopt_locked(
        &self,
        server: &FleetServer,
        client: &Client,
        future: &Future<'_>,
        spec: &AdoptionSpec,
        into: IntoEdition<'_>,
        files: &Edition,
    ) -> Result<EditionAdoption, FleetError> {
        let ours = future.id.database();
        let database = if database::exists(client, &spec.database).await? {
            spec.database.clone()
        } else if future.before.is_some() && database::exists(client, &ours).await? {
            // Killed between its new name and the catalog.
            ours.clone()
        } else {
            return Err(FleetError::Settings(format!(
                "there is no database `{}` on server `{}`",
                spec.database, future.server
            )));
        };
        let lineage = Lineage {
            edition: files.name.clone(),
            version: into.version,
            history: files.history_digest(into.version),
        };
        if !into.dry_run {
            self.keep_facts(server, files, &lineage).await?;
        }
        let (taken, notes) = self.take_in(server, &database, into, files, None).await?;
        let tenant = if into.dry_run {
            future.before.clone()
        } else {
            let record = self.adopted_record(future, spec).await?;
            if database != ours {
                let ender = server.connect_admin().await?;
                server.unhindered(database::rename(client, &ender, &database, &ours)).await?;
                ender.close().await;
            }
            self.open_as_tenants(server, client, &record, &files.name).await?;
            let detail = serde_json::json!({
                "edition": lineage.edition, "baseline": lineage.version, "database": spec.database,
                "recorded": taken.recorded, "changes": taken.changes.len(), "differences": taken.drift.len(),
            });
            let lineage = taken.history.lineage(&files.name);
            let (mut sealed, _) = self.resealed(&record, false)?;
            sealed.remove(PASSWORD);
            let key = self.keys.newest().id();
            self.catalog.tenant_baselined(&record.id, &lineage, (key, &sealed), &detail).await?;
            // Somebody may have swept what no tenant had yet.
            self.keep_facts(server, files, &lineage).await?;
            Some(self.settle(&record.id).await?)
        };
        let called = if into.dry_run { database } else { ours };
        Ok(EditionAdoption::of(tenant, into, called, taken, notes))
    }

    /// Looks whether the tenant can be.
    async fn future<'a>(
        &self,
        slug: &'a Slug,
        spec: &AdoptionSpec,
        edition: &Edition,
    ) -> Result<Future<'a>, FleetError> {
        let before = self.catalog.tenant_by_slug(slug.as_str()).await?;
        let before = before.map(|row| self.again(row, spec)).transpose()?;
        let of_before = before.as_ref().map(|row| row.record.server.clone());
        let server =
            spec.server.clone().or(of_before).unwrap_or_else(|| self.settings.defaults.server.clone());
        self.refuse_our_database(&spec.database)?;
        self.refuse_tenants_database(slug, &server, &spec.database).await?;
        let mut overrides = match &before {
            Some(row) => self.unsealed(&row.record)?,
            None => Overrides::default(),
        };
        for (key, value) in &spec.settings {
            overrides.set(key, value)?;
        }
        if let Some(tier) = &spec.tier {
            self.known_tier(tier)?;
        }
        let (_, api) = overrides.applied_to(Limits::default(), self.settings.edition_api(&edition.name));
        self.settings.check_roles(&api)?;
        let id = match &before {
            Some(row) => row.record.id.clone(),
            None => TenantId::random()?,
        };
        Ok(Future { slug, id, before, server, overrides })
    }

    /// What happens inside the database, with what else is to be known of it. `drifting` says, of a tenant's of another
    /// edition, whether its schema may differ.
    pub(super) async fn take_in(
        &self,
        server: &FleetServer,
        database: &str,
        into: IntoEdition<'_>,
        files: &Edition,
        drifting: Option<bool>,
    ) -> Result<(Baselined, Vec<String>), FleetError> {
        let expected = self.facts_of_files(server, files).await?;
        let inside = server.connect_admin_inside(database).await?;
        let (owners, api_roles) = (roles::of_tenants(), self.settings.roles());
        let how = Baseline {
            roles: &owners,
            api_roles: &api_roles,
            edition: files,
            newest: into.edition.latest(),
            expected: &expected,
            lock_timeout: TABLE_LOCK,
            from_edition: drifting.is_some(),
            may_drift: drifting.unwrap_or(true),
            dry_run: into.dry_run,
        };
        let taken = migrate::baseline(&inside, how).await;
        let notes = notes(&inside).await;
        inside.close().await;
        let failed = |source| FleetError::Baseline { database: database.to_owned(), source };
        Ok((taken.map_err(failed)?, notes?))
    }

    /// The adopted tenant that is there, with what is asked for, or a new one. Its login is the one that it will have.
    async fn adopted_record(&self, future: &Future<'_>, spec: &AdoptionSpec) -> Result<Record, FleetError> {
        let Future { slug, id, before, server, overrides } = future;
        match before {
            Some(row) => {
                let tier = spec.tier.as_ref().unwrap_or(&row.record.tier);
                self.configure(&row.record, tier, overrides).await?;
                self.add_base_urls(&row.record, &spec.base_urls).await?;
            }
            None => {
                let login = Login { user: id.database(), password: None };
                self.register((id.clone(), slug), server, &login, spec, overrides.clone()).await?;
            }
        }
        let row = self.catalog.tenant(id).await?;
        row.map(|row| row.record).ok_or_else(|| FleetError::Unknown(slug.to_string()))
    }

    /// Gives the database its tenant's login, its migrator and its rights.
    async fn open_as_tenants(
        &self,
        server: &FleetServer,
        client: &Client,
        record: &Record,
        edition: &str,
    ) -> Result<(), FleetError> {
        let name = record.id.database();
        let migrator = migrator_of(&name);
        let found = database::found(client, &name).await?;
        let mut logins = self.login(record, found.login)?;
        logins.push_str(&roles::migrator(&migrator, MIGRATORS, found.migrator));
        let temporary = self.temporary(edition);
        let rights = DatabaseRights { owner: OWNER, logins: &[&name, &migrator], temporary: &temporary };
        server.unhindered(database::open(client, &name, &rights, &logins)).await
    }

    /// Has the catalog keep what the files make, to serve the tenant by and to compare it with.
    pub(super) async fn keep_facts(
        &self,
        server: &FleetServer,
        files: &Edition,
        lineage: &Lineage,
    ) -> Result<(), FleetError> {
        let name = server.endpoint.name();
        let basis = self.fingerprint_basis(name).await?;
        if self.kept_facts(name, lineage, &basis).await?.is_some() {
            return Ok(());
        }
        let record =
            async |scratch: &super::scratch::Scratch| self.record_schema(name, &scratch.name, lineage).await;
        self.in_build(server, files, record).await
    }
}

/// The files that the database is said to have.
pub(super) fn files_up_to(into: IntoEdition<'_>) -> Result<Edition, FleetError> {
    let IntoEdition { edition, version, .. } = into;
    if edition.files.iter().any(|file| file.version == version) {
        // Repeatable files are run by the next migration, whatever they did here.
        return Ok(edition.ending_at(version).versions_only());
    }
    let name = &edition.name;
    Err(FleetError::Settings(match edition.latest() {
        0 => {
            format!("edition `{name}` has no files: there is no version {version} that a database could have")
        }
        newest if version > newest => {
            format!(
                "edition `{name}` ends at version {newest}: a database can't have version {version} of it"
            )
        }
        newest => format!(
            "edition `{name}` has no file of version {version}: give the version of the newest file that the database has, \
             at most {newest}"
        ),
    }))
}

/// What stays as it was, and matters.
async fn notes(client: &Client) -> Result<Vec<String>, FleetError> {
    let sql = "SELECT CASE setrole WHEN 0 THEN 'every role' ELSE format('role %I', pg_get_userbyid(setrole)) END,
                      left(array_to_string(setconfig, ', '), 1000)
               FROM pg_db_role_setting
               WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1";
    let rows = client.query(sql, &[]).await.doing(|| "looking at the database's settings".into())?;
    let unreadable = || "reading the database's settings".to_owned();
    let mut notes = Vec::new();
    for row in rows {
        let (role, settings): (String, String) =
            (row.try_get(0).doing(unreadable)?, row.try_get(1).doing(unreadable)?);
        notes.push(format!(
            "settings that the database has for {role} stay, and sessions begin with them: {settings}"
        ));
    }
    Ok(notes)
}
