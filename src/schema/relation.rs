//! Relations and their columns, as a request can name them.

use serde::{Deserialize, Serialize};

use super::Name;

/// A table, or what can be read like one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// The schema that holds it.
    pub schema: String,
    /// Its name, unquoted.
    pub name: String,
    /// What kind it is.
    pub kind: Kind,
    /// `COMMENT ON`.
    pub comment: Option<String>,
    /// In the order of their numbers.
    pub columns: Vec<Column>,
    /// Column names in alphabetical order, as PostgREST gives them in `Location`; empty when there is none. For views
    /// the columns that show the key of a table, when they show all of it.
    pub primary_key: Vec<String>,
    /// Functions that take a row and give one value, which can be asked for like columns. By name.
    #[serde(default)]
    pub computed_columns: Vec<ComputedColumn>,
    /// Whether INSERT can work at all; privileges are another question.
    pub insertable: bool,
    /// Whether UPDATE can work at all.
    pub updatable: bool,
    /// Whether DELETE can work at all.
    pub deletable: bool,
}

/// Kinds of relations (`pg_class.relkind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An ordinary table.
    Table,
    /// A partitioned table; its partitions are not listed.
    Partitioned,
    /// A view.
    View,
    /// A materialized view.
    Materialized,
    /// A foreign table.
    Foreign,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, unquoted.
    pub name: String,
    /// Its type for people, with length and precision, and with the schema unless that is `pg_catalog`. The name of a
    /// domain where it has one; representations are found by it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// What values are cast to. Length and precision are not part of it: whoever writes to the column applies them.
    pub cast: Name,
    /// What OpenAPI shows: the type without length or precision, and of a domain over a type of `pg_catalog` that type.
    #[serde(default)]
    pub base_type: String,
    /// NOT NULL, its own or its domain's.
    #[serde(default)]
    pub not_null: bool,
    /// Filled when an INSERT leaves it out: DEFAULT, identity or generated.
    #[serde(default)]
    pub has_default: bool,
    /// SQL text of what fills it in: its DEFAULT, its domain's, or its sequence's next value. Only of databases that no
    /// other tenant writes may it become part of a statement.
    #[serde(default)]
    pub default: Option<String>,
    /// GENERATED ALWAYS AS IDENTITY: an INSERT that names it fails.
    #[serde(default)]
    pub identity: bool,
    /// GENERATED ALWAYS AS (expression).
    #[serde(default)]
    pub generated: bool,
    /// Most characters, of `varchar(n)`, `char(n)` and `bit(n)`.
    #[serde(default)]
    pub max_length: Option<i32>,
    /// The labels of its enum, in order; else empty.
    #[serde(default, rename = "enum")]
    pub enum_values: Vec<String>,
    /// `COMMENT ON COLUMN`.
    #[serde(default)]
    pub comment: Option<String>,
}

/// A function that takes a relation's row and gives one value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ComputedColumn {
    /// The function's name, by which requests ask for it.
    pub name: String,
    /// The function's schema, which need not be the relation's.
    pub schema: String,
    /// Its type for people, as for [`Column::type_name`].
    #[serde(rename = "type")]
    pub type_name: String,
}

impl Relation {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// The computed column of this name, if its function is in one of `schemas`, which are tried in their order.
    pub fn computed_column(&self, schemas: &[&str], name: &str) -> Option<&ComputedColumn> {
        schemas
            .iter()
            .find_map(|schema| self.computed_columns.iter().find(|c| c.name == name && c.schema == *schema))
    }

    /// Whether it is a view of either kind.
    pub fn is_view(&self) -> bool {
        matches!(self.kind, Kind::View | Kind::Materialized)
    }

    /// Whether the column belongs to the primary key.
    pub fn is_key(&self, column: &str) -> bool {
        self.primary_key.iter().any(|name| name == column)
    }
}
