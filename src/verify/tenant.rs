//! A tenant's database: what is in it, from its catalogs alone.

use std::time::Duration;

use super::server::{asking, session};
use super::{Outcome, check, of_tenant};
use crate::catalog::TenantRow;
use crate::fleet::{Fleet, FleetError, HISTORY, MIGRATORS, OWNER};
use crate::migrate;
use crate::settings::RowSecurity;

const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// All checks of a database, as one question.
const QUESTIONS: &str = include_str!("tenant.sql");

/// The checks that it answers.
const CODES: [&str; 19] = [
    "V20", "V21", "V22", "V23", "V24", "V25", "V26", "V27", "V28", "V29", "V30", "V31", "V32", "V33", "V34",
    "V35", "V36", "V37", "V38",
];

/// Most tables of one tenant that are asked for rows; the question gives one more.
const MOST_TABLES: usize = 2000;

#[derive(Default)]
pub(super) struct Inside {
    pub(super) outcome: Outcome,
    /// The tables under row-level security, quoted.
    pub(super) guarded: Vec<String>,
}

/// Looks into a database that manybox made. Nobody but its owner knows what is right in an adopted one.
pub(super) async fn look(fleet: &Fleet, row: &TenantRow) -> Result<Inside, FleetError> {
    let mut inside = Inside::default();
    let record = &row.record;
    let Some(lineage) = record.lineage() else { return Ok(inside) };
    let server = fleet.servers.get(&record.server)?;
    let client = session(server, &record.database(), STATEMENT_TIMEOUT).await?;
    let api = fleet.settings.edition_api(&lineage.edition);
    let edition = fleet.settings.editions.get(&lineage.edition).cloned().unwrap_or_default();
    let tables = match &edition.row_security {
        RowSecurity::Tables(tables) => tables.clone(),
        RowSecurity::All(_) => vec!["*".to_owned()],
    };
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 8] = [
        &OWNER,
        &HISTORY,
        &fleet.settings.roles(),
        &edition.row_security_except,
        &tables,
        &api.db_schemas,
        &edition.extensions,
        &MIGRATORS,
    ];
    let (asking, options) = (asking(&record.server), fleet.migrate_options());
    let (rows, strangers) =
        tokio::join!(client.query(QUESTIONS, &parameters), migrate::strangers(&client, &options.roles));
    for stranger in strangers.map_err(&asking)? {
        let remedy = "run `manybox init`, which removes it or says what it can't remove".to_owned();
        inside.outcome.findings.push(of_tenant(row, "V25", stranger, remedy));
    }
    for answer in rows.map_err(&asking)? {
        let code: String = answer.try_get(0).map_err(&asking)?;
        let (seen, remedy): (String, String) =
            (answer.try_get(1).map_err(&asking)?, answer.try_get(2).map_err(&asking)?);
        match check(&code) {
            Some(known) => inside.outcome.findings.push(of_tenant(row, known.code, seen, remedy)),
            None => inside.guarded.push(seen),
        }
    }
    if inside.guarded.len() > MOST_TABLES {
        inside.guarded.truncate(MOST_TABLES);
        let seen = format!(
            "more than {MOST_TABLES} tables are under row-level security, and the others were not asked for rows"
        );
        let remedy = "name those that matter in row_security of the edition".to_owned();
        inside.outcome.findings.push(of_tenant(row, "V00", seen, remedy));
    }
    client.close().await;
    CODES.iter().for_each(|code| inside.outcome.tried(code, 1));
    Ok(inside)
}
