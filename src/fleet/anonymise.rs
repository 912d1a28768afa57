//! Anonymise: an operator's script, run in a copy that nobody is served from yet.

use tokio_postgres::Client;

use super::roles::OWNER;
use super::{Doing, Fleet, FleetError, FleetServer, Watcher};
use crate::migrate;
use crate::pg::{self, Ident};

/// The tables whose policies hold for their owner too, which has none that lets it see a row.
const FORCED: &str = "
SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relforcerowsecurity AND pg_catalog.pg_get_userbyid(c.relowner) = $1";

/// Those of them that are there still.
const LIFTED: &str = "
SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY ($1)";

/// Refuses a script that does nothing, or that can't be read: a copy that was to be anonymous would not be.
pub(super) fn check_script(sql: &str) -> Result<(), FleetError> {
    let why = match migrate::count_statements(sql) {
        Ok(1..) => return Ok(()),
        Ok(0) => "it has no statement".to_owned(),
        Err((line, why)) => format!("line {line}: {why}"),
    };
    Err(FleetError::Settings(format!(
        "the script that is to make the copy anonymous does not: {why}; nothing was made"
    )))
}

impl Fleet {
    /// Runs an operator's script as the owner of a database that nobody is served from yet. It sees all rows: policies that
    /// hold for the owner too are lifted for its length, and what others would hide is an error, for rows that it did not see
    /// would stay as they are without a word. What it began and did not commit is committed.
    pub(super) async fn anonymise(
        &self,
        server: &FleetServer,
        name: &str,
        sql: &str,
        watcher: Watcher<'_>,
    ) -> Result<(), FleetError> {
        let writer = self.make_operator(server.endpoint.name(), name).await?;
        let run = async {
            let doing = || "running the script that makes the copy anonymous".to_owned();
            let lifting =
                || "lifting row-level security for the script that makes the copy anonymous".to_owned();
            let session = pg::connect(&server.endpoint, &writer.login, name).await.doing(doing)?;
            session.batch_execute(&format!("SET ROLE {OWNER}; SET row_security = off")).await.doing(doing)?;
            let forced = session.query(FORCED, &[&OWNER]).await.doing(lifting)?;
            let forced = force(&session, &forced, "NO FORCE").await.doing(lifting)?;
            session.batch_execute(sql).await.map_err(|error| refused(sql, error))?;
            session.batch_execute("COMMIT").await.doing(doing)?;
            session.batch_execute(&format!("SET ROLE {OWNER}")).await.doing(doing)?;
            let lifted = session.query(LIFTED, &[&forced]).await.doing(lifting)?;
            force(&session, &lifted, "FORCE").await.doing(lifting)?;
            session.close().await;
            Ok(())
        };
        let outcome = tokio::select! {
            outcome = run => outcome,
            () = watcher.stop.cancelled() => Err(FleetError::Interrupted(format!("the script for database `{name}`"))),
        };
        self.drop_made(server.endpoint.name(), name, &writer).await?;
        outcome
    }
}

/// Has policies hold for the owner of these tables or not. Gives the tables' numbers.
async fn force(
    session: &Client,
    tables: &[tokio_postgres::Row],
    how: &str,
) -> Result<Vec<u32>, tokio_postgres::Error> {
    let mut numbers = Vec::with_capacity(tables.len());
    for row in tables {
        let (schema, table): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        let sql =
            format!("ALTER TABLE {}.{} {how} ROW LEVEL SECURITY", Ident::new(schema), Ident::new(table));
        session.batch_execute(&sql).await?;
        numbers.push(row.try_get(0)?);
    }
    Ok(numbers)
}

/// Why a script failed, and on which line where the server says it.
fn refused(sql: &str, error: tokio_postgres::Error) -> FleetError {
    let at = error.as_db_error().and_then(|error| match error.position() {
        Some(tokio_postgres::error::ErrorPosition::Original(at)) => Some(*at as usize),
        _ => None,
    });
    let line = at.map(|at| sql.chars().take(at.saturating_sub(1)).filter(|c| *c == '\n').count() + 1);
    let line = line.map_or_else(String::new, |line| format!(", line {line}"));
    // The server asks for rows, which the driver does not expect.
    let copies = error.as_db_error().is_none() && !error.is_closed();
    let copies = if copies { " (COPY … FROM STDIN has no rows here: use INSERT)" } else { "" };
    let doing = format!("running the script that makes the copy anonymous{line}{copies}");
    FleetError::Server { doing, source: error.into() }
}
