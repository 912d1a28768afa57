//! A plain reading: no settings, no reset, and no transaction around it when the session has the role already, which it
//! keeps from one reading to the next.

use futures_util::future::{join, join3};
use tokio_postgres::Statement;

use super::super::sql::PLAIN;
use super::super::sql::session::Settings;
use super::{Failure, Found, Job, Outcome, body, check, found, only};
use crate::pool::{Checkout, ROLLBACK, StatementKey};

/// The first oid that the server gives to what users make (PostgreSQL, src/include/access/transam.h).
const FIRST_NORMAL_OBJECT: u32 = 16_384;

/// Runs the job with the role alone. Whatever goes wrong, nothing of what was read is given out.
pub(super) async fn run(checkout: Checkout, settings: &Settings<'_>, job: &Job) -> Result<Outcome, Failure> {
    let role = settings.role();
    let key = StatementKey::new(role, settings.search_path(), &job.main.sql);
    let found = match checkout.statement(&key) {
        // One statement is a transaction, and a snapshot, of its own.
        Some(prepared) if checkout.role() == Some(role) => {
            found(checkout.client(), job, &prepared).await.map_err(Failure::Plain)
        }
        known => Box::pin(with_role(&checkout, settings, job, &key, known)).await,
    };
    match found.and_then(|found| outcome(role, found)) {
        Ok(outcome) => {
            checkout.clean_as(role);
            check(outcome, job.expect)
        }
        Err(failure) => {
            checkout.forget(&key);
            if checkout.client().batch_execute(ROLLBACK).await.is_ok() {
                checkout.clean();
            }
            Err(failure)
        }
    }
}

/// Gives the session the role besides, by a transaction: were the role refused, nothing behind it would run either.
async fn with_role(
    checkout: &Checkout,
    settings: &Settings<'_>,
    job: &Job,
    key: &StatementKey,
    known: Option<Statement>,
) -> Result<Found, Failure> {
    const COMMIT: &str = "COMMIT";
    let client = checkout.client();
    let begin = settings.begin_plain();
    let begin = client.batch_execute(&begin);
    let (found, end) = if let Some(prepared) = known {
        let (begun, found, end) =
            join3(begin, found(client, job, &prepared), client.batch_execute(COMMIT)).await;
        begun?;
        (found, end)
    } else {
        let (begun, prepared) = join(begin, client.prepare(&job.main.sql)).await;
        begun?;
        let prepared = prepared.map_err(Failure::Plain)?;
        if !has_own_types(&prepared) {
            return Err(Failure::Changed);
        }
        checkout.keep(key.clone(), prepared.clone());
        join(found(client, job, &prepared), client.batch_execute(COMMIT)).await
    };
    found.and_then(|found| end.map(|()| found)).map_err(Failure::Plain)
}

/// Whether the relations have the server's own types only, in this very database.
fn has_own_types(prepared: &Statement) -> bool {
    prepared.columns().iter().skip(PLAIN).all(|column| column.type_().oid() < FIRST_NORMAL_OBJECT)
}

fn outcome(role: &str, (rows, planned): Found) -> Result<Outcome, Failure> {
    let row = only(&rows)?;
    let plain: bool = row.try_get(PLAIN - 2)?;
    if !plain || row.try_get::<_, &str>(PLAIN - 1)? != role {
        return Err(Failure::Changed);
    }
    Ok(Outcome {
        body: body(row)?,
        rows: row.try_get(1)?,
        total: row.try_get(2)?,
        planned,
        ..Outcome::default()
    })
}
