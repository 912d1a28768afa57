//! `Content`: what is in a database's tables, as sums by which two databases can be compared, column by column.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::Snapshot;
use crate::fleet::{Doing, FleetError};
use crate::pg::Ident;

/// The columns of tables whose rows a dump has, and whether each is a time: not those of extensions, which their scripts fill.
const COLUMNS: &str = "
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
       ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       ARRAY(SELECT t.typcategory = 'D' FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'manybox')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                  AND d.objid = c.oid AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e')
ORDER BY 1, 2";

/// What is in one table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    rows: i64,
    /// Of the rows as a whole.
    sum: String,
    /// In their order.
    columns: Vec<Column>,
}

/// What is in one column.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    sum: String,
    is_time: bool,
}

/// What is in a database that nobody works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fleet) struct Content {
    /// Tables that have rows, by their quoted names.
    tables: BTreeMap<String, Table>,
    /// Where sequences stand that gave a value.
    sequences: BTreeMap<String, i64>,
    pub(in crate::fleet) large_objects: i64,
}

impl Content {
    /// Reads it in a snapshot. Values are written by their types, and no cast that a file made runs.
    pub(in crate::fleet) async fn read(snapshot: &Snapshot) -> Result<Self, FleetError> {
        let listing = || "listing tables and columns".to_owned();
        let session = snapshot.session();
        let mut tables = BTreeMap::new();
        for row in session.query(COLUMNS, &[]).await.doing(listing)? {
            let (schema, table): (String, String) =
                (row.try_get(0).doing(listing)?, row.try_get(1).doing(listing)?);
            let names: Vec<String> = row.try_get(2).doing(listing)?;
            let times: Vec<bool> = row.try_get(3).doing(listing)?;
            let columns = names.into_iter().zip(times).collect();
            let name = format!("{}.{}", Ident::new(schema), Ident::new(table));
            if let Some(table) = read(session, &name, columns).await? {
                tables.insert(name, table);
            }
        }
        let (sequences, large_objects) = (snapshot.sequences().await?, snapshot.large_objects().await?);
        Ok(Self { tables, sequences, large_objects })
    }

    /// Whether no table has a row.
    pub(in crate::fleet) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// How many rows there are, and in how many tables.
    pub(in crate::fleet) fn size(&self) -> (i64, usize) {
        (self.tables.values().map(|table| table.rows).sum(), self.tables.len())
    }

    /// How it differs from another, one sentence each.
    pub(in crate::fleet) fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let rows = |of: &Self, name: &str| of.tables.get(name).map_or(0, |table| table.rows);
        for name in
            self.tables.keys().chain(other.tables.keys().filter(|name| !self.tables.contains_key(*name)))
        {
            let (here, there) = (rows(self, name), rows(other, name));
            if here != there {
                differences.push(format!("table {name} has {here} row(s) instead of {there}"));
            } else if self.tables.get(name) != other.tables.get(name) {
                let columns: Vec<_> =
                    self.other_columns(other, name).map(|column| column.name.as_str()).collect();
                let columns =
                    if columns.is_empty() { "other pairs of values".into() } else { columns.join(", ") };
                differences.push(format!("table {name} has other values in {columns}"));
            }
        }
        for (name, at) in &self.sequences {
            if other.sequences.get(name) != Some(at) {
                differences.push(format!("sequence {name} stands at {at}"));
            }
        }
        let unset = other.sequences.keys().filter(|name| !self.sequences.contains_key(*name));
        differences.extend(unset.map(|name| format!("sequence {name} stands at its beginning")));
        differences
    }

    /// Tables whose rows two builds made differently, with what of them: their number, or columns. Times are left out, because
    /// they always differ and nobody takes them for secrets.
    pub(in crate::fleet) fn volatile(&self, other: &Self) -> Vec<(String, String)> {
        let mut volatile = Vec::new();
        let empty = Table { rows: 0, sum: String::new(), columns: Vec::new() };
        for (name, table) in &self.tables {
            let there = other.tables.get(name).unwrap_or(&empty);
            let columns: Vec<_> = self
                .other_columns(other, name)
                .filter(|column| !column.is_time)
                .map(|column| column.name.as_str())
                .collect();
            if table.rows != there.rows {
                volatile.push((name.clone(), format!("{} row(s) and then {}", table.rows, there.rows)));
            } else if !columns.is_empty() {
                volatile.push((name.clone(), format!("other values in {}", columns.join(", "))));
            }
        }
        volatile
    }

    fn other_columns<'c>(&'c self, other: &'c Self, table: &str) -> impl Iterator<Item = &'c Column> {
        let of = |content: &'c Self| content.tables.get(table).map_or(&[][..], |table| &table.columns);
        let pairs = of(self).iter().zip(of(other));
        pairs.filter(|(a, b)| a != b).map(|(column, _)| column)
    }
}

/// Reads one table; `None` when it is empty.
async fn read(
    session: &Client,
    name: &str,
    columns: Vec<(String, bool)>,
) -> Result<Option<Table>, FleetError> {
    // Sums don't depend on the order of the rows. ROW tells an empty text from none.
    let sum = |values: &str| {
        format!(
            "pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(ROW({values})), 0)::pg_catalog.numeric)::pg_catalog.text"
        )
    };
    let quoted: Vec<_> = columns.iter().map(|(column, _)| Ident::new(column).to_string()).collect();
    let sums = quoted.iter().map(|column| sum(column)).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT pg_catalog.count(*), {}, ARRAY[{sums}]::pg_catalog.text[] FROM ONLY {name}",
        sum(&quoted.join(", "))
    );
    let reading = || format!("reading table {name}");
    let row = session.query_one(&sql, &[]).await.doing(reading)?;
    let rows: i64 = row.try_get(0).doing(reading)?;
    if rows == 0 {
        return Ok(None);
    }
    let (whole, sums): (String, Vec<String>) =
        (row.try_get(1).doing(reading)?, row.try_get(2).doing(reading)?);
    let columns = columns.into_iter().zip(sums);
    let columns = columns.map(|((name, is_time), sum)| Column { name, sum, is_time }).collect();
    Ok(Some(Table { rows, sum: whole, columns }))
}
