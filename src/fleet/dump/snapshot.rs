//! A snapshot of a database that `pg_dump` takes as its own, and what is counted in it.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::fleet::roles::BACKUP;
use crate::fleet::{Doing, FleetError, OperatorLogin};
use crate::pg::{self, Connection, Endpoint, Ident};

/// As `pg_dump` begins its session: no name is looked up where the database's owner could have put another, policies are no
/// matter, and what looks like a table and is a view is refused instead of run.
const BEGIN: &str = "
SET search_path = pg_catalog, pg_temp;
SET row_security = off;
SET restrict_nonsystem_relation_kind = 'view, foreign-table';
SET lock_timeout = '5s';
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;";

/// Tables whose rows a dump has: not those of extensions, which their scripts fill.
const TABLES: &str = "
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'manybox')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                  AND d.objid = c.oid AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e')
ORDER BY 1, 2";

/// A reader's session amid a transaction that reads only, whose view of the database others may share until it is closed.
pub(in crate::fleet) struct Snapshot {
    session: Connection,
    /// What `pg_dump --snapshot` takes.
    pub(in crate::fleet) name: String,
}

impl Snapshot {
    pub(in crate::fleet) async fn take(
        endpoint: &Endpoint,
        database: &str,
        reader: &OperatorLogin,
    ) -> Result<Self, FleetError> {
        let taking = || format!("taking a snapshot of `{database}`");
        let session = pg::connect(endpoint, &reader.login, database).await.doing(taking)?;
        let begin = format!("{BEGIN} SET ROLE {BACKUP}; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        session.batch_execute(&begin).await.doing(taking)?;
        let name = session.query_one("SELECT pg_catalog.pg_export_snapshot()", &[]).await;
        let name = name.and_then(|row| row.try_get(0)).doing(taking)?;
        Ok(Self { session, name })
    }

    /// The session, for what else shall be read in the same view.
    pub(in crate::fleet) fn session(&self) -> &Client {
        &self.session
    }

    /// How many rows every table has, by its quoted name.
    pub(in crate::fleet) async fn rows(&self) -> Result<BTreeMap<String, i64>, FleetError> {
        let listing = || "listing the tenant's tables".to_owned();
        let mut rows = BTreeMap::new();
        for row in self.session.query(TABLES, &[]).await.doing(listing)? {
            let (schema, table): (String, String) =
                (row.try_get(0).doing(listing)?, row.try_get(1).doing(listing)?);
            let table = format!("{}.{}", Ident::new(schema), Ident::new(table));
            let counted = self.session.query_one(&format!("SELECT count(*) FROM ONLY {table}"), &[]).await;
            let counted = counted.and_then(|row| row.try_get(0)).doing(|| format!("counting {table}"))?;
            rows.insert(table, counted);
        }
        Ok(rows)
    }

    /// Where every sequence stands that gave a value, by its quoted name. Sequences have no snapshot: this is now.
    pub(in crate::fleet) async fn sequences(&self) -> Result<BTreeMap<String, i64>, FleetError> {
        let reading = || "reading the tenant's sequences".to_owned();
        let sql = "SELECT schemaname::pg_catalog.text, sequencename::pg_catalog.text, last_value
                   FROM pg_catalog.pg_sequences WHERE last_value IS NOT NULL AND schemaname <> 'manybox'";
        let rows = self.session.query(sql, &[]).await.doing(reading)?;
        let entry = |row: &tokio_postgres::Row| -> Result<(String, i64), tokio_postgres::Error> {
            let (schema, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            Ok((format!("{}.{}", Ident::new(schema), Ident::new(name)), row.try_get(2)?))
        };
        rows.iter().map(|row| entry(row).doing(reading)).collect()
    }

    /// The first materialized views that nobody can read before they are refreshed, by their quoted names.
    pub(in crate::fleet) async fn unfilled_views(&self) -> Result<Vec<String>, FleetError> {
        let reading = || "reading the tenant's materialized views".to_owned();
        let sql = "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE c.relkind = 'm' AND NOT c.relispopulated ORDER BY 1, 2 LIMIT 20";
        let rows = self.session.query(sql, &[]).await.doing(reading)?;
        let name = |row: &tokio_postgres::Row| -> Result<String, tokio_postgres::Error> {
            let (schema, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            Ok(format!("{}.{}", Ident::new(schema), Ident::new(name)))
        };
        rows.iter().map(|row| name(row).doing(reading)).collect()
    }

    /// How many large objects there are.
    pub(in crate::fleet) async fn large_objects(&self) -> Result<i64, FleetError> {
        let sql = "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata";
        let counted = self.session.query_one(sql, &[]).await.and_then(|row| row.try_get(0));
        counted.doing(|| "counting large objects".into())
    }

    pub(in crate::fleet) async fn close(self) {
        self.session.close().await;
    }
}
