//! Adopt: a tenant over a database that is there already, with its own schema and roles. Nothing in it is changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::roles::{catalog_journal, catalog_migrator, catalog_owner};
use super::{Doing, Fleet, FleetError};
use crate::catalog::{Filter, NewTenant, TenantRow};
use crate::pg::{self, Connection, Guard, Login};
use crate::policy::{Api, InDatabase, JWT_SECRET, Limits, Overrides, Secret};
use crate::schema::{self, Schema, SchemaError};
use crate::tenant::{Adopted, BaseUrl, Origin, Record, Sealed, Slug, State, TenantId};
use crate::vault::PASSWORD;

/// The role that PostgREST's documentation has its users log in as.
const LOGIN_ROLE: &str = "authenticator";
/// The prefix of the names that manybox gives to databases and roles.
const OURS: &str = "mb_";

/// What an operator asks for; what is `None` comes from `[defaults]`, or stays as it is.
#[derive(Debug, Clone, Default)]
pub struct AdoptionSpec {
    /// The database.
    pub database: String,
    /// Its server.
    pub server: Option<String>,
    /// The role to log in as; `authenticator` when none was given.
    pub login_role: Option<String>,
    /// Its password; none where the server trusts the connection or its peer.
    pub password: Option<Secret>,
    /// The tier.
    pub tier: Option<String>,
    /// Base URLs beside those from `listen.base_urls`.
    pub base_urls: Vec<BaseUrl>,
    /// Settings as (key, value), as in `tenant set`.
    pub settings: Vec<(String, String)>,
}

/// A tenant that was adopted, and what the operator should know of it.
#[derive(Debug, serde::Serialize)]
pub struct Adoption {
    /// The tenant.
    #[serde(flatten)]
    pub tenant: TenantRow,
    /// What is amiss with the login or the settings; one sentence each.
    pub warnings: Vec<String>,
    /// How long it took to read its schema, in milliseconds: what its first request waits for. `None` where it could not be
    /// read.
    pub schema_ms: Option<u64>,
}

impl Fleet {
    /// Adopts a database. Again, with another login, password or settings, it changes those of the tenant.
    ///
    /// # Errors
    /// When the login can't connect, the database is another tenant's or manybox's own, or the slug is taken.
    pub async fn adopt(&self, slug: &Slug, spec: &AdoptionSpec) -> Result<Adoption, FleetError> {
        let before = self.catalog.tenant_by_slug(slug.as_str()).await?;
        let before = before.map(|row| self.again(row, spec)).transpose()?;
        let server = spec.server.as_ref().unwrap_or(&self.settings.defaults.server);
        let role = match (&spec.login_role, &before) {
            (Some(role), _) => role.clone(),
            (None, Some(row)) => row.record.login_role(),
            (None, None) => LOGIN_ROLE.to_owned(),
        };
        self.refuse_our_database(&spec.database)?;
        self.refuse_tenants_database(slug, server, &spec.database).await?;
        self.refuse_our_role(server, &role)?;
        let (mut overrides, opened) = match &before {
            // A token secret that can't be opened stays as it is, unless another is given.
            Some(row) => match self.unsealed(&row.record) {
                Ok(overrides) => (overrides, true),
                Err(_) => {
                    (row.record.overrides.clone(), spec.settings.iter().any(|(key, _)| key == JWT_SECRET))
                }
            },
            None => (Overrides::default(), true),
        };
        for (key, value) in &spec.settings {
            overrides.set(key, value)?;
        }
        let password = match (&spec.password, &before) {
            (Some(password), _) => Some(password.clone()),
            // Another role's password is not this one's.
            (None, Some(row)) if row.record.login_role() == role => self.keys.open(&row.record, PASSWORD)?,
            (None, _) => None,
        };
        let login = Login { user: role, password };
        let endpoint = &self.servers.get(server)?.endpoint;
        let client = pg::connect(endpoint, &login, &spec.database).await.doing(|| {
            let how = if login.password.is_some() {
                ""
            } else {
                " without a password (give one by --password-env)"
            };
            format!("adopting database `{}`{how}", spec.database)
        })?;
        let (_, api) = overrides.applied_to(Limits::default(), Api::adopted());
        let found = in_database(&client, &api).await?;
        let mut warnings = look(&client, &found.api).await?;
        client.close().await;
        warnings.extend(amiss(&found));
        let schema_ms = match self.read_once(server, &login, &spec.database, &found.api).await {
            Ok(took) => Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            Err(error) => {
                warnings.push(format!("its schema can't be read, so its API answers 503 PGRST002: {error}"));
                None
            }
        };
        warnings.extend(self.shared(slug, server, &login.user).await?);

        let id = match before {
            Some(row) => self.change(&row, &login, spec, &overrides, opened).await?,
            None => self.register((TenantId::random()?, slug), server, &login, spec, overrides).await?,
        };
        let tenant = self.catalog.tenant(&id).await?.ok_or_else(|| FleetError::Unknown(slug.to_string()))?;
        warnings.extend(self.let_router_end(&tenant.record).await);
        Ok(Adoption { tenant, warnings, schema_ms })
    }

    /// Reads the schema as a router will, and says how long that took.
    async fn read_once(
        &self,
        server: &str,
        login: &Login,
        database: &str,
        api: &Api,
    ) -> Result<Duration, FleetError> {
        let failed = |source: SchemaError| FleetError::Schema { database: database.to_owned(), source };
        let guard: Guard = Arc::new(());
        let opened = self.servers.get(server)?.endpoint.open(login, database, "", &guard).await;
        let mut connection = opened.doing(|| format!("connecting to `{database}` to read its schema"))?;
        let begun = Instant::now();
        let asked = schema::ask(
            &mut connection,
            &api.db_schemas,
            &api.db_extra_search_path,
            &schema::Room::default(),
        )
        .await;
        let answers = asked.map_err(failed)?;
        let made = spawn_blocking(|| Schema::new(answers.into_facts()?)).await;
        made.map_err(|error| FleetError::Settings(format!("reading the schema ended: {error}")))?
            .map_err(failed)?;
        Ok(begun.elapsed())
    }

    /// What a tenant's own database says about settings and can't be obeyed, one sentence each; nothing of one that manybox
    /// made.
    pub async fn refused_settings(&self, record: &Record) -> Vec<String> {
        if !record.is_adopted() {
            return Vec::new();
        }
        let asked = async {
            let logins = self.keys.tenant_logins(record);
            let login =
                logins.first().ok_or_else(|| FleetError::Settings("there is no master key".into()))?;
            let endpoint = &self.servers.get(&record.server)?.endpoint;
            let database = record.database();
            let client = pg::connect(endpoint, login, &database)
                .await
                .doing(|| format!("connecting to `{database}` to read its settings"))?;
            let found = in_database(&client, &self.settings.tenant(record.clone()).api).await?;
            client.close().await;
            Ok::<_, FleetError>(amiss(&found))
        };
        asked.await.unwrap_or_else(|error| vec![format!("in-database configuration: {error}")])
    }

    /// The tenant that has the slug already, when this is the same adoption once more.
    pub(super) fn again(&self, row: TenantRow, spec: &AdoptionSpec) -> Result<TenantRow, FleetError> {
        let record = &row.record;
        let server = spec.server.as_ref().unwrap_or(&record.server);
        let same = record.is_adopted() && record.database() == spec.database && record.server == *server;
        if same && matches!(record.state, State::Active | State::Suspended) {
            return Ok(row);
        }
        Err(FleetError::Settings(format!(
            "tenant `{0}` is there already ({1}, database `{2}` on server `{3}`); see `manybox tenant show {0}`",
            record.slug,
            record.state,
            record.database(),
            record.server
        )))
    }

    /// A tenant over the catalog, a template or a tenant's own database would open those to its clients.
    pub(super) fn refuse_our_database(&self, database: &str) -> Result<(), FleetError> {
        let catalog = &self.settings.catalog.database;
        let ours = [catalog.clone(), format!("{catalog}_router")].iter().any(|ours| ours == database);
        if ours || database.starts_with(OURS) || database.starts_with("template") {
            return Err(FleetError::Settings(format!(
                "database `{database}` is not one to adopt: it is manybox's own or a template"
            )));
        }
        Ok(())
    }

    /// A database has one tenant.
    pub(super) async fn refuse_tenants_database(
        &self,
        slug: &Slug,
        server: &str,
        database: &str,
    ) -> Result<(), FleetError> {
        let others = self.catalog.tenants(&Filter::default()).await?;
        let is_its =
            |other: &&Record| other.slug != *slug && other.server == server && other.database() == database;
        match others.iter().map(|row| &row.record).find(is_its) {
            None => Ok(()),
            Some(other) => Err(FleetError::Settings(format!(
                "database `{database}` is tenant `{}`'s; give its slug",
                other.slug
            ))),
        }
    }

    /// So would one with a login of the control plane.
    fn refuse_our_role(&self, server: &str, role: &str) -> Result<(), FleetError> {
        let catalog = &self.settings.catalog.database;
        let admin = self.servers.get(server)?.admin().map(|admin| admin.user.as_str()).unwrap_or_default();
        let of_catalog = [
            format!("{catalog}_router"),
            catalog_owner(catalog),
            catalog_migrator(catalog),
            catalog_journal(catalog),
        ];
        if admin == role || of_catalog.iter().any(|ours| ours == role) || role.starts_with(OURS) {
            return Err(FleetError::Settings(format!(
                "role `{role}` is manybox's own: its clients would have what it has; give --login-role another"
            )));
        }
        Ok(())
    }

    /// A warning when other tenants log in as this role too. A role may end its own sessions and change its own password,
    /// and its settings hold in every database.
    async fn shared(&self, slug: &Slug, server: &str, role: &str) -> Result<Option<String>, FleetError> {
        let all = self.catalog.tenants(&Filter::default()).await?;
        let others = all.iter().map(|row| &row.record).filter(|other| {
            other.slug != *slug && other.is_adopted() && other.server == server && other.login_role() == role
        });
        let others: Vec<_> = others.map(|other| other.slug.as_str()).collect();
        Ok((!others.is_empty()).then(|| {
            format!(
                "`{role}` is also the login of {}: whoever can have one of their APIs run SQL can see and end the \
                 others' sessions, and tokens fit all of them where its settings hold the secret; give each a login \
                 of its own",
                others.join(", ")
            )
        }))
    }

    /// Writes a tenant over a database that it logs in to as `login`.
    pub(super) async fn register(
        &self,
        (id, slug): (TenantId, &Slug),
        server: &str,
        login: &Login,
        spec: &AdoptionSpec,
        overrides: Overrides,
    ) -> Result<TenantId, FleetError> {
        let adopted = Adopted { database: spec.database.clone(), login_role: login.user.clone() };
        let tier = spec.tier.clone().unwrap_or_else(|| self.settings.defaults.tier.clone());
        self.known_tier(&tier)?;
        let new = NewTenant {
            id: id.clone(),
            slug: slug.clone(),
            tier,
            server: server.to_owned(),
            sealed: self.with_password(&id, self.sealed_anew(&id, &overrides)?, login)?,
            origin: Origin::Adopted(adopted),
            key: self.keys.newest().id(),
            templated: self.templated(slug)?,
            given: spec.base_urls.clone(),
            overrides,
            labels: BTreeMap::new(),
            filling: None,
            replaces: None,
        };
        self.catalog.tenant_insert(&new).await?;
        Ok(id)
    }

    async fn change(
        &self,
        row: &TenantRow,
        login: &Login,
        spec: &AdoptionSpec,
        overrides: &Overrides,
        opened: bool,
    ) -> Result<TenantId, FleetError> {
        let record = &row.record;
        let sealed = self.with_password(&record.id, record.sealed.clone(), login)?;
        self.catalog.tenant_login_changed(&record.id, &login.user, &sealed).await?;
        let now = crate::tenant::Record { sealed, ..record.clone() };
        let tier = spec.tier.as_ref().unwrap_or(&record.tier);
        if opened {
            self.configure(&now, tier, overrides).await?;
        } else {
            self.configure_beside_secrets(&now, tier, overrides).await?;
        }
        self.add_base_urls(record, &spec.base_urls).await?;
        Ok(record.id.clone())
    }

    /// Gives a tenant base URLs besides those that it has.
    pub(super) async fn add_base_urls(&self, record: &Record, urls: &[BaseUrl]) -> Result<(), FleetError> {
        if urls.is_empty() {
            return Ok(());
        }
        let mut given = self.catalog.base_urls_given(&record.id).await?;
        given.extend(urls.iter().filter(|url| !record.base_urls.contains(url)).cloned());
        Ok(self.catalog.base_urls_replace(&record.id, &given, false).await?)
    }

    fn with_password(&self, id: &TenantId, mut sealed: Sealed, login: &Login) -> Result<Sealed, FleetError> {
        match &login.password {
            Some(password) => {
                sealed.insert(PASSWORD.into(), self.keys.newest().seal(id, PASSWORD, password)?);
            }
            None => drop(sealed.remove(PASSWORD)),
        }
        Ok(sealed)
    }
}

/// What the login's settings in the database make of these.
async fn in_database(client: &Connection, api: &Api) -> Result<InDatabase, FleetError> {
    let reading = || "reading in-database configuration".to_owned();
    let rows = client.query(schema::IN_DATABASE_SETTINGS, &[]).await.doing(reading)?;
    let pairs = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let settings = pairs.collect::<Result<BTreeMap<String, String>, tokio_postgres::Error>>();
    Ok(api.with_in_database(&settings.doing(reading)?))
}

fn amiss(found: &InDatabase) -> Vec<String> {
    let refused = found.refused.iter().map(|(name, why)| {
        format!("the API is closed (503 MBX208): {name} in the database can't be obeyed: {why}")
    });
    let unused = found.unused.iter().map(|name| format!("{name} in the database sets nothing here"));
    refused.chain(unused).collect()
}

/// Warnings: rights that a tenant's login should not have, and names in the settings that don't exist.
async fn look(client: &Connection, api: &Api) -> Result<Vec<String>, FleetError> {
    let row = client
        .query_one(
            "SELECT r.rolsuper OR EXISTS (
                        SELECT FROM pg_catalog.pg_roles s WHERE s.rolsuper AND pg_catalog.pg_has_role(r.oid, s.oid, 'MEMBER')),
                    r.rolcreaterole OR EXISTS (
                        SELECT FROM pg_catalog.pg_roles s
                        WHERE (s.rolcreaterole OR s.rolname IN (
                                'pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files'))
                          AND pg_catalog.pg_has_role(r.oid, s.oid, 'MEMBER')),
                    (SELECT count(*) FROM pg_catalog.pg_database d
                     -- A closed one is being made, or a template.
                     WHERE d.datname ~ '^mb_' AND d.datallowconn
                         AND pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT')),
                    ARRAY(SELECT s FROM unnest($1::text[]) s
                          WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = s)),
                    ARRAY(SELECT a FROM unnest($2::text[]) a
                          WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles s
                                            WHERE s.rolname = a AND pg_catalog.pg_has_role(r.oid, s.oid, 'MEMBER'))),
                    EXISTS (SELECT FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) c
                            WHERE setrole = r.oid AND pg_catalog.starts_with(c, 'pgrst.jwt_secret='))
             FROM pg_catalog.pg_roles r WHERE r.rolname = current_user",
            &[&api.db_schemas, &api.db_anon_role.iter().chain(&api.roles).collect::<Vec<_>>()],
        )
        .await
        .doing(|| "looking at the login".into())?;
    let unreadable = || "reading what the login may do".to_owned();
    let (superuser, creator): (bool, bool) =
        (row.try_get(0).doing(unreadable)?, row.try_get(1).doing(unreadable)?);
    let others: i64 = row.try_get(2).doing(unreadable)?;
    let (schemas, roles): (Vec<String>, Vec<String>) =
        (row.try_get(3).doing(unreadable)?, row.try_get(4).doing(unreadable)?);
    let readable: bool = row.try_get(5).doing(unreadable)?;
    let mut warnings = Vec::new();
    if readable {
        warnings.push(
            "pgrst.jwt_secret is among the login's settings, which every login of the server can read (pg_roles): set \
             jwt_secret with `manybox tenant set`, and ALTER ROLE … RESET it, in the database too"
                .to_owned(),
        );
    }
    if superuser {
        warnings.push(
            "the login is a superuser or may become one: whoever can have its API run SQL, or holds a token that claims \
             such a role, reaches every database of the server; take that from it, or give it a server of its own"
                .to_owned(),
        );
    } else if creator {
        warnings.push(
            "the login may create roles, or use files or programs of the server: before PostgreSQL 16 that amounts to \
             every database of the server; take that from it, or give it a server of its own"
                .to_owned(),
        );
    } else if others > 0 {
        warnings
            .push(format!("the login may connect to {others} database(s) that manybox made; revoke that"));
    }
    let shared = client.query(schema::SHARED_ROLES, &[]).await.doing(unreadable)?;
    for row in shared {
        let role: String = row.try_get(0).doing(unreadable)?;
        warnings.push(format!(
            "the settings of role `{role}` (ALTER ROLE … SET) are not obeyed: another login may become it, and could \
             change them"
        ));
    }
    warnings.extend(schemas.iter().map(|s| format!("there is no schema `{s}` in the database (db_schemas)")));
    warnings.extend(roles.iter().map(|r| {
        format!("role `{r}` isn't there, or the login is not a member of it (db_anon_role, roles)")
    }));
    Ok(warnings)
}
