//! Disk: what requests of a tenant whose database is over its quota may still do.

use tokio_postgres::error::SqlState;

use super::context::Access;
use super::error::{Code, Error};
use super::execute::{Ending, Failure, Job};
use super::plan::Source;
use super::plan::tree::ChangeKind;
use crate::pool::{Room, Use};

/// Refuses what would make the database larger. Functions may go on to read.
pub(super) fn limit(job: &mut Job, source: &Source<'_>, room: Room) -> Result<(), Failure> {
    let (used, may_delete) = match room {
        Room::Free => return Ok(()),
        Room::Full(used) => (used, true),
        Room::ReadOnly(used) => (used, false),
    };
    match source {
        Source::Read => {}
        Source::Change(change) if matches!(change.kind, ChangeKind::Delete) && may_delete => {}
        Source::Change(_) => return Err(Failure::Unexpected(full(used))),
        // Before PostgreSQL 16 a read-only transaction may write large objects: nothing of them lasts.
        Source::Call(..) => (job.access, job.ending) = (Access::Read, Ending::Rollback),
    }
    Ok(())
}

/// What a transaction of one's own may do.
pub(super) fn access(room: Room) -> Access {
    if room == Room::Free { Access::Write } else { Access::Read }
}

/// Says why a function may not write.
pub(super) fn explained(failure: Failure, room: Room) -> Failure {
    match (&failure, room) {
        (Failure::Refused(refusal), Room::Full(used) | Room::ReadOnly(used))
            if refusal.error.code == SqlState::READ_ONLY_SQL_TRANSACTION =>
        {
            Failure::Unexpected(full(used))
        }
        _ => failure,
    }
}

fn full(used: Use) -> Error {
    let Use { bytes, most } = used;
    Error::new(Code::DatabaseFull, "The database has grown over its quota")
        .with_details(format!("It has {bytes} bytes of {most}"))
        .with_hint("delete what is no longer needed, or ask for more room")
}
