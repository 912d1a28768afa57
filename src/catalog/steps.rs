//! Steps of rollouts: who works on which, and what became of each.

use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Statement};

use super::{Catalog, CatalogError};
use crate::pg::{AdvisoryLock, Connection};
use crate::tenant::{Lineage, TenantId};

/// What became of one tenant in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// Nobody has begun it.
    Pending,
    /// An executor works on it.
    Running,
    /// At the target, with the template's schema.
    Done,
    /// At the target, with a schema that became another than the template's in this step.
    Drifted,
    /// Not at the target.
    Failed,
    /// An operator left it out.
    Skipped,
}

impl StepState {
    /// As the catalog has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Drifted => "drifted",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// Whether it counts against the wave's budget.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Drifted)
    }

    fn read(text: &str) -> Result<Self, CatalogError> {
        let all = [Self::Pending, Self::Running, Self::Done, Self::Drifted, Self::Failed, Self::Skipped];
        let found = all.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| CatalogError::Row(format!("`{text}` is not a state of a step")))
    }
}

/// A step as it is stored.
#[derive(Debug, Clone, serde::Serialize)]
pub struct StepRow {
    /// Where it stands in the order, from 0.
    #[serde(skip)]
    pub place: i32,
    /// Its wave, from 0.
    pub wave: i32,
    /// The tenant's id.
    pub tenant: String,
    /// Its slug when the rollout was planned.
    pub slug: String,
    /// Its server.
    pub server: String,
    /// Its edition.
    pub edition: String,
    /// What became of it.
    pub state: StepState,
    /// Its version before the rollout.
    pub before: i64,
    /// Its version now.
    pub after: i64,
    /// How often it was begun.
    pub attempts: i32,
    /// When it was begun last.
    #[serde(with = "time::serde::rfc3339::option")]
    pub begun_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// What runs now, when it has run for a second.
    pub activity: Option<String>,
    /// Why it went no further, in the migrator's form.
    pub failure: Option<Value>,
    /// How its schema differs from the template's.
    pub drift: Option<Value>,
    /// What its files said by RAISE.
    pub notices: Option<Value>,
}

impl StepRow {
    fn read(row: &Row) -> Result<Self, CatalogError> {
        Ok(Self {
            place: row.try_get("place")?,
            wave: row.try_get("wave")?,
            tenant: row.try_get("tenant")?,
            slug: row.try_get("slug")?,
            server: row.try_get("server")?,
            edition: row.try_get("edition")?,
            state: StepState::read(row.try_get("state")?)?,
            before: row.try_get("before")?,
            after: row.try_get("version")?,
            attempts: row.try_get("attempts")?,
            begun_at: row.try_get("begun_at")?,
            ended_at: row.try_get("ended_at")?,
            activity: row.try_get("activity")?,
            failure: row.try_get("failure")?,
            drift: row.try_get("drift")?,
            notices: row.try_get("notices")?,
        })
    }
}

/// How many steps of a wave are in which state.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct WaveCounts {
    /// The wave, from 0.
    pub wave: i32,
    /// Nobody has begun them.
    pub pending: usize,
    /// Worked on.
    pub running: usize,
    /// Done.
    pub done: usize,
    /// Done, but different from the template.
    pub drifted: usize,
    /// Failed.
    pub failed: usize,
    /// Left out.
    pub skipped: usize,
    /// Seconds of work on the steps that ended, together.
    pub seconds: f64,
}

impl WaveCounts {
    /// All of them.
    pub fn all(&self) -> usize {
        self.open() + self.closed()
    }

    /// Those that are still to be done.
    pub fn open(&self) -> usize {
        self.pending + self.running
    }

    /// Those that ended in one way or another.
    pub fn closed(&self) -> usize {
        self.done + self.drifted + self.failed + self.skipped
    }

    /// Those that count against the budget.
    pub fn failures(&self) -> usize {
        self.drifted + self.failed
    }
}

/// A step that an executor took.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Where it stands in the order.
    pub place: i32,
    /// Its wave, from 0.
    pub wave: i32,
    /// The tenant.
    pub id: TenantId,
    /// Its slug.
    pub slug: String,
    /// Its server.
    pub server: String,
    /// What its database has, as far as the catalog knows.
    pub lineage: Lineage,
    /// Whether its state still allows it to be migrated.
    pub is_there: bool,
}

/// What an executor has to say about a step that it took.
#[derive(Debug, Clone)]
pub struct StepOutcome {
    /// Where it stands in the order.
    pub place: i32,
    /// What became of it; `Pending` gives it back.
    pub state: StepState,
    /// The version reached; `None` when that isn't known.
    pub version: Option<i64>,
    /// Why it went no further.
    pub failure: Option<Value>,
    /// How its schema differs from the template's.
    pub drift: Option<Value>,
    /// What its files said.
    pub notices: Option<Value>,
}

/// How many steps an executor takes at once.
#[derive(Debug, Clone, Default)]
pub struct Room {
    /// So many altogether.
    pub all: usize,
    /// So many of a server that isn't named below.
    pub per_server: usize,
    /// So many of these servers.
    pub servers: Vec<(String, usize)>,
}

/// Takes steps of the open wave: rollout, executor, servers and the room of each, the room of every other server, and of all.
const TAKE: &str = "WITH candidate AS (
    SELECT s.place, row_number() OVER (PARTITION BY s.server ORDER BY s.place) AS n
    FROM catalog.rollout r JOIN catalog.rollout_step s ON s.rollout = r.id AND s.wave = r.wave
    WHERE r.id = $1 AND r.state = 'running'
      AND (s.state = 'pending' OR s.state = 'running' AND NOT catalog.is_alive(s.executor))
 ), claimed AS (
    SELECT s.place FROM catalog.rollout_step s JOIN candidate c ON c.place = s.place
    LEFT JOIN unnest($3::text[], $4::int8[]) AS room (server, n) ON room.server = s.server
    WHERE s.rollout = $1 AND c.n <= COALESCE(room.n, $5)
      AND (s.state = 'pending' OR s.state = 'running' AND NOT catalog.is_alive(s.executor))
    ORDER BY s.place LIMIT $6 FOR UPDATE OF s SKIP LOCKED
 ), taken AS (
    UPDATE catalog.rollout_step s
    SET state = 'running', executor = $2, attempts = s.attempts + 1, begun_at = now(), ended_at = NULL,
        activity = NULL, failure = NULL, drift = NULL, notices = NULL
    FROM claimed c WHERE s.rollout = $1 AND s.place = c.place RETURNING s.place, s.wave, s.tenant
 )
 SELECT taken.place, taken.wave, t.id, t.slug, t.server, t.edition, t.version, t.history,
        t.edition IS NOT NULL AND t.state IN ('active', 'suspended', 'retired')
 FROM taken JOIN catalog.tenant t ON t.id = taken.tenant ORDER BY taken.place";

/// Writes outcomes: rollout, executor, and six columns.
const WRITE: &str = "UPDATE catalog.rollout_step s
 SET state = o.state, version = COALESCE(o.version, s.version), failure = o.failure, drift = o.drift,
     notices = o.notices, executor = NULL, activity = NULL,
     begun_at = CASE WHEN o.state <> 'pending' THEN s.begun_at END,
     ended_at = CASE WHEN o.state <> 'pending' THEN now() END
 FROM unnest($3::int[], $4::text[], $5::int8[], $6::jsonb[], $7::jsonb[], $8::jsonb[])
      AS o (place, state, version, failure, drift, notices)
 WHERE s.rollout = $1 AND s.place = o.place AND s.executor = $2";

/// An executor's place in the catalog: a session that holds a lock for as long as it lives. When it ends, however it
/// ends, others take over the steps that it had.
pub struct Seat {
    connection: Connection,
    key: i64,
    /// Prepared, because planning them would take longer than they do.
    take: Statement,
    write: Statement,
}

impl Seat {
    /// Takes a seat by a session of the admin in the catalog. `key` is this executor's own; `attendance` is the lock that
    /// all executors of its rollout share, by which others see that somebody is there.
    ///
    /// # Errors
    /// When the session is lost, or its key is held by somebody else, which happens once in 2^63.
    pub async fn take(connection: Connection, key: i64, attendance: i64) -> Result<Self, CatalogError> {
        // What it writes, a lost commit of it included, is found again in the tenants' own histories.
        connection.batch_execute("SET synchronous_commit = off").await?;
        let lock = AdvisoryLock::acquire(&connection, key, std::time::Duration::ZERO).await?;
        if lock.is_none() {
            return Err(CatalogError::Row("another executor has this key".into()));
        }
        // Nobody takes it but to share it, so it is had at once.
        connection.query_typed("SELECT pg_advisory_lock_shared($1)", &[(&attendance, Type::INT8)]).await?;
        let (take, write) = (connection.prepare(TAKE).await?, connection.prepare(WRITE).await?);
        Ok(Self { connection, key, take, write })
    }

    /// Writes outcomes, then takes further steps of the open wave: those that nobody has begun, and those of executors
    /// that are dead. Takes none unless the rollout is running.
    ///
    /// # Errors
    /// When the session is lost.
    pub async fn exchange(
        &self,
        rollout: i64,
        outcomes: &[StepOutcome],
        room: &Room,
    ) -> Result<Vec<Claim>, CatalogError> {
        self.write(rollout, outcomes).await?;
        if room.all == 0 {
            return Ok(Vec::new());
        }
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (servers, rooms): (Vec<_>, Vec<_>) =
            room.servers.iter().map(|(server, n)| (server.as_str(), number(*n))).unzip();
        let rows = self
            .connection
            .query(
                &self.take,
                &[&rollout, &self.key, &servers, &rooms, &number(room.per_server), &number(room.all)],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Claim {
                    place: row.try_get(0)?,
                    wave: row.try_get(1)?,
                    id: row.try_get::<_, String>(2)?.parse()?,
                    slug: row.try_get(3)?,
                    server: row.try_get(4)?,
                    lineage: Lineage {
                        edition: row.try_get::<_, Option<String>>(5)?.unwrap_or_default(),
                        version: row.try_get(6)?,
                        history: row.try_get(7)?,
                    },
                    is_there: row.try_get(8)?,
                })
            })
            .collect()
    }

    async fn write(&self, rollout: i64, outcomes: &[StepOutcome]) -> Result<(), CatalogError> {
        if outcomes.is_empty() {
            return Ok(());
        }
        // A step that somebody else took over meanwhile, because this session was lost for a while, is theirs to tell of.
        let places: Vec<_> = outcomes.iter().map(|o| o.place).collect();
        let states: Vec<_> = outcomes.iter().map(|o| o.state.as_str()).collect();
        let versions: Vec<_> = outcomes.iter().map(|o| o.version).collect();
        let json = |of: fn(&StepOutcome) -> &Option<Value>| outcomes.iter().map(of).collect::<Vec<_>>();
        let (failures, drifts, notices) = (json(|o| &o.failure), json(|o| &o.drift), json(|o| &o.notices));
        self.connection
            .execute(
                &self.write,
                &[&rollout, &self.key, &places, &states, &versions, &failures, &drifts, &notices],
            )
            .await?;
        Ok(())
    }

    /// Says what steps do that have run for a while.
    ///
    /// # Errors
    /// When the session is lost.
    pub async fn tell(&self, rollout: i64, activities: &[(i32, String)]) -> Result<(), CatalogError> {
        if activities.is_empty() {
            return Ok(());
        }
        let (places, texts): (Vec<_>, Vec<_>) =
            activities.iter().map(|(place, text)| (*place, text.as_str())).unzip();
        let sql = "UPDATE catalog.rollout_step s SET activity = a.activity
             FROM unnest($3::int[], $4::text[]) AS a (place, activity)
             WHERE s.rollout = $1 AND s.place = a.place AND s.executor = $2";
        self.connection.execute(sql, &[&rollout, &self.key, &places, &texts]).await?;
        Ok(())
    }

    /// Leaves the seat.
    pub async fn leave(self) {
        self.connection.close().await;
    }
}

impl Catalog {
    /// Whether somebody's session in the catalog holds the advisory lock of this key.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn is_held(&self, key: i64) -> Result<bool, CatalogError> {
        Ok(self.sessions.query_one("SELECT catalog.is_alive($1)", &[&key]).await?.try_get(0)?)
    }

    /// How many steps of each wave are in which state, in the order of the waves.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn wave_counts(&self, rollout: i64) -> Result<Vec<WaveCounts>, CatalogError> {
        let sql = "SELECT wave, state, count(*),
                          COALESCE(sum(extract(epoch FROM ended_at - begun_at)) FILTER (WHERE state IN ('done', 'drifted')), 0)::float8
                   FROM catalog.rollout_step WHERE rollout = $1 GROUP BY wave, state ORDER BY wave";
        let mut counts: Vec<WaveCounts> = Vec::new();
        for row in self.sessions.query(sql, &[&rollout]).await? {
            let wave: i32 = row.try_get(0)?;
            if counts.last().is_none_or(|last| last.wave != wave) {
                counts.push(WaveCounts { wave, ..WaveCounts::default() });
            }
            let Some(of_wave) = counts.last_mut() else { continue };
            let number = usize::try_from(row.try_get::<_, i64>(2)?).unwrap_or(0);
            match StepState::read(row.try_get(1)?)? {
                StepState::Pending => of_wave.pending = number,
                StepState::Running => of_wave.running = number,
                StepState::Done => of_wave.done = number,
                StepState::Drifted => of_wave.drifted = number,
                StepState::Failed => of_wave.failed = number,
                StepState::Skipped => of_wave.skipped = number,
            }
            of_wave.seconds += row.try_get::<_, f64>(3)?;
        }
        Ok(counts)
    }

    /// All steps, in their order.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn steps(&self, rollout: i64) -> Result<Vec<StepRow>, CatalogError> {
        let sql = "SELECT * FROM catalog.rollout_step WHERE rollout = $1 ORDER BY place";
        self.sessions.query(sql, &[&rollout]).await?.iter().map(StepRow::read).collect()
    }

    /// The steps that failed, and those that run now: what somebody who watches wants to see.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn steps_of_note(&self, rollout: i64, most: i64) -> Result<Vec<StepRow>, CatalogError> {
        let sql = "SELECT * FROM catalog.rollout_step
                   WHERE rollout = $1 AND state IN ('running', 'failed', 'drifted') ORDER BY place LIMIT $2";
        self.sessions.query(sql, &[&rollout, &most]).await?.iter().map(StepRow::read).collect()
    }

    /// Gives failed and left-out steps back, of all tenants or of these slugs, so that executors take them again. Returns
    /// how many. It is in the journal.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn steps_retry(&self, rollout: i64, slugs: &[String]) -> Result<u64, CatalogError> {
        let sql = "WITH s AS (
                UPDATE catalog.rollout_step
                SET state = 'pending', executor = NULL, begun_at = NULL, ended_at = NULL
                WHERE rollout = $1 AND CASE WHEN $2::text[] = '{}' THEN state IN ('failed', 'drifted')
                                            ELSE slug = ANY ($2) AND state IN ('failed', 'drifted', 'skipped') END
                RETURNING tenant
             )
             INSERT INTO journal.line (tenant, action, detail)
             SELECT tenant, 'rollout-retry', jsonb_build_object('rollout', $1::int8) FROM s";
        Ok(self.sessions.execute(sql, &[&rollout, &slugs]).await?)
    }

    /// Leaves tenants out of a rollout, unless somebody works on them or they are done. Returns the slugs of those that
    /// were. It is in the journal, with the reason.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn steps_skip(
        &self,
        rollout: i64,
        slugs: &[String],
        reason: Option<&str>,
    ) -> Result<Vec<String>, CatalogError> {
        let sql = "WITH s AS (
                UPDATE catalog.rollout_step SET state = 'skipped', executor = NULL, ended_at = now()
                WHERE rollout = $1 AND slug = ANY ($2)
                  AND (state IN ('pending', 'failed', 'drifted')
                       OR state = 'running' AND NOT catalog.is_alive(executor))
                RETURNING tenant, slug
             ), j AS (
                INSERT INTO journal.line (tenant, action, detail)
                SELECT tenant, 'rollout-skip', jsonb_build_object('rollout', $1::int8, 'reason', $3::text) FROM s
             )
             SELECT slug FROM s ORDER BY slug";
        let rows = self.sessions.query(sql, &[&rollout, &slugs, &reason]).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Mean seconds of a step in the newest rollout that brought tenants of this edition to this version, or else to any;
    /// `None` when there was none.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn mean_step(&self, edition: &str, version: i64) -> Result<Option<f64>, CatalogError> {
        let sql = "SELECT avg(extract(epoch FROM ended_at - begun_at))::float8 FROM catalog.rollout_step
                   WHERE edition = $1 AND state IN ('done', 'drifted')
                   GROUP BY rollout, version = $2 ORDER BY version = $2 DESC, rollout DESC LIMIT 1";
        let row = self.sessions.query_opt(sql, &[&edition, &version]).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.flatten())
    }
}
