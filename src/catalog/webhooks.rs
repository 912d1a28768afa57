//! Webhooks in the catalog: who is told of what, and how far along the journal's chain each has heard.

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::{Act, Catalog, CatalogError};

/// Events that are read at a time.
const PAGE: i64 = 50;

/// A webhook, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookRow {
    /// Its id.
    pub id: String,
    /// Where messages go.
    pub url: String,
    /// Kinds of events; empty: all.
    pub events: Vec<String>,
    /// The place in the journal's chain up to which all was delivered.
    pub position: i64,
    /// How often the next message was tried.
    pub tries: i32,
    /// Why the last try failed.
    pub failure: Option<String>,
    /// Since when nobody tries any more.
    #[serde(with = "time::serde::rfc3339::option")]
    pub disabled_at: Option<OffsetDateTime>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// What messages are signed with.
    #[serde(skip)]
    pub sealed: String,
}

const COLUMNS: &str = "id, url, events, position, tries, failure, disabled_at, created_at, sealed";

fn webhook(row: &Row) -> Result<WebhookRow, CatalogError> {
    Ok(WebhookRow {
        id: row.try_get("id")?,
        url: row.try_get("url")?,
        events: row.try_get("events")?,
        position: row.try_get("position")?,
        tries: row.try_get("tries")?,
        failure: row.try_get("failure")?,
        disabled_at: row.try_get("disabled_at")?,
        created_at: row.try_get("created_at")?,
        sealed: row.try_get("sealed")?,
    })
}

/// Something that happened, as the journal tells it.
#[derive(Debug, Clone)]
pub struct Happened {
    /// Its place in the chain.
    pub position: i64,
    /// When.
    pub at: OffsetDateTime,
    /// What.
    pub action: String,
    /// The tenant's id and its name now.
    pub tenant: Option<(String, Option<String>)>,
    /// More about it.
    pub detail: Value,
    /// By whose order.
    pub act: Option<Act>,
}

impl Catalog {
    /// Adds a webhook, which hears of what happens from now on.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn webhook_add(
        &self,
        id: &str,
        url: &str,
        events: &[String],
        sealed: &str,
    ) -> Result<WebhookRow, CatalogError> {
        let sql = format!(
            "WITH w AS (
                INSERT INTO catalog.webhook (id, url, events, sealed, position)
                SELECT $1, $2, $3, $4, coalesce(max(position), 0) FROM journal.seal RETURNING {COLUMNS}
             ), j AS (
                INSERT INTO journal.line (action, detail)
                SELECT 'webhook-add', jsonb_build_object('webhook', id, 'url', url, 'events', events) FROM w
             )
             SELECT * FROM w"
        );
        webhook(&self.sessions.query_one(&sql, &[&id, &url, &events, &sealed]).await?)
    }

    /// Every webhook, the oldest first.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn webhooks(&self) -> Result<Vec<WebhookRow>, CatalogError> {
        let sql = format!("SELECT {COLUMNS} FROM catalog.webhook ORDER BY created_at, id");
        self.sessions.query(&sql, &[]).await?.iter().map(webhook).collect()
    }

    /// Takes a webhook away. Returns whether there was one.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn webhook_remove(&self, id: &str) -> Result<bool, CatalogError> {
        let sql = "WITH w AS (DELETE FROM catalog.webhook WHERE id = $1 RETURNING id, url)
             INSERT INTO journal.line (action, detail)
             SELECT 'webhook-remove', jsonb_build_object('webhook', id, 'url', url) FROM w";
        Ok(self.sessions.execute(sql, &[&id]).await? == 1)
    }

    /// Has a webhook tried again at once, also one that nobody tries any more. Returns whether there is one.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn webhook_retry(&self, id: &str) -> Result<bool, CatalogError> {
        let sql = "WITH w AS (
                UPDATE catalog.webhook SET disabled_at = NULL, tries = 0, next_at = now() WHERE id = $1 RETURNING id
             )
             INSERT INTO journal.line (action, detail) SELECT 'webhook-retry', jsonb_build_object('webhook', id) FROM w";
        Ok(self.sessions.execute(sql, &[&id]).await? == 1)
    }

    /// Has its secret sealed otherwise, unless that was done meanwhile.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn webhook_resealed(&self, id: &str, before: &str, sealed: &str) -> Result<(), CatalogError> {
        let sql = "UPDATE catalog.webhook SET sealed = $3 WHERE id = $1 AND sealed = $2";
        self.change(sql, &[&id, &before, &sealed]).await
    }

    /// Takes webhooks for whom there may be something, and that nobody else is at, but for those that the executor is at.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn webhooks_claim(
        &self,
        executor: i64,
        at: &[String],
    ) -> Result<Vec<WebhookRow>, CatalogError> {
        let sql = format!(
            "UPDATE catalog.webhook SET executor = $1
             WHERE disabled_at IS NULL AND next_at <= now() AND id <> ALL ($2)
               AND position < (SELECT coalesce(max(s.position), 0) FROM journal.seal s)
               AND (executor IS NULL OR executor = $1 OR NOT catalog.is_alive(executor))
             RETURNING {COLUMNS}"
        );
        self.sessions.query(&sql, &[&executor, &at]).await?.iter().map(webhook).collect()
    }

    /// What happened behind this place in the chain, in its order, some at a time.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn happened(&self, after: i64) -> Result<Vec<Happened>, CatalogError> {
        let sql = "SELECT s.position, j.at, j.action, j.tenant, t.slug, j.detail, j.act
                   FROM journal.seal s JOIN journal.line j ON j.id = s.line
                   LEFT JOIN catalog.tenant t ON t.id = j.tenant
                   WHERE s.position > $1 ORDER BY s.position LIMIT $2";
        let rows = self.sessions.query(sql, &[&after, &PAGE]).await?;
        rows.iter()
            .map(|row| {
                let (tenant, slug): (Option<String>, Option<String>) = (row.try_get(3)?, row.try_get(4)?);
                Ok(Happened {
                    position: row.try_get(0)?,
                    at: row.try_get(1)?,
                    action: row.try_get(2)?,
                    tenant: tenant.map(|id| (id, slug)),
                    detail: row.try_get(5)?,
                    act: row.try_get::<_, Option<Json<Act>>>(6)?.map(|json| json.0),
                })
            })
            .collect()
    }

    /// Notes that all up to this place was delivered.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn webhook_heard(&self, id: &str, position: i64) -> Result<(), CatalogError> {
        let sql = "UPDATE catalog.webhook SET position = $2, tries = 0, failure = NULL, next_at = now() WHERE id = $1";
        self.change(sql, &[&id, &position]).await
    }

    /// Notes that a message was not taken, and when it is tried again; `None`: no more.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn webhook_failed(
        &self,
        id: &str,
        failure: &str,
        again: Option<std::time::Duration>,
    ) -> Result<(), CatalogError> {
        let sql = "UPDATE catalog.webhook SET tries = tries + 1, failure = $2, executor = NULL,
                next_at = now() + coalesce($3::float8, 0) * interval '1 second',
                disabled_at = CASE WHEN $3::float8 IS NULL THEN now() END
             WHERE id = $1";
        self.change(sql, &[&id, &failure, &again.map(|again| again.as_secs_f64())]).await
    }
}
