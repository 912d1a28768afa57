//! Reads what a job's pipeline answers: the counts in front of the body, then the body, as far as it is read here.

use bytes::{Bytes, BytesMut};
use tokio_postgres::types::{FromSqlOwned, Type};

use super::super::body::{MAX_WHOLE, Share};
use super::super::head::MAX_CHOSEN_BYTES;
use super::{Answered, Ending, Failure, Job, Outcome, Output, Steps};
use crate::pg::wire::{Answer, Connection, Refusal, Step, WireError};

/// Longest value in front of a body, in bytes: the key of a row, a plan.
const MAX_VALUE: usize = 1024 * 1024;

/// What was read.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) outcome: Outcome,
    /// The first error.
    pub(super) refusal: Option<Refusal>,
    /// Of a long body, the bytes that are still in the socket.
    pub(super) left: Option<usize>,
    /// Whether the end of the transaction and all behind it have run.
    pub(super) is_clean: bool,
}

/// Reads to the pipeline's Sync, or to a long body of a read.
pub(super) async fn read(
    wire: &mut Connection,
    job: &Job,
    steps: Steps,
    budget: &Share,
) -> Result<Reading, Failure> {
    let mut reading = Reading::default();
    let (mut lines, mut has_row, mut ended) = (BytesMut::new(), false, Ended::default());
    while !wire.is_answered() {
        match wire.next().await? {
            Answer::Row(step) if step == steps.main && job.output == Output::Lines => {
                line(wire, &mut lines, job.max_answer).await?;
            }
            Answer::Row(step) if step == steps.main => {
                has_row = true;
                reading.left = row(wire, step, job, budget, &mut reading.outcome).await?;
                if reading.left.is_some() {
                    return Ok(reading);
                }
            }
            Answer::Row(step) if Some(step) == steps.estimate => {
                reading.outcome.planned = estimate(wire).await?;
            }
            // No more comes: the server closes the session.
            Answer::Failed(refusal) if refusal.error.is_fatal() => {
                ended.failed(refusal);
                break;
            }
            answer => ended.follow(answer, steps.end),
        }
    }
    (reading.refusal, reading.is_clean) = (ended.refusal, ended.is_clean);
    if job.output == Output::Lines {
        reading.outcome.body = Answered::Whole(lines.freeze());
        reading.outcome.rows = 1;
    } else if !has_row && reading.refusal.is_none() {
        return Err(WireError::Protocol("the main query gave no row".into()).into());
    }
    Ok(reading)
}

/// What became of the end of a transaction.
#[derive(Default)]
pub(super) struct Ended {
    /// Why it did not come to that, or did not end as it was to.
    pub(super) refusal: Option<Refusal>,
    /// Whether it ended, and everything behind that has run.
    pub(super) is_clean: bool,
    has_ended: bool,
}

impl Ended {
    /// The COMMIT or ROLLBACK decides. An error behind it, as when the session's own time ran out, takes nothing back.
    fn follow(&mut self, answer: Answer, end: Option<Step>) {
        match answer {
            Answer::Done(step, _) if Some(step) == end => (self.has_ended, self.is_clean) = (true, true),
            Answer::Failed(refusal) => self.failed(refusal),
            // Rows of the settings, of the pre-request function and of the reset are nobody's.
            Answer::Row(_) | Answer::Done(..) | Answer::Ready(_) => {}
        }
    }

    fn failed(&mut self, refusal: Refusal) {
        self.is_clean = false;
        if !self.has_ended && self.refusal.is_none() {
            self.refusal = Some(refusal);
        }
    }
}

/// Reads to the end of a transaction that was sent alone.
pub(super) async fn end(wire: &mut Connection, end: Option<Step>) -> Result<Ended, WireError> {
    let mut ended = Ended::default();
    while !wire.is_answered() {
        match wire.next().await? {
            Answer::Failed(refusal) if refusal.error.is_fatal() => {
                ended.failed(refusal);
                break;
            }
            answer => ended.follow(answer, end),
        }
    }
    Ok(ended)
}

/// The columns of [`main`](super::super::sql::main), in their order. What is left in the socket of a long body.
async fn row(
    wire: &mut Connection,
    step: Step,
    job: &Job,
    budget: &Share,
    outcome: &mut Outcome,
) -> Result<Option<usize>, Failure> {
    outcome.rows = value(wire, &Type::INT8).await?.unwrap_or_default();
    outcome.total = value(wire, &Type::INT8).await?;
    outcome.location = value(wire, &Type::TEXT_ARRAY).await?.unwrap_or_default();
    outcome.inserted = value(wire, &Type::INT4).await?;
    outcome.headers = chosen(wire).await?;
    outcome.status = chosen(wire).await?;
    value::<bool>(wire, &Type::BOOL).await?;
    let Some(mut length) = wire.value().await? else { return Ok(None) };
    // In PostgreSQL's binary form a version number stands before jsonb's text.
    if wire.column_type(step, BODY) == Some(&Type::JSONB) && length > 0 {
        wire.bytes(1).await?;
        length -= 1;
    }
    // Of a change the server has refused it, before its COMMIT, unless a function put another text in our statement's place.
    if length > job.max_answer {
        return Err(Failure::TooLong);
    }
    if length <= MAX_WHOLE || job.output != Output::Row {
        outcome.body = Answered::Whole(wire.bytes(length).await?);
        return Ok(None);
    }
    if job.ending == Ending::Undo {
        return Ok(Some(length));
    }
    outcome.body = Answered::Held(budget.hold(wire, length).await?);
    Ok(None)
}

/// The position of the body among the columns.
const BODY: usize = 7;

async fn value<T: FromSqlOwned>(wire: &mut Connection, kind: &Type) -> Result<Option<T>, WireError> {
    let Some(length) = wire.value().await? else { return Ok(None) };
    if length > MAX_VALUE {
        return Err(WireError::TooLong { bytes: length, most: MAX_VALUE });
    }
    let bytes = wire.bytes(length).await?;
    let unreadable = |error| WireError::Protocol(format!("a value in front of the body: {error}"));
    T::from_sql(kind, &bytes).map(Some).map_err(unreadable)
}

/// What a function chose. Of what is too long just so much is kept that this can be seen.
async fn chosen(wire: &mut Connection) -> Result<Option<String>, WireError> {
    let Some(length) = wire.value().await? else { return Ok(None) };
    let kept = length.min(MAX_CHOSEN_BYTES + 1);
    let text = String::from_utf8_lossy(&wire.bytes(kept).await?).into_owned();
    wire.skip(length - kept).await?;
    Ok(Some(text))
}

async fn line(wire: &mut Connection, lines: &mut BytesMut, most: usize) -> Result<(), Failure> {
    let line = text(wire, most).await?;
    if lines.len() + line.len() >= most {
        return Err(Failure::TooLong);
    }
    lines.extend_from_slice(&line);
    lines.extend_from_slice(b"\n");
    Ok(())
}

async fn estimate(wire: &mut Connection) -> Result<Option<i64>, WireError> {
    let text = text(wire, MAX_VALUE).await?;
    let plan = serde_json::from_slice::<serde_json::Value>(&text).ok();
    Ok(plan.and_then(|plan| plan.pointer("/0/Plan/Plan Rows")?.as_i64()))
}

/// The only value of a row.
async fn text(wire: &mut Connection, most: usize) -> Result<Bytes, WireError> {
    match wire.value().await? {
        Some(length) if length > most => Err(WireError::TooLong { bytes: length, most }),
        Some(length) => wire.bytes(length).await,
        None => Ok(Bytes::new()),
    }
}
