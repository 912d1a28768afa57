//! Trace: the span of a job.

use super::super::Problem;
use crate::catalog::JobRow;
use crate::otlp::{Attributes, Finished, Kind};

/// A job that ended. It may outlive the request that it came of, and that one's process: it is a trace of its own, which has the
/// request's id.
pub(super) fn finished(row: &JobRow, problem: Option<&Problem>) -> Finished {
    let mut attributes = Attributes::default();
    attributes.text("manybox.job.id", row.id.as_str());
    attributes.text("manybox.job.kind", row.kind.as_str());
    attributes.number("manybox.job.attempts", row.attempts.into());
    attributes.maybe("manybox.tenant.id", row.tenant.as_deref());
    attributes.maybe("manybox.tenant.slug", row.slug.as_deref());
    attributes.text("manybox.request.id", row.act.request.as_str());
    attributes.maybe("error.type", problem.map(|problem| problem.code.row().0));
    let (name, is_error) = (format!("job {}", row.kind), problem.is_some());
    Finished { name, kind: Kind::Internal, attributes, is_error, laps: Vec::new() }
}
