//! What manybox itself wrote into a database: the tables of its schema there, row by row.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Client;

use crate::fleet::roles::{HISTORY, MIGRATORS};
use crate::fleet::{Doing, FleetError};
use crate::migrate::Edition;
use crate::pg::Ident;

/// Most bytes of one table that are read. A tenant's code can write rows of its own.
const MAX_BYTES: i64 = 16 * 1024 * 1024;

/// The tables that migrators write. Names and columns are taken as they are, so that those of other versions come along.
const TABLES: &str = "
SELECT c.relname::pg_catalog.text, pg_catalog.pg_table_size(c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'manybox' AND c.relkind = 'r' AND pg_catalog.pg_get_userbyid(c.relowner) = $1
  AND pg_catalog.has_table_privilege($2, c.oid, 'INSERT') ORDER BY 1";

/// What was applied to a database: rows, as JSON, by table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HistoryRows(BTreeMap<String, Value>);

impl HistoryRows {
    /// Reads it by a session that may.
    pub(in crate::fleet) async fn read(session: &Client) -> Result<Self, FleetError> {
        let reading = || "reading the tenant's history".to_owned();
        let mut history = Self::default();
        for row in session.query(TABLES, &[&HISTORY, &MIGRATORS]).await.doing(reading)? {
            let (table, bytes): (String, i64) =
                (row.try_get(0).doing(reading)?, row.try_get(1).doing(reading)?);
            if bytes > MAX_BYTES {
                return Err(FleetError::Settings(format!(
                    "table manybox.{table} of the tenant has {bytes} bytes: somebody wrote into it what no migration did; \
                     compare it with a sound one"
                )));
            }
            let sql = format!(
                "SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(t)), '[]') FROM manybox.{} t",
                Ident::new(&table)
            );
            let rows = session.query_one(&sql, &[]).await.and_then(|row| row.try_get(0)).doing(reading)?;
            history.0.insert(table, rows);
        }
        Ok(history)
    }

    /// The file of an edition that is not what is recorded here of its version, or whose version is none of the edition's; in
    /// words. `None` where all of them are.
    pub(in crate::fleet) fn stranger(&self, edition: &Edition) -> Option<String> {
        let rows = self.0.get("schema_history").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        rows.iter().find_map(|row| {
            let version = row.get("version").and_then(Value::as_i64)?;
            let text = |column: &str| row.get(column).and_then(Value::as_str).unwrap_or_default();
            let (name, checksum) = (text("name"), text("checksum"));
            let recorded = format!("V{version}__{name} (checksum {checksum})");
            match edition.files.iter().find(|file| file.version == version) {
                None => {
                    Some(format!("{recorded} was applied to it, and the edition has no file of that version"))
                }
                Some(file) if file.name == name && file.checksum.to_string() == checksum => None,
                Some(file) => Some(format!(
                    "{recorded} was applied to it, and here it is {} (checksum {})",
                    file.file_name(),
                    file.checksum
                )),
            }
        })
    }

    /// Writes it into a database that has the tables, in place of what is there, by a session of a login that may become
    /// [`MIGRATORS`].
    pub(in crate::fleet) async fn write(&self, session: &Client) -> Result<(), FleetError> {
        let become_writer = format!("SET search_path = pg_catalog, pg_temp; SET ROLE {MIGRATORS}");
        session.batch_execute(&become_writer).await.doing(|| format!("becoming `{MIGRATORS}`"))?;
        for (table, rows) in &self.0 {
            let name = Ident::new(table);
            let writing = || format!("writing the copy's manybox.{table}");
            let there = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
            let there = session.query_one(there, &[&format!("manybox.{name}")]).await;
            if !there.and_then(|row| row.try_get::<_, bool>(0)).doing(writing)? {
                return Err(FleetError::Settings(format!(
                    "there is no table manybox.{table} here: the backup is of a newer manybox; restore it with that one"
                )));
            }
            session.batch_execute(&format!("DELETE FROM manybox.{name}")).await.doing(writing)?;
            let insert = format!(
                "INSERT INTO manybox.{name}
                 SELECT * FROM pg_catalog.jsonb_populate_recordset(NULL::manybox.{name}, $1)"
            );
            session.execute(&insert, &[rows]).await.doing(writing)?;
        }
        Ok(())
    }
}
