//! Stage 4: one transaction on one `Checkout`, in one write.
//!
//! Every request sends the same: BEGIN, what the request brings, the tenant's pre-request function, the main query, and
//! how it [ends](Ending), all under one Sync. A read of relations ends by ROLLBACK, which takes back whatever was set,
//! become, declared or listened to. What may last ends by COMMIT, with the full reset of the session behind it; where the
//! outcome decides whether it may last, that end waits for the outcome.

mod answer;
mod failure;

use bytes::Bytes;

pub(super) use failure::{Failure, Remedy, remedy};

use super::body::{Body, Delivery, Share};
use super::context::{Access, RequestContext};
use super::error::{Code, Error};
use super::sql::{Statement, Value};
use crate::pg::wire::{
    Answer, Command, Connection, Names, Parameter, Phase, Query, Refusal, StatementKey, Status, Step,
    WireError,
};
use crate::pool::{Checkout, End, ROLLBACK, end_batch, write_end};

/// Deferred constraints are checked by a statement of their own. At COMMIT no time limit of PostgreSQL's would hold for
/// their triggers, and where nothing lasts, the caller wants to know whether it would.
const CHECK_DEFERRED: Command = Command::new("SET CONSTRAINTS ALL IMMEDIATE", "SET CONSTRAINTS");

/// What runs in a transaction.
#[derive(Debug)]
pub(super) struct Job {
    /// The tenant's own function that runs before.
    pub(super) before: Option<String>,
    /// The main query.
    pub(super) main: Statement,
    /// What the main query gives.
    pub(super) output: Output,
    /// How many rows the planner thinks there are.
    pub(super) estimate: Option<Statement>,
    /// Whether anything may be written.
    pub(super) access: Access,
    /// How it ends.
    pub(super) ending: Ending,
    /// What must be true of the outcome, or else everything is undone.
    pub(super) expect: Expect,
    /// Whether statements of earlier requests are used.
    pub(super) names: Names,
    /// Longest answer, in bytes.
    pub(super) max_answer: usize,
}

/// What a main query gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// The one row of [`main`](super::sql::main), whose body is the answer's.
    Row,
    /// The same row, whose body is looked at here.
    Privileges,
    /// Lines of a plan.
    Lines,
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// A read of relations: by ROLLBACK, under the Sync of the read itself.
    Undo,
    /// What was changed lasts, and so does what a function notified.
    Commit,
    /// The caller wants nothing to last.
    Rollback,
}

/// What the main query gave.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The body, as PostgreSQL wrote it.
    pub(super) body: Answered,
    /// Rows in the body, or rows changed.
    pub(super) rows: i64,
    /// Rows altogether, when the caller asked.
    pub(super) total: Option<i64>,
    /// Rows altogether, as the planner thinks.
    pub(super) planned: Option<i64>,
    /// The key of the row that was made: `column=eq.value`.
    pub(super) location: Vec<String>,
    /// New rows, less replaced ones.
    pub(super) inserted: Option<i32>,
    /// `response.headers` as a function left it.
    pub(super) headers: Option<String>,
    /// `response.status` as a function left it.
    pub(super) status: Option<String>,
}

/// A body.
#[derive(Debug, Default)]
pub(super) enum Answered {
    /// There is none.
    #[default]
    Nothing,
    /// It is here.
    Whole(Bytes),
    /// It is here, and long.
    Held(Body),
    /// It is long, and still in the socket.
    Coming(Box<Delivery>),
}

impl Answered {
    /// As the client gets it; what is still in the socket is read from now on.
    pub(super) fn start(self, share: &Share) -> Body {
        match self {
            Self::Nothing => Body::empty(),
            Self::Whole(bytes) => Body::whole(bytes, share),
            Self::Held(body) => body,
            Self::Coming(delivery) => delivery.start(),
        }
    }
}

/// What must be true of the outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Expect {
    /// Exactly one row, because one object is asked for.
    pub(super) one: bool,
    /// Exactly one row, because PUT makes one.
    pub(super) put: bool,
    /// At most so many rows.
    pub(super) at_most: Option<i64>,
}

/// Runs the job in a transaction of its own. The outcome of what may last comes back only after its COMMIT succeeded.
///
/// Dropping the future cancels what runs, and the connection is not used again.
pub(super) async fn run(
    mut checkout: Checkout,
    context: &RequestContext<'_>,
    job: &Job,
    budget: &Share,
) -> Result<Outcome, Failure> {
    // A read can be judged after its end; a change can't.
    let judged = job.access == Access::Write && job.expect != Expect::default();
    let keys = Keys::new(context, job);
    let steps = write(checkout.wire(), context, job, &keys, judged)?;
    let mut reading = answer::read(checkout.wire(), job, steps, budget).await?;
    if let (Some(length), None) = (reading.left, &reading.refusal) {
        // The body is read on by somebody else, while the client takes it.
        let outcome = check(reading.outcome, job.expect)?;
        let delivery = Delivery::new(checkout, length, budget.clone());
        return Ok(Outcome { body: Answered::Coming(Box::new(delivery)), ..outcome });
    }
    let wire = checkout.wire();
    let mut is_clean = reading.is_clean;
    let mut result = match reading.refusal.take() {
        Some(refusal) => Err(Failure::Refused(refusal)),
        None => check(reading.outcome, job.expect),
    };
    if judged && result.is_ok() {
        let ended = end(wire, job.ending, job.names).await?;
        is_clean = ended.is_clean;
        result = ended.refusal.map_or(result, |refusal| Err(Failure::Refused(refusal)));
    }
    if let Err(failure) = &result {
        if failure.is_of_a_standby() {
            checkout.leave_standby();
            return result;
        }
        if failure.is_of_a_name() {
            // Somebody replaced or removed our statements: dropped, the session is closed.
            return result;
        }
        if failure.is_of_a_text() {
            keys.iter().for_each(|key| wire.forget(key));
        }
    }
    // What stands behind an error, the reset too, has not run; of a judged change nothing was sent yet. Should this fail,
    // what became of the request is known all the same, and the session is closed.
    if is_clean || recover(wire).await.is_ok() {
        checkout.clean();
    }
    result
}

/// What the two statements that are kept are found by.
struct Keys {
    context: StatementKey,
    main: StatementKey,
}

impl Keys {
    fn new(context: &RequestContext<'_>, job: &Job) -> Self {
        Self {
            // It names everything with its schema.
            context: StatementKey::new("", "", &context.sql()),
            main: StatementKey::new(context.role(), context.search_path(), &job.main.sql),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &StatementKey> {
        [&self.context, &self.main].into_iter()
    }
}

/// The statements whose answers matter.
#[derive(Debug, Clone, Copy)]
struct Steps {
    estimate: Option<Step>,
    main: Step,
    /// The COMMIT or ROLLBACK; none while the outcome is to be judged.
    end: Option<Step>,
}

fn write(
    wire: &mut Connection,
    context: &RequestContext<'_>,
    job: &Job,
    keys: &Keys,
    judged: bool,
) -> Result<Steps, WireError> {
    let names = job.names;
    let kept = |key| (names == Names::Kept).then_some(key);
    wire.command(&context.begin(job.access), names)?;
    let values = context.values();
    let parameters: Vec<_> = values.iter().map(|value| Parameter::text(value)).collect();
    let sql = context.sql();
    wire.query(&Query { sql: &sql, types: &[], key: kept(&keys.context), parameters: &parameters })?;
    if context.sets_timezone() {
        wire.note_zone();
    }
    if let Some(before) = &job.before {
        wire.query(&Query { sql: before, types: &[], key: None, parameters: &[] })?;
    }
    let mut query = |statement: &Statement, key| {
        let parameters: Vec<_> = statement.values.iter().map(Value::parameter).collect();
        wire.query(&Query { sql: &statement.sql, types: &[], key, parameters: &parameters })
    };
    // Before the main query, whose body may stay in the socket for as long as the client takes.
    let estimate = job.estimate.as_ref().map(|statement| query(statement, None)).transpose()?;
    let main = query(&job.main, kept(&keys.main))?;
    if job.access == Access::Write {
        wire.command(&CHECK_DEFERRED, names)?;
    }
    let end = match job.ending {
        Ending::Undo => Some(wire.command(&ROLLBACK, names)?),
        _ if judged => None,
        Ending::Commit => write_end(wire, End::Commit, names)?,
        Ending::Rollback => write_end(wire, End::Rollback, names)?,
    };
    wire.sync();
    Ok(Steps { estimate, main, end })
}

/// Ends a transaction whose statements were all answered, and resets the session.
async fn end(wire: &mut Connection, ending: Ending, names: Names) -> Result<answer::Ended, WireError> {
    let end = if ending == Ending::Commit { End::Commit } else { End::Rollback };
    let step = write_end(wire, end, names)?;
    wire.sync();
    answer::end(wire, step).await
}

/// Leaves the session as it was when it was opened, after something failed in it.
async fn recover(wire: &mut Connection) -> Result<(), WireError> {
    let end = if wire.status() == Status::Idle { End::None } else { End::Rollback };
    wire.run(&end_batch(end)).await
}

fn check(outcome: Outcome, expect: Expect) -> Result<Outcome, Failure> {
    let refused = |error: Error| Err(Failure::Unexpected(error));
    if expect.put && outcome.rows != 1 {
        let message = "Payload values do not match URL in primary key column(s)";
        return refused(Error::new(Code::PutMatchingPk, message));
    }
    if expect.one && outcome.rows != 1 {
        let details = format!("The result contains {} rows", outcome.rows);
        let message = "Cannot coerce the result to a single JSON object";
        return refused(Error::new(Code::SingularityError, message).with_details(details));
    }
    if expect.at_most.is_some_and(|most| outcome.rows > most) {
        let details = format!("The query affects {} rows", outcome.rows);
        let message = "Query result exceeds max-affected preference constraint";
        return refused(Error::new(Code::MaxAffectedViolation, message).with_details(details));
    }
    Ok(outcome)
}

/// Opens a transaction for statements of somebody else's, and waits for it.
pub(super) async fn begin(
    wire: &mut Connection,
    context: &RequestContext<'_>,
    access: Access,
) -> Result<(), Failure> {
    // Without a name, so that nothing else fails in its place.
    wire.command(&context.begin(access), Names::None)?;
    let (sql, values) = (context.sql(), context.values());
    let parameters: Vec<_> = values.iter().map(|value| Parameter::text(value)).collect();
    wire.query(&Query { sql: &sql, types: &[], key: None, parameters: &parameters })?;
    wire.sync();
    let mut first = Ok(());
    while !wire.is_answered() {
        if let Answer::Failed(refusal) = wire.next().await?
            && first.is_ok()
        {
            first = Err(Failure::Refused(refusal));
        }
    }
    first
}

/// Makes its changes last and gives the connection back; the server's refusal, if it has one.
pub(super) async fn commit(mut checkout: Checkout) -> Result<Option<Refusal>, WireError> {
    let ended = end(checkout.wire(), Ending::Commit, Names::Kept).await?;
    if ended.is_clean || recover(checkout.wire()).await.is_ok() {
        checkout.clean();
    }
    Ok(ended.refusal)
}
