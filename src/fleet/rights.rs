//! Rights: what databases and roles of earlier versions have otherwise, and what tenants' code gave to roles, put right.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::psql::sweep_operators;
use super::roles::{self, HISTORY, MIGRATORS, OWNER, catalog_migrator, catalog_owner, migrator_of};
use super::server::run;
use super::{Doing, Fleet, FleetError, Unprepared, database};
use crate::catalog::Filter;
use crate::migrate::{self, TakenOver};
use crate::pg::Ident;
use crate::tenant::State;

/// A database whose rights are not as this version gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutdatedDatabase {
    /// Its server.
    pub server: String,
    /// Its name.
    pub database: String,
    /// Whose it is, for people.
    pub whose: String,
    /// The edition that it was made from.
    edition: String,
    /// Whether it is a template.
    template: bool,
}

/// Of the databases `$1`, those that lack a migrator with CONNECT, or give a role of all tenants more than CREATE and
/// TEMPORARY, or the owner less, or whose schema `manybox` with its two tables is not the history owner's; or in which the API
/// roles `$6` may make temporary tables and it is not among `$7`, or the other way round; and of the templates `$2` those
/// that are open, because their renewal was cut. pg_shdepend is one for all databases: nobody has to look into them.
const OUTDATED: &str = "
SELECT d.datname::text FROM pg_catalog.pg_database d
LEFT JOIN pg_catalog.pg_roles m ON m.rolname = 'mb_m_' || pg_catalog.substr(d.datname, 4)
WHERE d.datname = ANY ($1) AND (
    m.oid IS NULL
    OR NOT EXISTS (SELECT FROM pg_catalog.aclexplode(d.datacl) a
                   WHERE a.grantee = m.oid AND a.privilege_type = 'CONNECT')
    OR EXISTS (SELECT FROM pg_catalog.aclexplode(COALESCE(d.datacl, pg_catalog.acldefault('d', d.datdba))) a
               LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
               WHERE a.grantee = 0 OR r.rolname = $4
                  OR r.rolname = $3 AND a.privilege_type NOT IN ('CREATE', 'TEMPORARY'))
    OR EXISTS (SELECT FROM pg_catalog.pg_roles r
               WHERE r.rolname = ANY ($6::text[] || $3::text)
                 AND (r.rolname = $3 OR d.datname = ANY ($7)) IS DISTINCT FROM EXISTS (
                     SELECT FROM pg_catalog.aclexplode(d.datacl) a
                     WHERE a.grantee = r.oid AND a.privilege_type = 'TEMPORARY'))
    OR 3 > (SELECT count(*) FROM pg_catalog.pg_shdepend s
            WHERE s.dbid = d.oid AND s.deptype = 'o' AND s.refobjid = $5::text::pg_catalog.regrole
              AND s.classid IN ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_namespace'::pg_catalog.regclass))
) OR d.datname = ANY ($2) AND d.datallowconn
ORDER BY 1";

/// What `ALTER ROLE … SET` gave these roles, by role and database (null for all); its beginning, for anybody can write a
/// gigabyte there.
const SETTINGS: &str = "
SELECT r.rolname::text, d.datname::text, pg_catalog.left(pg_catalog.array_to_string(s.setconfig, ', '), 1000)
FROM pg_catalog.pg_db_role_setting s
JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
WHERE r.rolname = ANY ($1) ORDER BY 1, 2";

impl Fleet {
    /// The tenants' databases and the templates whose rights are not as this version gives them, and the servers that could
    /// not be asked.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn outdated_databases(&self) -> Result<(Vec<OutdatedDatabase>, Vec<Unprepared>), FleetError> {
        let mut known: BTreeMap<String, Vec<OutdatedDatabase>> = BTreeMap::new();
        for row in self.catalog.tenants(&Filter::default()).await? {
            let record = row.record;
            let has_one = matches!(record.state, State::Active | State::Suspended | State::Retired);
            if has_one && !record.is_adopted() {
                known.entry(record.server.clone()).or_default().push(OutdatedDatabase {
                    server: record.server.clone(),
                    database: record.database(),
                    whose: format!("tenant `{}`", record.slug),
                    edition: record.lineage().map(|lineage| lineage.edition.clone()).unwrap_or_default(),
                    template: false,
                });
            }
        }
        for template in self.catalog.templates().await?.into_iter().filter(|t| t.state != "building") {
            known.entry(template.server.clone()).or_default().push(OutdatedDatabase {
                whose: format!("a template of edition `{}`", template.lineage.edition),
                server: template.server,
                database: template.database,
                edition: template.lineage.edition,
                template: true,
            });
        }
        let (mut outdated, mut unreached) = (Vec::new(), Vec::new());
        for (server, databases) in known {
            match self.outdated_on(&server, databases).await {
                Ok(found) => outdated.extend(found),
                Err(error) => unreached.push(Unprepared { server, error }),
            }
        }
        Ok((outdated, unreached))
    }

    /// Those of one server.
    async fn outdated_on(
        &self,
        server: &str,
        databases: Vec<OutdatedDatabase>,
    ) -> Result<Vec<OutdatedDatabase>, FleetError> {
        let (_, client) = self.admin(server).await?;
        let name = |database: &OutdatedDatabase| database.database.clone();
        let all: Vec<_> = databases.iter().map(name).collect();
        let templates: Vec<_> = databases.iter().filter(|d| d.template).map(name).collect();
        let (api_roles, may) =
            (self.settings.roles(), |d: &&OutdatedDatabase| self.gives_temporary(&d.edition));
        let temporary: Vec<_> = databases.iter().filter(may).map(name).collect();
        let asked = client
            .query(OUTDATED, &[&all, &templates, &OWNER, &MIGRATORS, &HISTORY, &api_roles, &temporary])
            .await;
        let rows = asked.doing(|| format!("looking at the databases of server `{server}`"))?;
        let found: Vec<String> = rows
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()
            .doing(|| format!("reading the databases of server `{server}`"))?;
        self.keep(server, client);
        Ok(databases.into_iter().filter(|d| found.contains(&d.database)).collect())
    }

    /// Gives one database what this version gives: its own migrator, no CONNECT for roles that all tenants have, and a
    /// schema `manybox` that is not the tenant's. Requests go on meanwhile. Returns what was removed from that schema.
    ///
    /// # Errors
    /// When the server refuses, or the schema has what can't be removed without guessing: then that stays, and with it
    /// the tenant can't be migrated.
    pub async fn renew_rights(&self, outdated: &OutdatedDatabase) -> Result<Vec<String>, FleetError> {
        let OutdatedDatabase { server: name, database, edition, template, .. } = outdated;
        let (server, client) = self.admin(name).await?;
        let work = async {
            let lock = if *template { Some(self.lock_template(&client, name, edition).await?) } else { None };
            if lock.is_some() {
                database::unseal(&client, database).await?;
            }
            let temporary = self.temporary(edition);
            database::give_migrator(&client, database, &self.settings.roles(), &temporary).await?;
            let mut admin = server.connect_admin_inside(database).await?;
            let taken = migrate::take_over_history(&mut admin, &roles::of_tenants(), 0).await;
            admin.close().await;
            if let Some(lock) = lock {
                database::seal(&client, database).await?;
                lock.release(&client).await.doing(|| "releasing the template's lock".into())?;
            }
            all_taken(database, taken.doing(|| format!("taking over the history of database `{database}`"))?)
        };
        let removed = server.unhindered(work).await?;
        self.keep(name, client);
        Ok(removed)
    }

    /// Whether the API roles may make temporary tables in the databases of an edition.
    fn gives_temporary(&self, edition: &str) -> bool {
        self.settings.editions.get(edition).is_some_and(|files| files.temporary_tables)
    }

    /// The roles that may make temporary tables in the databases of an edition.
    pub fn temporary(&self, edition: &str) -> Vec<String> {
        let api_roles = if self.gives_temporary(edition) { self.settings.roles() } else { Vec::new() };
        std::iter::once(OWNER.to_owned()).chain(api_roles).collect()
    }

    /// Takes from manybox's roles, the API roles and the tenants' logins what `ALTER ROLE … SET` gave them: any
    /// tenant's code can write it for a role that it may become. Returns a sentence for each, and the servers where it could
    /// not be done. Drops what killed commands left of operators' logins, too.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn undo_role_settings(&self) -> Result<(Vec<String>, Vec<Unprepared>), FleetError> {
        let catalog = &self.settings.catalog.database;
        let mut shared = vec![OWNER.to_owned(), HISTORY.into(), MIGRATORS.into()];
        shared.extend([catalog_owner(catalog), catalog_migrator(catalog), format!("{catalog}_router")]);
        shared.extend(self.settings.roles());
        let mut databases: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut by_server: BTreeMap<_, _> =
            self.servers.iter().map(|(name, _)| (name.to_owned(), shared.clone())).collect();
        for row in self.catalog.tenants(&Filter::default()).await? {
            if let (false, Some(names)) = (row.record.is_adopted(), by_server.get_mut(&row.record.server)) {
                let database = row.record.database();
                names.push(migrator_of(&database));
                names.push(database.clone());
                databases.entry(row.record.server).or_default().push(database);
            }
        }
        let (mut undone, mut unreached) = (Vec::new(), Vec::new());
        for (name, roles) in by_server {
            let databases = databases.remove(&name).unwrap_or_default();
            match self.undo_role_settings_on(&name, &roles, &databases).await {
                Ok(of_server) => undone.extend(of_server),
                Err(error) => unreached.push(Unprepared { server: name, error }),
            }
        }
        Ok((undone, unreached))
    }

    async fn undo_role_settings_on(
        &self,
        name: &str,
        roles: &[String],
        databases: &[String],
    ) -> Result<Vec<String>, FleetError> {
        let (server, client) = self.admin(name).await?;
        let work = async {
            for database in databases {
                sweep_operators(&client, database).await?;
            }
            undo_settings(&client, roles).await
        };
        let undone = server.unhindered(work).await?;
        self.keep(name, client);
        Ok(undone)
    }
}

async fn undo_settings(client: &Client, roles: &[String]) -> Result<Vec<String>, FleetError> {
    let rows = client.query(SETTINGS, &[&roles]).await.doing(|| "looking at roles' settings".into())?;
    let mut undone = Vec::with_capacity(rows.len());
    for row in rows {
        let unreadable = || "reading roles' settings".to_owned();
        let role: String = row.try_get(0).doing(unreadable)?;
        let database: Option<String> = row.try_get(1).doing(unreadable)?;
        let settings: String = row.try_get(2).doing(unreadable)?;
        let place = database.map(|name| format!(" IN DATABASE {}", Ident::new(name))).unwrap_or_default();
        run(client, &format!("ALTER ROLE {}{place} RESET ALL", Ident::new(&role))).await?;
        undone.push(format!(
            "role `{role}` had settings of its own{place}, which tenants' code may have written: {settings}"
        ));
    }
    Ok(undone)
}

/// What was removed, or the error that names what could not be.
pub(super) fn all_taken(database: &str, taken: TakenOver) -> Result<Vec<String>, FleetError> {
    if taken.refused.is_empty() {
        return Ok(taken.removed);
    }
    Err(FleetError::Settings(format!(
        "database `{database}`: its schema `manybox` has what manybox did not make and will not remove by guessing: {}; \
         remove it there, and run `manybox init` again",
        taken.refused.join("; ")
    )))
}
