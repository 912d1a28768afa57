//! Reads what a job's pipeline answers: the counts in front of the body, then the body, as far as it is read here.

use bytes::{Bytes, BytesMut};
use tokio_postgres::types::{FromSqlOwned, Type};

use super::super::body::LONGEST_WHOLE;
use super::{Answered, Ending, Failure, Job, Outcome, Output, Steps};
use crate::pg::wire::{Answer, Connection, Refusal, Step, WireError};

/// Longest value in front of a body, in bytes: headers that a function chose, the key of a row.
const LONGEST_VALUE: usize = 1024 * 1024;

/// What was read.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) outcome: Outcome,
    /// The first error.
    pub(super) refusal: Option<Refusal>,
    /// Of a long body, the bytes that are still in the socket.
    pub(super) left: Option<usize>,
}

/// Reads to the end of what was written, or to a long body of a read.
pub(super) async fn read(wire: &mut Connection, job: &Job, steps: Steps) -> Result<Reading, Failure> {
    let mut reading = Reading::default();
    let (mut lines, mut has_row, mut has_ended) = (BytesMut::new(), false, false);
    while !wire.is_answered() {
        match wire.next().await? {
            Answer::Row(step) if step == steps.main && job.output == Output::Lines => {
                line(wire, &mut lines, job.max_answer).await?;
            }
            Answer::Row(step) if step == steps.main => {
                has_row = true;
                reading.left = row(wire, step, job, &mut reading.outcome).await?;
                if reading.left.is_some() {
                    return Ok(reading);
                }
            }
            Answer::Row(step) if Some(step) == steps.estimate => {
                reading.outcome.planned = estimate(wire).await?
            }
            Answer::Done(step, tag) if Some(step) == steps.end && !has_ended => {
                has_ended = true;
                // Nothing failed, and the server undid it all the same.
                if tag.rolled_back && job.ending == Ending::Commit && reading.refusal.is_none() {
                    return Err(WireError::Protocol("COMMIT rolled back".into()).into());
                }
            }
            Answer::Failed(refusal) => reading.refusal = reading.refusal.or(Some(refusal)),
            // Rows of the settings and of the pre-request function are nobody's.
            Answer::Row(_) | Answer::Done(..) | Answer::Ready(_) => {}
        }
    }
    if job.output == Output::Lines {
        reading.outcome.body = Answered::Whole(lines.freeze());
        reading.outcome.rows = 1;
    } else if !has_row && reading.refusal.is_none() {
        return Err(WireError::Protocol("the main query gave no row".into()).into());
    }
    Ok(reading)
}

/// The columns of [`main`](super::super::sql::main), in their order. What is left in the socket of a long body.
async fn row(
    wire: &mut Connection,
    step: Step,
    job: &Job,
    outcome: &mut Outcome,
) -> Result<Option<usize>, Failure> {
    outcome.rows = value(wire, &Type::INT8).await?.unwrap_or_default();
    outcome.total = value(wire, &Type::INT8).await?;
    outcome.location = value(wire, &Type::TEXT_ARRAY).await?.unwrap_or_default();
    outcome.inserted = value(wire, &Type::INT4).await?;
    outcome.headers = value(wire, &Type::TEXT).await?;
    outcome.status = value(wire, &Type::TEXT).await?;
    value::<bool>(wire, &Type::BOOL).await?;
    let Some(mut length) = wire.value().await? else { return Ok(None) };
    // Of a change it is the server's to refuse, before its COMMIT.
    if length > job.max_answer && job.ending == Ending::Undo {
        return Err(Failure::TooLong);
    }
    // In PostgreSQL's binary form a version number stands before jsonb's text.
    if wire.column_type(step, BODY) == Some(&Type::JSONB) && length > 0 {
        wire.bytes(1).await?;
        length -= 1;
    }
    if length > LONGEST_WHOLE && job.ending == Ending::Undo && job.output == Output::Row {
        return Ok(Some(length));
    }
    outcome.body = Answered::Whole(wire.bytes(length).await?);
    Ok(None)
}

/// The position of the body among the columns.
const BODY: usize = 7;

async fn value<T: FromSqlOwned>(wire: &mut Connection, kind: &Type) -> Result<Option<T>, WireError> {
    let Some(length) = wire.value().await? else { return Ok(None) };
    if length > LONGEST_VALUE {
        return Err(WireError::TooLong { bytes: length, most: LONGEST_VALUE });
    }
    let bytes = wire.bytes(length).await?;
    let unreadable = |error| WireError::Protocol(format!("a value in front of the body: {error}"));
    T::from_sql(kind, &bytes).map(Some).map_err(unreadable)
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
    let text = text(wire, LONGEST_VALUE).await?;
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
