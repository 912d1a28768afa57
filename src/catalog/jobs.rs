//! Jobs in the catalog: long work of the control service, who is at it, and what became of it.

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::{Act, Catalog, CatalogError};
use crate::pg::{AdvisoryLock, Connection};

/// Days for which an ended job can be looked at.
const KEPT_DAYS: i32 = 30;
/// Workers that may die of a job before it counts as failed: more than an operator who restarts things in a row.
const MAX_ATTEMPTS: i32 = 20;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Nobody has begun it.
    Queued,
    /// A worker is at it, or was when it died: then another takes it over.
    Running,
    /// It is done.
    Done,
    /// It could not be done; `problem` says why.
    Failed,
}

impl JobState {
    fn read(text: &str) -> Result<Self, CatalogError> {
        match text {
            "queued" => Ok(Self::Queued),
            "running" => Ok(Self::Running),
            "done" => Ok(Self::Done),
            "failed" => Ok(Self::Failed),
            other => Err(CatalogError::Row(format!("`{other}` is not a state of a job"))),
        }
    }

    /// Whether nothing happens to it any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// A job to be.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Fresh.
    pub id: String,
    /// What kind of work it is.
    pub kind: String,
    /// The id of the tenant that it is about.
    pub tenant: Option<String>,
    /// That tenant's name.
    pub slug: Option<String>,
    /// What is to be done, in the worker's form.
    pub work: Value,
    /// By whose order.
    pub act: Act,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = Job)]
pub struct JobRow {
    /// Its id.
    pub id: String,
    /// What kind of work it is.
    pub kind: String,
    /// The tenant's id, if it is about one.
    pub tenant: Option<String>,
    /// That tenant's name when the job was made.
    pub slug: Option<String>,
    /// What is to be done, in the worker's form.
    #[serde(skip)]
    pub work: Value,
    /// By whose order.
    pub act: Act,
    /// Where it stands.
    pub state: JobState,
    /// How many workers began it.
    pub attempts: i32,
    /// How far it is, in words.
    pub progress: Option<String>,
    /// What came of it.
    pub result: Option<Value>,
    /// Why it could not be done.
    pub problem: Option<Value>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was begun last.
    #[serde(with = "time::serde::rfc3339::option")]
    pub begun_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}

const COLUMNS: &str = "id, kind, tenant, slug, work, act, state, attempts, progress, result, problem, created_at, begun_at, ended_at";

impl JobRow {
    fn read(row: &Row) -> Result<Self, CatalogError> {
        Ok(Self {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            tenant: row.try_get("tenant")?,
            slug: row.try_get("slug")?,
            work: row.try_get("work")?,
            act: row.try_get::<_, Json<Act>>("act")?.0,
            state: JobState::read(row.try_get("state")?)?,
            attempts: row.try_get("attempts")?,
            progress: row.try_get("progress")?,
            result: row.try_get("result")?,
            problem: row.try_get("problem")?,
            created_at: row.try_get("created_at")?,
            begun_at: row.try_get("begun_at")?,
            ended_at: row.try_get("ended_at")?,
        })
    }
}

/// A worker's place: a session in the catalog that holds a lock for as long as it lives. When it ends, however it ends, others
/// take its jobs over.
pub struct JobSeat {
    connection: Connection,
    key: i64,
}

impl JobSeat {
    /// Takes a seat by a session of the admin in the catalog; `key` is this worker's own.
    ///
    /// # Errors
    /// When the session is lost, or its key is held by somebody else, which happens once in 2^63.
    pub async fn take(connection: Connection, key: i64) -> Result<Self, CatalogError> {
        match AdvisoryLock::acquire(&connection, key, std::time::Duration::ZERO).await? {
            Some(_held_by_the_session) => Ok(Self { connection, key }),
            None => Err(CatalogError::Row("another worker has this key".into())),
        }
    }

    /// The key of its lock.
    pub fn key(&self) -> i64 {
        self.key
    }

    /// Whether others may believe that the worker is dead.
    pub fn is_lost(&self) -> bool {
        self.connection.is_closed()
    }
}

impl Catalog {
    /// Adds a job that this worker begins at once, or that waits for one. Ended ones of a month ago are forgotten.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn job_add(&self, new: &NewJob, executor: Option<i64>) -> Result<JobRow, CatalogError> {
        let sql = format!(
            "WITH old AS (
                DELETE FROM catalog.job WHERE created_at < now() - $8 * interval '1 day' AND state IN ('done', 'failed')
             )
             INSERT INTO catalog.job (id, kind, tenant, slug, work, act, executor, state, attempts, begun_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $7::int8 IS NULL THEN 'queued' ELSE 'running' END,
                     CASE WHEN $7 IS NULL THEN 0 ELSE 1 END, CASE WHEN $7 IS NULL THEN NULL ELSE now() END)
             RETURNING {COLUMNS}"
        );
        let NewJob { id, kind, tenant, slug, work, act } = new;
        let row = self
            .sessions
            .query_one(&sql, &[id, kind, tenant, slug, work, &Json(act), &executor, &f64::from(KEPT_DAYS)])
            .await?;
        JobRow::read(&row)
    }

    /// Takes jobs that nobody is at: new ones, and those of dead workers. One of which several workers died has failed.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn jobs_claim(&self, executor: i64, most: usize) -> Result<Vec<JobRow>, CatalogError> {
        let sql = format!(
            "WITH free AS (
                SELECT id FROM catalog.job
                WHERE state IN ('queued', 'running') AND (executor IS NULL OR NOT catalog.is_alive(executor))
                ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
             ), poison AS (
                UPDATE catalog.job SET state = 'failed', ended_at = now(),
                    problem = jsonb_build_object('code', 'MBX600', 'detail', 'every worker that began it died')
                WHERE id IN (SELECT id FROM free) AND attempts >= $3
             )
             UPDATE catalog.job SET state = 'running', executor = $1, attempts = attempts + 1, begun_at = now()
             WHERE id IN (SELECT id FROM free) AND attempts < $3 RETURNING {COLUMNS}"
        );
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self.sessions.query(&sql, &[&executor, &most, &MAX_ATTEMPTS]).await?;
        rows.iter().map(JobRow::read).collect()
    }

    /// Says that these jobs are a worker's, who had to take another seat.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn jobs_kept(&self, ids: &[String], before: i64, executor: i64) -> Result<(), CatalogError> {
        let sql = "UPDATE catalog.job SET executor = $3 WHERE id = ANY ($1) AND executor = $2 AND state = 'running'";
        self.change(sql, &[&ids, &before, &executor]).await
    }

    /// Says how far a job is.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn job_progress(&self, id: &str, progress: &str) -> Result<(), CatalogError> {
        let sql = "UPDATE catalog.job SET progress = $2 WHERE id = $1 AND state = 'running'";
        self.change(sql, &[&id, &progress]).await
    }

    /// Ends a job: with what came of it, or why it could not be done.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn job_end(&self, id: &str, outcome: Result<&Value, &Value>) -> Result<JobRow, CatalogError> {
        let sql = format!(
            "UPDATE catalog.job SET state = CASE WHEN $3::jsonb IS NULL THEN 'done' ELSE 'failed' END, result = $2, problem = $3,
                    ended_at = now(), executor = NULL
             WHERE id = $1 RETURNING {COLUMNS}"
        );
        JobRow::read(&self.sessions.query_one(&sql, &[&id, &outcome.ok(), &outcome.err()]).await?)
    }

    /// The job of this id.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn job(&self, id: &str) -> Result<Option<JobRow>, CatalogError> {
        let sql = format!("SELECT {COLUMNS} FROM catalog.job WHERE id = $1");
        self.sessions.query_opt(&sql, &[&id]).await?.as_ref().map(JobRow::read).transpose()
    }

    /// The newest jobs, newest first: of a tenant, by its id, or of all; behind the one of this id.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn jobs(
        &self,
        tenant: Option<&str>,
        after: Option<&str>,
        most: i64,
    ) -> Result<Vec<JobRow>, CatalogError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM catalog.job
             WHERE ($1::text IS NULL OR tenant = $1)
               AND ($2::text IS NULL OR (created_at, id) < (SELECT j.created_at, j.id FROM catalog.job j WHERE j.id = $2))
             ORDER BY created_at DESC, id DESC LIMIT $3"
        );
        let rows = self.sessions.query(&sql, &[&tenant, &after, &most]).await?;
        rows.iter().map(JobRow::read).collect()
    }

    /// The newest jobs of a kind, newest first.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn jobs_of_kind(&self, kind: &str, most: i64) -> Result<Vec<JobRow>, CatalogError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM catalog.job WHERE kind = $1 ORDER BY created_at DESC, id DESC LIMIT $2"
        );
        self.sessions.query(&sql, &[&kind, &most]).await?.iter().map(JobRow::read).collect()
    }

    /// Whether a worker that lives is at a job to do just this.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn is_worked_at(&self, work: &Value) -> Result<bool, CatalogError> {
        let sql = "SELECT EXISTS (SELECT FROM catalog.job
                                  WHERE state IN ('queued', 'running') AND work = $1 AND catalog.is_alive(executor))";
        Ok(self.sessions.query_one(sql, &[work]).await?.try_get(0)?)
    }

    /// How many jobs wait or run.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn jobs_open(&self) -> Result<i64, CatalogError> {
        let sql = "SELECT count(*) FROM catalog.job WHERE state IN ('queued', 'running')";
        Ok(self.sessions.query_one(sql, &[]).await?.try_get(0)?)
    }
}
