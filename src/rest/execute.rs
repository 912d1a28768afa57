//! Stage 4: one transaction on one `Checkout`, in one round trip where the statement is prepared already. What a plain
//! reading leaves out of that, its own file says.

mod failure;
mod plain;

use std::sync::LazyLock;

use bytes::Bytes;
use futures_util::future::{OptionFuture, join, join4, join5};
use http::StatusCode;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Row};

pub(super) use failure::Failure;

use super::error::Error;
use super::sql::session::{SET, Settings, USUAL};
use super::sql::{Statement, Value};
use crate::pool::{COMMIT, Checkout, READ_COMMIT, ROLLBACK, StatementKey};

/// Deferred constraints are checked although nothing lasts: the caller wants to know whether it would.
const CHECK: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// What runs in a transaction.
#[derive(Debug)]
pub(super) struct Job {
    /// The tenant's own function that runs before.
    pub(super) before: Option<String>,
    /// The main query runs nobody's code that could look at the settings, or leave any.
    pub(super) plain: bool,
    /// The main query.
    pub(super) main: Statement,
    /// The main query gives lines of a plan.
    pub(super) lines: bool,
    /// How many rows the planner thinks there are.
    pub(super) estimate: Option<Statement>,
    /// Whether anything may be written.
    pub(super) writes: bool,
    /// Whether nothing lasts.
    pub(super) rolls_back: bool,
    /// What must be true of the outcome, or else everything is undone.
    pub(super) expect: Expect,
    /// What an earlier request prepared is not used.
    pub(super) fresh: bool,
}

/// What the main query gave.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The body, as PostgreSQL wrote it.
    pub(super) body: Option<Bytes>,
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

/// Runs the job in a transaction with these settings, or with as few as it needs. The outcome comes back only after its
/// end succeeded.
///
/// Dropping the future cancels what runs, and the connection is not used again. It is large, and moved into others, so
/// that its seldom parts are boxed.
pub(super) async fn run(
    mut checkout: Checkout,
    settings: &Settings<'_>,
    job: &Job,
) -> Result<Outcome, Failure> {
    if job.plain {
        return plain::run(checkout, settings, job).await;
    }
    checkout.drop_role().await?;
    let client = checkout.client();
    let end = match job {
        Job { rolls_back: true, .. } => ROLLBACK,
        // What a read can leave behind is little, and so is the reset. The main query of a plan is not run.
        Job { writes: false, lines: false, .. } => READ_COMMIT,
        _ => COMMIT,
    };
    let begin = client.batch_execute(settings.begin(job.writes));
    let key = StatementKey::new(settings.role(), settings.search_path(), &job.main.sql);
    // A read can be judged after its end; a change can't.
    let judged = job.writes && (job.expect != Expect::default() || job.rolls_back);
    let begun;
    let mut ended = false;
    // The order of the futures is the order of the messages: each is sent when it is polled first.
    let known = checkout.statement(&key).filter(|_| !job.fresh);
    let result = if let Some(prepared) = known {
        let main = found(client, job, &prepared);
        let ending: OptionFuture<_> = (!judged).then(|| client.batch_execute(end)).into();
        let (b, s, p, m, e) =
            join5(begin, set(&checkout, settings, job), before(client, job), main, ending).await;
        begun = b.is_ok();
        ended = matches!(e, Some(Ok(())));
        let all = p.and(m).and_then(|rows| e.unwrap_or(Ok(())).map(|()| rows));
        let all = all.map_err(|error| Failure::of(error, true));
        b.map_err(Failure::from).and(s).and(all).and_then(|rows| outcome(job, rows))
    } else {
        // Preparing needs its own round trip, and must happen as the role, inside the transaction.
        let prepare = client.prepare(&job.main.sql);
        let (b, s, p, m) = join4(begin, set(&checkout, settings, job), before(client, job), prepare).await;
        begun = b.is_ok();
        match b.map_err(Failure::from).and(s).and(p.and(m).map_err(Failure::from)) {
            Err(failure) => Err(failure),
            Ok(prepared) => {
                checkout.keep(key.clone(), prepared.clone());
                // The last in the same round trip, for later requests; when the query fails, so does that.
                let (rows, _) = join(found(client, job, &prepared), prepare_set(&checkout, settings)).await;
                rows.map_err(Failure::from).and_then(|rows| outcome(job, rows))
            }
        }
    };
    let result = result.and_then(|outcome| check(outcome, job.expect));
    let result = match result {
        Ok(outcome) if !ended => match finish(client, job, end).await {
            Ok(()) => {
                ended = true;
                Ok(outcome)
            }
            Err(error) => Err(error.into()),
        },
        other => other,
    };
    if result.as_ref().err().is_some_and(|f| f.is_stale() || f.is_remembered()) {
        checkout.forget(&key);
        // A function's `DEALLOCATE ALL` takes this one as well, which every later request would then fail for.
        checkout.forget(&SET_KEY);
    }
    // A COMMIT that failed (a deferred constraint) left the rest of its message, the reset, undone.
    if begun && (ended || client.batch_execute(ROLLBACK).await.is_ok()) {
        checkout.clean();
    }
    result
}

/// What the main query and the estimate give, sent together.
type Found = (Vec<Row>, Option<i64>);

async fn found(
    client: &Client,
    job: &Job,
    prepared: &tokio_postgres::Statement,
) -> Result<Found, tokio_postgres::Error> {
    let values = job.main.parameters();
    let (rows, planned) = join(client.query(prepared, &values), estimate(client, job)).await;
    Ok((rows?, planned?))
}

type Done = Result<(), tokio_postgres::Error>;

/// The key of [`SET`], which depends on nothing: it names everything with its schema.
static SET_KEY: LazyLock<StatementKey> = LazyLock::new(|| StatementKey::new("", "", SET));

/// The settings' statement. Before it is prepared it is sent with its types, so that it can go with BEGIN.
async fn set(checkout: &Checkout, settings: &Settings<'_>, job: &Job) -> Result<(), Failure> {
    let known = checkout.statement(&SET_KEY).filter(|_| settings.is_usual() && !job.fresh);
    let remembered = known.is_some();
    let set = match known {
        Some(prepared) => {
            let values = settings.values();
            let values: Vec<_> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
            checkout.client().query(&prepared, &values).await.map(drop)
        }
        None => Box::pin(set_typed(checkout.client(), settings)).await,
    };
    set.map_err(|error| Failure::of(error, remembered))
}

async fn set_typed(client: &Client, settings: &Settings<'_>) -> Done {
    let values = settings.values();
    let typed: Vec<_> = values.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)).collect();
    client.query_typed(&settings.sql(), &typed).await.map(drop)
}

/// Parsing it takes longer than running it.
async fn prepare_set(checkout: &Checkout, settings: &Settings<'_>) -> Done {
    if settings.is_usual() && checkout.statement(&SET_KEY).is_none() {
        let prepared = Box::pin(checkout.client().prepare_typed(SET, &[Type::TEXT; USUAL])).await?;
        checkout.keep(SET_KEY.clone(), prepared);
    }
    Ok(())
}

async fn before(client: &Client, job: &Job) -> Done {
    match &job.before {
        Some(sql) => Box::pin(client.query_typed(sql, &[])).await.map(drop),
        None => Ok(()),
    }
}

async fn estimate(client: &Client, job: &Job) -> Result<Option<i64>, tokio_postgres::Error> {
    let Some(statement) = &job.estimate else { return Ok(None) };
    let rows = Box::pin(typed(client, statement)).await?;
    let text = rows.first().map(|row| row.try_get::<_, Raw>(0)).transpose()?;
    let plan = text.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text.0).ok());
    Ok(plan.and_then(|plan| plan.pointer("/0/Plan/Plan Rows")?.as_i64()))
}

/// In one message, the values' types left to the server.
async fn typed(client: &Client, statement: &Statement) -> Result<Vec<Row>, tokio_postgres::Error> {
    let values: Vec<_> = statement.values.iter().map(|v| (v as &(dyn ToSql + Sync), Type::UNKNOWN)).collect();
    client.query_typed(&statement.sql, &values).await
}

async fn finish(client: &Client, job: &Job, end: &str) -> Done {
    if job.rolls_back && job.writes {
        client.batch_execute(CHECK).await?;
    }
    client.batch_execute(end).await
}

impl Statement {
    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|v: &Value| v as &(dyn ToSql + Sync)).collect()
    }
}

fn outcome(job: &Job, (rows, planned): Found) -> Result<Outcome, Failure> {
    if job.lines {
        let mut body = Vec::new();
        for row in &rows {
            body.extend_from_slice(&row.try_get::<_, Raw>(0)?.0);
            body.push(b'\n');
        }
        return Ok(Outcome { body: Some(body.into()), rows: 1, ..Outcome::default() });
    }
    let row = only(&rows)?;
    Ok(Outcome {
        body: body(row)?,
        rows: row.try_get(1)?,
        total: optional(row, "total")?,
        planned,
        location: optional(row, "location")?.unwrap_or_default(),
        inserted: optional(row, "inserted")?,
        headers: optional(row, "headers")?,
        status: optional(row, "status")?,
    })
}

fn only(rows: &[Row]) -> Result<&Row, Failure> {
    match rows {
        [row] => Ok(row),
        _ => Err(Failure::Refused(Error::internal("the main query gave no row"))),
    }
}

fn body(row: &Row) -> Result<Option<Bytes>, tokio_postgres::Error> {
    Ok(row.try_get::<_, Option<Raw>>(0)?.map(|raw| raw.0))
}

/// A column that the main query may have; none also where it is null.
fn optional<'r, T: FromSql<'r>>(row: &'r Row, name: &str) -> Result<Option<T>, tokio_postgres::Error> {
    match row.columns().iter().position(|column| column.name() == name) {
        Some(index) => row.try_get(index),
        None => Ok(None),
    }
}

fn check(outcome: Outcome, expect: Expect) -> Result<Outcome, Failure> {
    let refused = |status, code, message: &str, details| {
        Err(Failure::Refused(Error::new(status, code, message, details, None)))
    };
    if expect.put && outcome.rows != 1 {
        let message = "Payload values do not match URL in primary key column(s)";
        return refused(StatusCode::BAD_REQUEST, "PGRST115", message, None);
    }
    if expect.one && outcome.rows != 1 {
        let details = format!("The result contains {} rows", outcome.rows);
        let message = "Cannot coerce the result to a single JSON object";
        return refused(StatusCode::NOT_ACCEPTABLE, "PGRST116", message, Some(details));
    }
    if expect.at_most.is_some_and(|most| outcome.rows > most) {
        let details = format!("The query affects {} rows", outcome.rows);
        let message = "Query result exceeds max-affected preference constraint";
        return refused(StatusCode::BAD_REQUEST, "PGRST124", message, Some(details));
    }
    Ok(outcome)
}

/// The bytes of a value whose form on the wire is what it is: the body is passed on as it came, so nobody needs to
/// look at it.
struct Raw(Bytes);

impl FromSql<'_> for Raw {
    fn from_sql(kind: &Type, raw: &[u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // A version number stands before jsonb's text.
        let raw = if *kind == Type::JSONB { raw.get(1..).unwrap_or_default() } else { raw };
        Ok(Self(Bytes::copy_from_slice(raw)))
    }

    fn accepts(kind: &Type) -> bool {
        [Type::TEXT, Type::JSON, Type::JSONB, Type::BYTEA, Type::XML, Type::VARCHAR, Type::BPCHAR, Type::NAME]
            .contains(kind)
            || *kind == Type::UNKNOWN
    }
}

/// Sends both and waits: a transaction with these settings.
pub(super) async fn begin(checkout: &mut Checkout, settings: &Settings<'_>) -> Done {
    checkout.drop_role().await?;
    let client = checkout.client();
    let (b, s) = join(client.batch_execute(settings.begin(true)), set_typed(client, settings)).await;
    b.and(s)
}
