//! Mark: what each tenant's database says about itself, so that a tenant can come back when the catalog's row is lost.
//!
//! It stands in the schema `manybox`, which belongs to a role that neither the tenant's owner nor its migrator is a member
//! of, and is signed with the master key for this database alone: whatever was poured into a database by hand, no other than
//! the fleet can have it say whose it is. The tenant's version is not in it: the history beside it tells that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::roles::HISTORY;
use super::server::run;
use super::{Doing, Fleet, FleetError, FleetServer};
use crate::catalog::{Catalog, Filter, TenantRow};
use crate::pg::{Ident, literal};
use crate::policy::Stored;
use crate::tenant::{State, TenantId};
use crate::vault::KeyRing;

/// The form of marks.
const FORM: u32 = 1;
/// Most bytes of a mark.
const MAX_BYTES: i32 = 256 * 1024;

/// What the catalog would need of a tenant, were it lost. It holds no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    form: u32,
    /// The fleet's identity: servers may be shared.
    pub fleet: String,
    /// The tenant's id, by which the database is named too.
    pub id: String,
    /// Its slug.
    pub slug: String,
    /// Its edition.
    pub edition: String,
    /// The version up to which other tools had made the database.
    pub baseline: Option<i64>,
    /// `active`, `suspended` or `retired`.
    pub state: String,
    /// The tier's name.
    pub tier: String,
    /// Part of every derived secret.
    pub generation: i32,
    /// Base URLs that an operator gave.
    pub base_urls: Vec<String>,
    /// What it has different.
    pub overrides: Value,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Names of its own secrets.
    pub secrets: Vec<String>,
    /// When it was intended.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Until when it may not be purged.
    #[serde(with = "time::serde::rfc3339::option")]
    pub keep_until: Option<OffsetDateTime>,
    /// Whether it was suspended when it was retired. Left out where it was not: marks from before it was told are like that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_suspended: bool,
}

/// A database whose mark is not what it should be.
#[derive(Debug)]
pub struct OutdatedMark {
    /// The tenant's slug.
    pub slug: String,
    /// The server.
    pub server: String,
    id: TenantId,
    mark: Mark,
}

impl Mark {
    /// The mark that a tenant's database should have; `None` where it has none that manybox made.
    fn of(row: &TenantRow, given: &[String], fleet: &str) -> Result<Option<Self>, FleetError> {
        let record = &row.record;
        let has_one = matches!(record.state, State::Active | State::Suspended | State::Retired);
        let Some(lineage) = record.lineage().filter(|_| has_one) else { return Ok(None) };
        let mut base_urls = given.to_vec();
        base_urls.sort();
        let overrides = record.overrides.clone().with_jwt_secret(None);
        Ok(Some(Self {
            form: FORM,
            fleet: fleet.to_owned(),
            id: record.id.to_string(),
            slug: record.slug.to_string(),
            edition: lineage.edition.clone(),
            baseline: row.baseline,
            state: record.state.to_string(),
            tier: record.tier.clone(),
            generation: record.generation,
            base_urls,
            overrides: serde_json::to_value(overrides).map_err(|error| unwritable(&error))?,
            labels: row.labels.clone(),
            secrets: record.sealed.keys().chain(&row.lost_secrets).cloned().collect(),
            created_at: row.created_at,
            keep_until: row.keep_until,
            was_suspended: row.was_suspended,
        }))
    }

    /// What it has different, without what this program doesn't know.
    pub(super) fn settings(&self) -> Result<Stored, FleetError> {
        let read = serde_json::from_value(self.overrides.clone());
        read.map_err(|error| FleetError::Settings(format!("the mark's settings can't be read: {error}")))
    }

    async fn write(&self, server: &FleetServer, database: &str, keys: &KeyRing) -> Result<(), FleetError> {
        let what = serde_json::to_string(self).map_err(|error| unwritable(&error))?;
        let inside = server.connect_admin_inside(database).await?;
        // No wait for the disk: a mark that a crash takes back is the one from before.
        let sql = format!(
            "BEGIN; SET LOCAL client_min_messages = warning; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '5s';
             SET LOCAL statement_timeout = '10s'; SET LOCAL ROLE {};
             CREATE TABLE IF NOT EXISTS manybox.mark (
                 one pg_catalog.bool PRIMARY KEY DEFAULT true CHECK (one), what pg_catalog.text NOT NULL,
                 signature pg_catalog.text NOT NULL);
             INSERT INTO manybox.mark (what, signature) VALUES ({}, {})
             ON CONFLICT (one) DO UPDATE SET what = excluded.what, signature = excluded.signature;
             COMMIT",
            Ident::new(HISTORY),
            literal(&what),
            literal(&keys.newest().sign(&signed(database, &what)))
        );
        let written = run(&inside, &sql).await;
        inside.close().await;
        written
    }
}

/// What is signed of a mark: another database's is none of this one's.
fn signed<'a>(database: &'a str, what: &'a str) -> [&'a str; 3] {
    ["mark", database, what]
}

fn unwritable(error: &serde_json::Error) -> FleetError {
    FleetError::Settings(format!("the mark can't be written: {error}"))
}

/// Whether the mark is a table as manybox made it, so that to read it runs nobody's code.
const SOUND: &str = "
SELECT c.relkind = 'r' AND c.relowner = $1::text::pg_catalog.regrole AND n.nspowner = c.relowner AND c.relacl IS NULL
       AND NOT c.relhasrules AND NOT c.relrowsecurity AND NOT c.relispartition
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'manybox' AND c.relname = 'mark'";

/// Reads a database's mark; in words why it has none that can be believed.
pub(super) async fn read(
    server: &FleetServer,
    database: &str,
    keys: Option<&KeyRing>,
) -> Result<Result<Mark, String>, FleetError> {
    let reading = || format!("reading the mark of database `{database}`");
    let inside = server.connect_admin_inside(database).await?;
    let mark = async {
        let sound = inside.query_opt(SOUND, &[&HISTORY]).await.doing(reading)?;
        match sound.map(|row| row.try_get(0)).transpose().doing(reading)? {
            None => return Ok(Err("it has no mark".to_owned())),
            Some(false) => {
                return Ok(Err(
                    "its mark is not as manybox made it: somebody else could have written it".to_owned()
                ));
            }
            Some(true) => {}
        }
        let sql = "SELECT what, signature FROM ONLY manybox.mark
                   WHERE pg_catalog.octet_length(what) + pg_catalog.octet_length(signature) < $1 LIMIT 1";
        let Some(row) = inside.query_opt(sql, &[&MAX_BYTES]).await.doing(reading)? else {
            return Ok(Err("its mark is empty".to_owned()));
        };
        let (what, signature): (String, String) =
            (row.try_get(0).doing(reading)?, row.try_get(1).doing(reading)?);
        let Some(keys) = keys else {
            return Ok(Err("without the master key nobody can tell whether its mark is true".to_owned()));
        };
        if !keys.is_signed(&signed(database, &what), &signature) {
            return Ok(Err(
                "its mark was not written for this database with a master key of this fleet that is in use: it came with a \
                 dump, or somebody forged it"
                    .to_owned(),
            ));
        }
        Ok(match serde_json::from_str::<Mark>(&what) {
            Ok(mark) if mark.form == FORM => Ok(mark),
            Ok(mark) => Err(format!("its mark has form {}: a newer manybox wrote it", mark.form)),
            Err(error) => Err(format!("its mark can't be read: {error}")),
        })
    };
    let mark = mark.await;
    inside.close().await;
    mark
}

/// The databases whose mark is not what it should be by the catalog, or not signed with this key.
///
/// # Errors
/// When the catalog can't be read.
pub async fn outdated_marks(catalog: &Catalog, key: Option<i32>) -> Result<Vec<OutdatedMark>, FleetError> {
    let (marks, fleet) = (catalog.marks().await?, catalog.fleet_id().await?);
    let given = catalog.every_base_url_given().await?;
    let mut outdated = Vec::new();
    for row in catalog.tenants(&Filter::default()).await? {
        let id = row.record.id.clone();
        let given = given.get(id.as_str()).map_or(&[][..], Vec::as_slice);
        let Some(mark) = Mark::of(&row, given, &fleet)? else { continue };
        let what = serde_json::to_value(&mark).map_err(|error| unwritable(&error))?;
        let is_it = |(is, by): &(Value, i32)| *is == what && key.is_none_or(|key| key == *by);
        if !marks.get(id.as_str()).is_some_and(is_it) {
            let (slug, server) = (row.record.slug.to_string(), row.record.server.clone());
            outdated.push(OutdatedMark { slug, server, id, mark });
        }
    }
    Ok(outdated)
}

impl Fleet {
    /// Gives a tenant's database the mark that it should have. Where that fails, a warning says so: nothing else depends on
    /// it, and `init` and `apply` try again.
    pub async fn mark(&self, id: &TenantId) {
        let marked = async {
            let Some(row) = self.catalog.tenant(id).await? else { return Ok(()) };
            let given = self.catalog.base_urls_given(id).await?;
            let given: Vec<_> = given.iter().map(ToString::to_string).collect();
            match Mark::of(&row, &given, &self.catalog.fleet_id().await?)? {
                Some(mark) => self.write_mark(id, &row.record.server, &mark).await,
                None => Ok(()),
            }
        };
        if let Err(error) = marked.await {
            tracing::warn!(tenant.id = %id, %error, "the database was not given its mark; `manybox apply` tries again");
        }
    }

    async fn write_mark(&self, id: &TenantId, server: &str, mark: &Mark) -> Result<(), FleetError> {
        mark.write(self.servers.get(server)?, &id.database(), &self.keys).await?;
        let what = serde_json::to_value(mark).map_err(|error| unwritable(&error))?;
        Ok(self.catalog.marked(id, &what, self.keys.newest().id()).await?)
    }

    /// The databases whose mark is not what it should be, or not signed with the newest master key.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn outdated_marks(&self) -> Result<Vec<OutdatedMark>, FleetError> {
        outdated_marks(&self.catalog, Some(self.keys.newest().id())).await
    }

    /// Gives a database the mark that it should have.
    ///
    /// # Errors
    /// When its server or the catalog can't be reached or refuses.
    pub async fn renew_mark(&self, outdated: &OutdatedMark) -> Result<(), FleetError> {
        self.write_mark(&outdated.id, &outdated.server, &outdated.mark).await
    }
}
