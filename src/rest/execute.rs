//! Stage 4: one transaction on one `Checkout`, in one round trip where the statement is prepared already.

use bytes::Bytes;
use futures_util::future::{join3, join4};
use http::StatusCode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Row};

use super::error::{Error, is_stale};
use super::sql::session::Settings;
use super::sql::{Statement, Value};
use crate::pool::{COMMIT, Checkout, ROLLBACK, StatementKey};

/// What the main query gave.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The body, as PostgreSQL wrote it.
    pub(super) body: Option<Bytes>,
    /// Rows in the body, or rows changed.
    pub(super) rows: i64,
    /// Rows altogether, when the caller asked.
    pub(super) total: Option<i64>,
    /// The key of the row that was made, a JSON array.
    pub(super) location: Option<String>,
    /// `response.headers` as a function left it.
    pub(super) headers: Option<String>,
    /// `response.status` as a function left it.
    pub(super) status: Option<String>,
}

/// What must be true of the outcome, or else everything is undone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Expect {
    /// Exactly one row.
    pub(super) one: bool,
    /// At most so many rows.
    pub(super) at_most: Option<i64>,
}

/// Why there is no outcome.
#[derive(Debug)]
pub(super) enum Failure {
    /// PostgreSQL refused, or the connection broke.
    Postgres(tokio_postgres::Error),
    /// The outcome was not what was expected; nothing was changed.
    Refused(Error),
}

impl Failure {
    /// Whether our SQL may have been made from a schema that is not the database's any more. What a function
    /// raises has a context; that is the function's error, and the same again next time.
    pub(super) fn is_stale(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        is_stale(error.code()) && error.as_db_error().is_some_and(|db| db.where_().is_none())
    }
}

impl Failure {
    /// Whether a prepared statement was at fault, which a fresh one may not be.
    pub(super) fn is_remembered(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        error.code().is_some_and(|code| {
            [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INVALID_SQL_STATEMENT_NAME].contains(code)
        })
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

/// Runs the statement in a transaction with these settings. The outcome comes back only after COMMIT succeeded.
///
/// Dropping the future cancels what runs, and the connection is not used again.
pub(super) async fn run(
    checkout: Checkout,
    settings: &Settings,
    statement: &Statement,
    expect: Expect,
) -> Result<Outcome, Failure> {
    let client = checkout.client();
    let begin = settings.begin(statement.writes);
    let key = StatementKey {
        role: settings.role().to_owned(),
        search_path: settings.search_path().to_owned(),
        sql: statement.sql.clone(),
    };
    let values: Vec<_> = statement.values.iter().map(|v: &Value| v as &(dyn ToSql + Sync)).collect();
    let set = set(&checkout, settings);
    let begun;
    let mut ended = false;
    let result = if let Some(prepared) = checkout.statement(&key) {
        if expect == Expect::default() {
            // The order of the futures is the order of the messages: each is sent when it is polled first.
            let (b, s, q, c) = join4(
                client.batch_execute(begin),
                set,
                client.query(&prepared, &values),
                client.batch_execute(COMMIT),
            )
            .await;
            begun = b.is_ok();
            ended = c.is_ok();
            b.and(s).and(q).and_then(|rows| c.map(|()| rows)).map_err(Failure::from).and_then(|r| outcome(&r))
        } else {
            let (b, s, q) = join3(client.batch_execute(begin), set, client.query(&prepared, &values)).await;
            begun = b.is_ok();
            b.and(s).and(q).map_err(Failure::from).and_then(|rows| check(outcome(&rows)?, expect))
        }
    } else {
        // Preparing needs its own round trip, and must happen as the role, inside the transaction.
        let (b, s, p) = join3(client.batch_execute(begin), set, client.prepare(&statement.sql)).await;
        begun = b.is_ok();
        match b.and(s).and(p) {
            Err(error) => Err(error.into()),
            Ok(prepared) => {
                checkout.keep(key.clone(), prepared.clone());
                let rows = client.query(&prepared, &values).await;
                rows.map_err(Failure::from).and_then(|rows| check(outcome(&rows)?, expect))
            }
        }
    };
    let result = match result {
        Ok(outcome) if !ended => match client.batch_execute(COMMIT).await {
            Ok(()) => {
                ended = true;
                Ok(outcome)
            }
            Err(error) => Err(error.into()),
        },
        other => other,
    };
    if result.as_ref().err().is_some_and(Failure::is_stale) {
        checkout.forget(&key);
    }
    // A COMMIT that failed (a deferred constraint) left the rest of its message, the reset, undone.
    if begun && (ended || client.batch_execute(ROLLBACK).await.is_ok()) {
        checkout.clean();
    }
    result
}

/// The settings' statement. With its types it needs no round trip of its own to be prepared, so it can go with BEGIN.
async fn set(checkout: &Checkout, settings: &Settings) -> Result<Vec<Row>, tokio_postgres::Error> {
    checkout.client().query_typed(settings.sql(), &settings.typed()).await
}

fn outcome(rows: &[Row]) -> Result<Outcome, Failure> {
    let [row] = rows else { return Err(Failure::Refused(Error::internal("the main query gave no row"))) };
    let text = |column: &str| row.try_get::<_, Option<String>>(column);
    Ok(Outcome {
        body: row.try_get::<_, Option<Raw<'_>>>("body")?.map(|raw| Bytes::copy_from_slice(raw.0)),
        rows: row.try_get("rows")?,
        total: row.try_get("total")?,
        location: text("location")?,
        headers: text("headers")?,
        status: text("status")?,
    })
}

fn check(outcome: Outcome, expect: Expect) -> Result<Outcome, Failure> {
    let refused = |status, code, message: &str, details| {
        Err(Failure::Refused(Error::new(status, code, message, Some(details), None)))
    };
    if expect.one && outcome.rows != 1 {
        let details = format!("The result contains {} rows", outcome.rows);
        let message = "Cannot coerce the result to a single JSON object";
        return refused(StatusCode::NOT_ACCEPTABLE, "PGRST116", message, details);
    }
    if expect.at_most.is_some_and(|most| outcome.rows > most) {
        let details = format!("The query affects {} rows", outcome.rows);
        let message = "Query result exceeds max-affected preference constraint";
        return refused(StatusCode::BAD_REQUEST, "PGRST124", message, details);
    }
    Ok(outcome)
}

/// The bytes of a text column: the body is passed on as it came, so nobody needs to look at it.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TEXT
    }
}

/// Sends both and waits: a transaction with these settings.
pub(super) async fn begin(client: &Client, settings: &Settings) -> Result<(), tokio_postgres::Error> {
    let typed = settings.typed();
    let (b, s) = futures_util::future::join(
        client.batch_execute(settings.begin(true)),
        client.query_typed(settings.sql(), &typed),
    )
    .await;
    b.and(s).map(drop)
}
