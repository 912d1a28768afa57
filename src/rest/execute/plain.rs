//! A plain reading: no settings, no reset, and no transaction around it when the session has the role already, which it
//! keeps from one reading to the next.

use futures_util::future::{join, join3};
use tokio_postgres::{Row, Statement};

use super::super::sql::OWN_COLUMNS;
use super::super::sql::session::Settings;
use super::{Failure, Job, Outcome, body, check, only};
use crate::pool::{Checkout, RESET, StatementKey};

/// The first oid that the server gives to what users make (PostgreSQL, src/include/access/transam.h).
const FIRST_NORMAL_OBJECT: u32 = 16_384;

/// Runs the job with the role alone. Whatever goes wrong, nothing of what was read is given out.
pub(super) async fn run(checkout: Checkout, settings: &Settings<'_>, job: &Job) -> Result<Outcome, Failure> {
    let role = settings.role();
    let key = StatementKey::new(role, settings.search_path(), &job.main.sql);
    let rows = match checkout.statement(&key) {
        // One statement is a transaction, and a snapshot, of its own.
        Some(prepared) if checkout.role() == Some(role) => {
            let rows = checkout.client().query(&prepared, &job.main.parameters()).await;
            rows.map_err(|error| Failure::Plain { error, kept: true })
        }
        known => Box::pin(with_role(&checkout, settings, job, &key, known)).await,
    };
    match rows.and_then(|rows| outcome(role, &rows)) {
        Ok(outcome) => {
            checkout.clean_as(role);
            check(outcome, job.expect)
        }
        Err(failure) => {
            if !failure.is_of_a_value() {
                checkout.forget(&key);
            }
            if checkout.client().batch_execute(RESET).await.is_ok() {
                checkout.clean();
            }
            Err(failure)
        }
    }
}

/// Gives the session the role besides, by a transaction: were the role refused, nothing behind it would run either.
/// Whatever comes of it, no transaction is open afterwards.
async fn with_role(
    checkout: &Checkout,
    settings: &Settings<'_>,
    job: &Job,
    key: &StatementKey,
    known: Option<Statement>,
) -> Result<Vec<Row>, Failure> {
    let of_plain = |error| Failure::Plain { error, kept: false };
    let client = checkout.client();
    let values = job.main.parameters();
    let begin = settings.begin_plain();
    let begin = client.batch_execute(&begin);
    let (rows, end) = if let Some(prepared) = known {
        let (begun, rows, end) =
            join3(begin, client.query(&prepared, &values), client.batch_execute("COMMIT")).await;
        begun?;
        (rows, end)
    } else {
        let (begun, prepared) = join(begin, client.prepare(&job.main.sql)).await;
        let prepared = begun.map_err(Failure::from).and(prepared.map_err(of_plain)).and_then(own_types);
        match prepared {
            Ok(prepared) => {
                checkout.keep(key.clone(), prepared.clone());
                join(client.query(&prepared, &values), client.batch_execute("COMMIT")).await
            }
            Err(failure) => {
                client.batch_execute("ROLLBACK").await?;
                return Err(failure);
            }
        }
    };
    rows.and_then(|rows| end.map(|()| rows)).map_err(of_plain)
}

/// The statement, when the relations have the server's own types only, in this very database, and none whose text
/// depends on the search path.
fn own_types(prepared: Statement) -> Result<Statement, Failure> {
    let of_relations = prepared.columns().iter().skip(OWN_COLUMNS);
    let all = of_relations
        .map(|column| column.type_())
        .all(|of| of.oid() < FIRST_NORMAL_OBJECT && !of.name().trim_start_matches('_').starts_with("reg"));
    if all { Ok(prepared) } else { Err(Failure::Changed) }
}

fn outcome(role: &str, rows: &[Row]) -> Result<Outcome, Failure> {
    let row = only(rows)?;
    let plain: bool = row.try_get(OWN_COLUMNS - 2)?;
    if !plain || row.try_get::<_, &str>(OWN_COLUMNS - 1)? != role {
        return Err(Failure::Changed);
    }
    Ok(Outcome { body: body(row)?, rows: row.try_get(1)?, total: row.try_get(2)?, ..Outcome::default() })
}
