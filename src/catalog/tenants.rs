//! Tenants in the catalog: insert, read, change of state, change of settings.

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::{Json, ToSql};

use super::base_urls::{Urls, insert_base_urls};
use super::{Catalog, CatalogError, Exchange, Template};
use crate::policy::{Overrides, Stored};
use crate::tenant::{Adopted, BaseUrl, Lineage, Origin, Record, Sealed, State, TenantId, Verb};

pub(super) const SELECT: &str = "
    SELECT t.id, t.slug, t.state, t.tier, t.server, t.edition, t.version::int8, t.history, t.generation, t.key,
           t.overrides, t.database, t.login_role, t.sealed, t.reloads, t.unsettled, t.failure, t.migrated_at, t.quarantined, t.baseline, t.labels, t.filling, t.replaces, t.exchange, t.keep_until, t.created_at, t.changed_at, t.lost_secrets, t.was_suspended,
           ARRAY(SELECT b.url FROM catalog.base_url b WHERE b.tenant = t.id ORDER BY b.templated, b.url) AS base_urls
    FROM catalog.tenant t";

pub(super) fn record(row: &Row) -> Result<Record, CatalogError> {
    let text = |column: &str| row.try_get::<_, String>(column);
    let urls: Vec<String> = row.try_get("base_urls")?;
    Ok(Record {
        id: text("id")?.parse()?,
        slug: text("slug")?.parse()?,
        state: text("state")?.parse()?,
        tier: text("tier")?,
        server: text("server")?,
        generation: row.try_get("generation")?,
        key: row.try_get("key")?,
        origin: match row.try_get::<_, Option<String>>("database")? {
            Some(database) => Origin::Adopted(Adopted { database, login_role: text("login_role")? }),
            None => Origin::Lineage(Lineage {
                edition: text("edition")?,
                version: row.try_get("version")?,
                history: text("history")?,
            }),
        },
        base_urls: urls.iter().map(|url| url.parse()).collect::<Result<_, _>>()?,
        overrides: row.try_get::<_, Json<Stored>>("overrides")?.0.0,
        sealed: row.try_get::<_, Json<Sealed>>("sealed")?.0,
        reloads: row.try_get("reloads")?,
    })
}

/// A tenant with what only operators ask for.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct TenantRow {
    /// What the data plane sees.
    #[serde(flatten)]
    pub record: Record,
    /// Whether a change of state has not reached the server yet: the command was killed. `apply` finishes it.
    pub unsettled: bool,
    /// Why the last migration failed.
    pub failure: Option<String>,
    /// When the last migration ended well.
    #[serde(with = "time::serde::rfc3339::option")]
    pub migrated_at: Option<OffsetDateTime>,
    /// Since when rollouts leave it out, because a migration failed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub quarantined: Option<OffsetDateTime>,
    /// The version up to which its files are recorded and were not run by manybox, because other tools had made the database.
    pub baseline: Option<i64>,
    /// What an operator calls it by, to say which tenants a wave takes.
    pub labels: BTreeMap<String, String>,
    /// Its secrets that nobody can open any more, because the master key is lost that sealed them; each can be set anew.
    pub lost_secrets: Vec<String>,
    /// What its database is being filled from, while it is in creation and that is not a template.
    pub filling: Option<String>,
    /// The id of the tenant whose place its database is to take, while a restore is under way or was killed.
    pub replaces: Option<String>,
    /// An exchange of its database with another tenant's that was begun. `apply` finishes it.
    pub exchange: Option<Exchange>,
    /// Until when it may not be purged, while it is retired.
    #[serde(with = "time::serde::rfc3339::option")]
    pub keep_until: Option<OffsetDateTime>,
    /// Whether it was suspended when it was retired, and will be again when it is restored.
    pub was_suspended: bool,
    /// When it was intended.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When its state or settings last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub changed_at: OffsetDateTime,
}

pub(super) fn tenant_row(row: &Row) -> Result<TenantRow, CatalogError> {
    Ok(TenantRow {
        record: record(row)?,
        unsettled: row.try_get("unsettled")?,
        failure: row.try_get("failure")?,
        migrated_at: row.try_get("migrated_at")?,
        quarantined: row.try_get("quarantined")?,
        baseline: row.try_get("baseline")?,
        labels: row.try_get::<_, Json<BTreeMap<String, String>>>("labels")?.0,
        lost_secrets: row.try_get::<_, Json<Sealed>>("lost_secrets")?.0.into_keys().collect(),
        filling: row.try_get("filling")?,
        replaces: row.try_get("replaces")?,
        exchange: row.try_get::<_, Option<Json<Exchange>>>("exchange")?.map(|json| json.0),
        keep_until: row.try_get("keep_until")?,
        was_suspended: row.try_get("was_suspended")?,
        created_at: row.try_get("created_at")?,
        changed_at: row.try_get("changed_at")?,
    })
}

/// Which tenants to list. `None` means any; purged ones are listed only when asked for by state.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only in this state.
    pub state: Option<State>,
    /// Only of this edition.
    pub edition: Option<String>,
    /// Only with this text in the slug or in a base URL.
    pub search: Option<String>,
}

/// A tenant to be: its row is the intent that a crash leaves behind.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Fresh.
    pub id: TenantId,
    /// Not in use by a tenant that is not purged.
    pub slug: crate::tenant::Slug,
    /// The tier's name.
    pub tier: String,
    /// The server's name.
    pub server: String,
    /// Its edition, or the database that it adopts.
    pub origin: Origin,
    /// The master key its password derives from.
    pub key: i32,
    /// Base URLs from the templates.
    pub templated: Vec<BaseUrl>,
    /// Base URLs given by the operator.
    pub given: Vec<BaseUrl>,
    /// What it has different.
    pub overrides: Overrides,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its secrets.
    pub sealed: Sealed,
    /// What its database will be filled from, when not from a template.
    pub filling: Option<String>,
    /// The tenant whose place its database will take.
    pub replaces: Option<TenantId>,
}

/// What a migration of one tenant left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The tenant.
    pub id: TenantId,
    /// Its version and the digest of its history; `None` when they could not be read: then what is known stays.
    pub stands: Option<(i64, String)>,
    /// Why it went no further.
    pub failure: Option<String>,
}

impl Catalog {
    /// Writes the intent to create a tenant: a row in state `creating`.
    ///
    /// # Errors
    /// `unique_violation` when the slug or a base URL is taken.
    pub async fn tenant_insert(&self, new: &NewTenant) -> Result<(), CatalogError> {
        let (templated, given) = (Urls::of(&new.templated), Urls::of(&new.given));
        let (edition, adopted) = match &new.origin {
            Origin::Lineage(lineage) => (Some(&lineage.edition), None),
            Origin::Adopted(adopted) => (None, Some((&adopted.database, &adopted.login_role))),
        };
        let (database, login_role) = adopted.unzip();
        let base_urls = insert_base_urls([8, 9, 10], [11, 12, 13]);
        let sql = format!(
            "WITH t AS (
                INSERT INTO catalog.tenant
                    (id, slug, state, unsettled, tier, server, edition, key, overrides, database, login_role, sealed, filling,
                     labels, replaces)
                VALUES ($1, $2, CASE WHEN $14::text IS NULL THEN 'creating' ELSE 'active' END, $14 IS NULL, $3, $4,
                        $5, $6, $7, $14, $15, $16, $17, $18, $19) RETURNING id
             ), b AS ({base_urls})
             INSERT INTO journal.line (tenant, action, detail)
             SELECT id, CASE WHEN $14::text IS NULL THEN 'create' ELSE 'adopt' END, jsonb_strip_nulls(jsonb_build_object(
                'slug', $2::text, 'server', $4::text, 'edition', $5::text, 'database', $14::text, 'login', $15::text, 'filling', $17::text))
             FROM t"
        );
        self.sessions
            .execute(
                &sql,
                &[
                    &new.id.as_str(),
                    &new.slug.as_str(),
                    &new.tier,
                    &new.server,
                    &edition,
                    &new.key,
                    &Json(&new.overrides.clone().with_jwt_secret(None)),
                    &templated.hosts,
                    &templated.prefixes,
                    &templated.urls,
                    &given.hosts,
                    &given.prefixes,
                    &given.urls,
                    &database,
                    &login_role,
                    &Json(&new.sealed),
                    &new.filling,
                    &Json(&new.labels),
                    &new.replaces.as_ref().map(TenantId::as_str),
                ],
            )
            .await?;
        Ok(())
    }

    /// The tenants that match, by slug.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn tenants(&self, filter: &Filter) -> Result<Vec<TenantRow>, CatalogError> {
        let sql = format!(
            "{SELECT}
             WHERE CASE WHEN $1::text IS NULL THEN t.state <> 'purged' ELSE t.state = $1 END
               AND ($2::text IS NULL OR t.edition = $2)
               AND ($3::text IS NULL OR position(lower($3) IN t.slug) > 0 OR EXISTS (
                    SELECT FROM catalog.base_url b WHERE b.tenant = t.id AND position(lower($3) IN b.url) > 0))
             ORDER BY t.slug, t.created_at"
        );
        let state = filter.state.map(State::as_str);
        let rows = self.sessions.query(&sql, &[&state, &filter.edition, &filter.search]).await?;
        rows.iter().map(tenant_row).collect()
    }

    /// The tenant that has this slug now; purged ones have none.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn tenant_by_slug(&self, slug: &str) -> Result<Option<TenantRow>, CatalogError> {
        let sql = format!("{SELECT} WHERE t.slug = $1 AND t.state <> 'purged'");
        self.sessions.query_opt(&sql, &[&slug]).await?.as_ref().map(tenant_row).transpose()
    }

    /// The tenant of this id, whatever its state.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn tenant(&self, id: &TenantId) -> Result<Option<TenantRow>, CatalogError> {
        let sql = format!("{SELECT} WHERE t.id = $1");
        self.sessions.query_opt(&sql, &[&id.as_str()]).await?.as_ref().map(tenant_row).transpose()
    }

    /// Moves a tenant by `verb`, if it is in a state from which the verb may start. Returns whether it was.
    ///
    /// The row is unsettled until [`Catalog::tenant_settled`].
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_transition(&self, id: &TenantId, verb: Verb) -> Result<bool, CatalogError> {
        let from: Vec<&str> = verb.from().iter().map(|s| s.as_str()).collect();
        let changed = self
            .sessions
            .execute(
                "WITH t AS (
                    UPDATE catalog.tenant SET
                        state = CASE WHEN $4 = 'restore' AND was_suspended THEN 'suspended' ELSE $2 END,
                        was_suspended = CASE WHEN $4 = 'retire' AND state <> 'retired' THEN state = 'suspended'
                                             WHEN $4 IN ('suspend', 'resume') THEN false ELSE was_suspended END,
                        unsettled = true, changed_at = now(),
                        keep_until = CASE WHEN $2 = 'retired' THEN keep_until END,
                        replaces = CASE WHEN $4 <> 'restore' THEN replaces END
                    -- What was suspended when it was retired, and was restored, may be restored again: a command was killed.
                    WHERE id = $1 AND (state = ANY ($3) OR $4 = 'restore' AND state = 'suspended' AND was_suspended)
                    RETURNING id
                 )
                 INSERT INTO journal.line (tenant, action) SELECT id, $4 FROM t",
                &[&id.as_str(), &verb.to().as_str(), &from, &verb.to_string()],
            )
            .await?;
        Ok(changed == 1)
    }

    /// The server now does what the state says.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_settled(&self, id: &TenantId) -> Result<(), CatalogError> {
        self.change("UPDATE catalog.tenant SET unsettled = false WHERE id = $1", &[&id.as_str()]).await
    }

    /// Puts a tenant whose database is complete into service, with its template's lineage. Returns false when the
    /// template was migrated since it was read: then nobody knows which version the copy has.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_created(&self, id: &TenantId, template: &Template) -> Result<bool, CatalogError> {
        let Template { database, lineage, .. } = template;
        let row = self
            .sessions
            .query_one(
                "WITH p AS (
                    SELECT FROM catalog.template
                    WHERE database = $4 AND version = $2 AND history = $3 AND state <> 'building'
                 ), t AS (
                    UPDATE catalog.tenant SET state = 'active', unsettled = false, version = $2, history = $3, changed_at = now()
                    WHERE id = $1 AND state = 'creating' AND EXISTS (SELECT FROM p) RETURNING id
                 ), j AS (
                    INSERT INTO journal.line (tenant, action) SELECT id, 'created' FROM t
                 )
                 SELECT EXISTS (SELECT FROM p)",
                &[&id.as_str(), &lineage.version, &lineage.history, database],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    /// Nothing of the tenant is left on its server: its slug and its base URLs are free.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_purged(&self, id: &TenantId) -> Result<(), CatalogError> {
        self.change(
            "WITH u AS (DELETE FROM catalog.base_url WHERE tenant = $1), t AS (
                UPDATE catalog.tenant SET state = 'purged', unsettled = false, sealed = '{}', changed_at = now()
                WHERE id = $1 RETURNING id
             )
             INSERT INTO journal.line (tenant, action) SELECT id, 'purged' FROM t",
            &[&id.as_str()],
        )
        .await
    }

    /// Tells routers to read the tenant's schema again.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_reload(&self, id: &TenantId) -> Result<(), CatalogError> {
        self.change(
            "WITH t AS (UPDATE catalog.tenant SET reloads = reloads + 1 WHERE id = $1 RETURNING id)
             INSERT INTO journal.line (tenant, action) SELECT id, 'reload' FROM t",
            &[&id.as_str()],
        )
        .await
    }

    /// Writes the outcomes of migrations, several in one statement. Each commit waits for the disk, and for the other
    /// commits too, because every change moves the catalog's one clock.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenants_migrated(&self, migrated: &[Migrated]) -> Result<(), CatalogError> {
        let ids: Vec<_> = migrated.iter().map(|m| m.id.as_str()).collect();
        let (versions, histories): (Vec<_>, Vec<_>) = migrated
            .iter()
            .map(|m| m.stands.as_ref().map(|(version, history)| (*version, history.as_str())).unzip())
            .unzip();
        let failures: Vec<_> = migrated.iter().map(|m| m.failure.as_deref()).collect();
        self.change(
            "WITH m AS (
                SELECT * FROM unnest($1::text[], $2::int8[], $3::text[], $4::text[]) AS m (id, version, history, failure)
             ), t AS (
                UPDATE catalog.tenant t
                SET version = COALESCE(m.version, t.version), history = COALESCE(m.history, t.history),
                    failure = m.failure,
                    migrated_at = CASE WHEN m.failure IS NULL THEN now() ELSE t.migrated_at END
                FROM m WHERE t.id = m.id RETURNING t.id, t.version, t.failure
             )
             INSERT INTO journal.line (tenant, action, detail)
             SELECT id, CASE WHEN failure IS NULL THEN 'migrated' ELSE 'migration-failed' END,
                    jsonb_build_object('version', version, 'failure', failure) FROM t",
            &[&ids, &versions, &histories, &failures],
        )
        .await
    }

    /// What a tenant's own history says, where the catalog knew otherwise. What failed before is forgotten: it was about
    /// another version.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn tenant_lineage_corrected(
        &self,
        id: &TenantId,
        lineage: &Lineage,
        action: &str,
        detail: &serde_json::Value,
    ) -> Result<(), CatalogError> {
        self.change(
            "WITH t AS (
                UPDATE catalog.tenant SET version = $2, history = $3, failure = NULL WHERE id = $1 RETURNING id
             )
             INSERT INTO journal.line (tenant, action, detail) SELECT id, $4, $5 FROM t",
            &[&id.as_str(), &lineage.version, &lineage.history, &action, detail],
        )
        .await
    }

    pub(super) async fn change(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<(), CatalogError> {
        self.sessions.execute(sql, parameters).await?;
        Ok(())
    }
}
