//! Rollouts in the catalog: the plan as it was made, which wave is open, and the operator's word.

use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::{Catalog, CatalogError};

/// What a rollout does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutState {
    /// Nothing has been begun.
    Planned,
    /// Executors take its steps.
    Running,
    /// An operator stopped it; `resume` goes on.
    Paused,
    /// More failed than may, or the gate did not open; `retry`, `skip` or `abort`.
    Halted,
    /// Given up. What was done stays.
    Aborted,
    /// Every step was taken, or left out.
    Done,
}

impl RolloutState {
    /// As the catalog has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::Aborted => "aborted",
            Self::Done => "done",
        }
    }

    /// Whether there is still something that may happen.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Aborted | Self::Done)
    }

    fn read(text: &str) -> Result<Self, CatalogError> {
        let all = [Self::Planned, Self::Running, Self::Paused, Self::Halted, Self::Aborted, Self::Done];
        let found = all.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| CatalogError::Row(format!("`{text}` is not a state of a rollout")))
    }
}

/// A rollout.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RolloutRow {
    /// Its number.
    pub id: i64,
    /// What it does.
    pub state: RolloutState,
    /// The plan, in the planner's own form.
    #[serde(skip)]
    pub plan: Value,
    /// The wave that is open, from 0.
    pub wave: i32,
    /// When that was opened.
    #[serde(with = "time::serde::rfc3339::option")]
    pub wave_begun: Option<OffsetDateTime>,
    /// When none of its steps was left to do.
    #[serde(with = "time::serde::rfc3339::option")]
    pub wave_ended: Option<OffsetDateTime>,
    /// The wave whose gate an operator passed by hand.
    pub approved: Option<i32>,
    /// Why it is paused or halted, or what it waits for.
    pub reason: Option<String>,
    /// Who planned it.
    pub actor: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When its first step was allowed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub begun_at: Option<OffsetDateTime>,
    /// When it was done or given up.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// The catalog's clock, by which all of these are told.
    #[serde(with = "time::serde::rfc3339")]
    pub now: OffsetDateTime,
}

const SELECT: &str =
    "SELECT id, state, plan, wave, wave_begun, wave_ended, approved, reason, actor, created_at, begun_at,
                             ended_at, now() AS now FROM catalog.rollout";

impl RolloutRow {
    /// Its state in words, with the reason where there is one.
    pub fn standing(&self) -> String {
        let state = self.state.as_str();
        self.reason.as_ref().map_or_else(|| state.to_owned(), |reason| format!("{state}: {reason}"))
    }

    fn read(row: &Row) -> Result<Self, CatalogError> {
        Ok(Self {
            id: row.try_get("id")?,
            state: RolloutState::read(row.try_get("state")?)?,
            plan: row.try_get("plan")?,
            wave: row.try_get("wave")?,
            wave_begun: row.try_get("wave_begun")?,
            wave_ended: row.try_get("wave_ended")?,
            approved: row.try_get("approved")?,
            reason: row.try_get("reason")?,
            actor: row.try_get("actor")?,
            created_at: row.try_get("created_at")?,
            begun_at: row.try_get("begun_at")?,
            ended_at: row.try_get("ended_at")?,
            now: row.try_get("now")?,
        })
    }
}

/// A step to be: one tenant, in one wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStep {
    /// From 0.
    pub wave: i32,
    /// The tenant's id.
    pub tenant: String,
    /// Its slug.
    pub slug: String,
    /// Its server.
    pub server: String,
    /// Its edition.
    pub edition: String,
    /// Its version.
    pub before: i64,
}

/// What a rollout was planned to bring up out of order, of one edition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct PlannedGaps {
    /// The version that it leads to.
    pub version: i64,
    /// The digest of the files that lead there.
    pub history: String,
    /// Histories, by their digest, with the versions that they lack below their newest.
    pub gaps: std::collections::BTreeMap<String, Vec<i64>>,
}

impl Catalog {
    /// Stores a plan with its steps, in their order. It is in the journal.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn rollout_insert(&self, plan: &Value, steps: &[NewStep]) -> Result<RolloutRow, CatalogError> {
        let sql = "WITH r AS (
                INSERT INTO catalog.rollout (state, plan, actor)
                VALUES ('planned', $1, COALESCE(nullif(current_setting('manybox.act', true), '')::jsonb ->> 'operator', session_user))
                RETURNING id
             ), s AS (
                INSERT INTO catalog.rollout_step (rollout, place, wave, tenant, slug, server, edition, before, version)
                SELECT r.id, u.place - 1, u.wave, u.tenant, u.slug, u.server, u.edition, u.before, u.before
                FROM r, unnest($2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int8[])
                        WITH ORDINALITY AS u (wave, tenant, slug, server, edition, before, place)
             )
             INSERT INTO journal.line (action, detail)
             SELECT 'rollout-planned', jsonb_build_object('rollout', id, 'steps', $8::int8) FROM r
             RETURNING (detail ->> 'rollout')::int8";
        let column = |of: fn(&NewStep) -> &str| steps.iter().map(of).collect::<Vec<_>>();
        let row = self
            .sessions
            .query_opt(
                sql,
                &[
                    plan,
                    &steps.iter().map(|step| step.wave).collect::<Vec<_>>(),
                    &column(|step| &step.tenant),
                    &column(|step| &step.slug),
                    &column(|step| &step.server),
                    &column(|step| &step.edition),
                    &steps.iter().map(|step| step.before).collect::<Vec<_>>(),
                    &(steps.len() as i64),
                ],
            )
            .await?;
        let id: i64 = row.ok_or_else(|| CatalogError::Row("a rollout got no number".into()))?.try_get(0)?;
        let stored = self.rollout(id).await?;
        stored.ok_or_else(|| CatalogError::Row(format!("rollout {id} is gone again")))
    }

    /// Adds steps to a rollout's last wave: tenants that were created while it ran.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn rollout_extend(&self, id: i64, steps: &[NewStep]) -> Result<(), CatalogError> {
        for step in steps {
            let sql = "WITH one AS (SELECT id FROM catalog.rollout WHERE id = $1 FOR UPDATE)
                 INSERT INTO catalog.rollout_step (rollout, place, wave, tenant, slug, server, edition, before, version)
                 SELECT one.id, (SELECT COALESCE(max(place) + 1, 0) FROM catalog.rollout_step WHERE rollout = $1), $2, $3,
                        $4, $5, $6, $7, $7 FROM one
                 ON CONFLICT (rollout, tenant) DO NOTHING";
            let NewStep { wave, tenant, slug, server, edition, before } = step;
            self.sessions.execute(sql, &[&id, wave, tenant, slug, server, edition, before]).await?;
        }
        Ok(())
    }

    /// One rollout.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn rollout(&self, id: i64) -> Result<Option<RolloutRow>, CatalogError> {
        let row = self.sessions.query_opt(&format!("{SELECT} WHERE id = $1"), &[&id]).await?;
        row.as_ref().map(RolloutRow::read).transpose()
    }

    /// The newest rollouts, newest first.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn rollouts(&self, most: i64) -> Result<Vec<RolloutRow>, CatalogError> {
        let rows = self.sessions.query(&format!("{SELECT} ORDER BY id DESC LIMIT $1"), &[&most]).await?;
        rows.iter().map(RolloutRow::read).collect()
    }

    /// The rollouts that are running, paused or halted, oldest first.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn rollouts_open(&self) -> Result<Vec<RolloutRow>, CatalogError> {
        let sql = format!("{SELECT} WHERE state IN ('running', 'paused', 'halted') ORDER BY id");
        self.sessions.query(&sql, &[]).await?.iter().map(RolloutRow::read).collect()
    }

    /// What rollouts of an edition were planned to bring up out of order, newest first, of the newest hundred that were.
    ///
    /// # Errors
    /// When the catalog can't be read, or a plan is none.
    pub async fn planned_gaps(&self, edition: &str) -> Result<Vec<PlannedGaps>, CatalogError> {
        let sql = "SELECT plan -> 'targets' -> $1::text FROM catalog.rollout
                   WHERE plan -> 'targets' -> $1::text -> 'gaps' <> '{}' ORDER BY id DESC LIMIT 100";
        let rows = self.sessions.query(sql, &[&edition]).await?;
        let read = |row: &Row| {
            let target: serde_json::Value = row.try_get(0)?;
            serde_json::from_value(target)
                .map_err(|e| CatalogError::Row(format!("a plan can't be read ({e})")))
        };
        rows.iter().map(read).collect()
    }

    /// Moves a rollout from one of these states to another, for a reason. False when it was in none of them.
    /// It is in the journal.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn rollout_move(
        &self,
        id: i64,
        from: &[RolloutState],
        to: RolloutState,
        reason: Option<&str>,
    ) -> Result<bool, CatalogError> {
        let sql = "WITH r AS (
                UPDATE catalog.rollout SET state = $3, reason = $4,
                       begun_at = CASE WHEN $3 = 'running' THEN COALESCE(begun_at, now()) ELSE begun_at END,
                       wave_begun = CASE WHEN $3 = 'running' THEN COALESCE(wave_begun, now()) ELSE wave_begun END,
                       ended_at = CASE WHEN $3 IN ('aborted', 'done') THEN now() END
                WHERE id = $1 AND state = ANY ($2) RETURNING id
             )
             INSERT INTO journal.line (action, detail)
             SELECT 'rollout-' || $3, jsonb_build_object('rollout', id, 'reason', $4::text) FROM r";
        let from: Vec<_> = from.iter().map(|state| state.as_str()).collect();
        Ok(self.sessions.execute(sql, &[&id, &from, &to.as_str(), &reason]).await? > 0)
    }

    /// Says what a running rollout waits for; `None` when it waits for nothing.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn rollout_waits(&self, id: i64, reason: Option<&str>) -> Result<(), CatalogError> {
        let sql = "UPDATE catalog.rollout SET reason = $2
                   WHERE id = $1 AND state = 'running' AND reason IS DISTINCT FROM $2";
        self.sessions.execute(sql, &[&id, &reason]).await?;
        Ok(())
    }

    /// Notes that no step of the open wave is left to do, and gives the time at which that was first noted.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn wave_ended(&self, id: i64, wave: i32) -> Result<(), CatalogError> {
        let sql = "UPDATE catalog.rollout SET wave_ended = now()
                   WHERE id = $1 AND wave = $2 AND wave_ended IS NULL AND state = 'running'";
        self.sessions.execute(sql, &[&id, &wave]).await?;
        Ok(())
    }

    /// Takes back that a wave has ended: steps of it are to be done again.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn wave_reopened(&self, id: i64) -> Result<(), CatalogError> {
        let sql = "UPDATE catalog.rollout SET wave_ended = NULL WHERE id = $1";
        self.sessions.execute(sql, &[&id]).await?;
        Ok(())
    }

    /// Opens the wave after this one; nothing happens when somebody else did.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn wave_next(&self, id: i64, after: i32) -> Result<(), CatalogError> {
        let sql =
            "UPDATE catalog.rollout SET wave = wave + 1, wave_begun = now(), wave_ended = NULL, reason = NULL
                   WHERE id = $1 AND wave = $2 AND state = 'running'";
        self.sessions.execute(sql, &[&id, &after]).await?;
        Ok(())
    }

    /// Passes the gate of the open wave by hand. It is in the journal.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn rollout_approve(&self, id: i64) -> Result<(), CatalogError> {
        let sql = "WITH r AS (UPDATE catalog.rollout SET approved = wave WHERE id = $1 RETURNING id, wave)
             INSERT INTO journal.line (action, detail)
             SELECT 'rollout-approved', jsonb_build_object('rollout', id, 'wave', wave) FROM r";
        self.sessions.execute(sql, &[&id]).await?;
        Ok(())
    }
}
