//! What one database contains: relations, routines, and a fingerprint over both.

mod load;

pub use load::load;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The exposed part of one database, as read from its `pg_catalog`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Hex SHA-256 over relations and routines; equal for databases made by the same statements. No oid, owner
    /// or privilege is part of it.
    pub fingerprint: String,
    /// Schema name, then relation name.
    pub relations: BTreeMap<String, BTreeMap<String, Relation>>,
    /// Schema name, then function name; overloads in the order of their argument types.
    pub routines: BTreeMap<String, BTreeMap<String, Vec<Routine>>>,
}

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
    /// Column names in the order of the key; empty when there is none (always for views).
    pub primary_key: Vec<String>,
    /// By constraint name.
    pub foreign_keys: Vec<ForeignKey>,
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
    /// SQL text of its type, with the schema unless that is `pg_catalog`; quoted where needed.
    #[serde(rename = "type")]
    pub type_name: String,
    /// NOT NULL.
    pub not_null: bool,
    /// Filled when an INSERT leaves it out: DEFAULT, identity or generated.
    pub has_default: bool,
    /// GENERATED ALWAYS AS IDENTITY: an INSERT that names it fails.
    pub identity: bool,
    /// GENERATED ALWAYS AS (expression).
    pub generated: bool,
    /// `COMMENT ON COLUMN`.
    pub comment: Option<String>,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// Referring columns, in the order of the key.
    pub columns: Vec<String>,
    /// Schema of the table referred to.
    pub target_schema: String,
    /// The table referred to.
    pub target: String,
    /// Its columns, in the same order.
    pub target_columns: Vec<String>,
}

/// A function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routine {
    /// The schema that holds it.
    pub schema: String,
    /// Its name, unquoted.
    pub name: String,
    /// `COMMENT ON FUNCTION`.
    pub comment: Option<String>,
    /// All of them, in order, also those that only come out.
    pub arguments: Vec<Argument>,
    /// What a call gives.
    pub returns: Returns,
    /// What the function promises about its side effects.
    pub volatility: Volatility,
}

/// An argument of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argument {
    /// Empty when it has none.
    pub name: String,
    /// SQL text of its type, as for [`Column::type_name`].
    #[serde(rename = "type")]
    pub type_name: String,
    /// Which way it goes.
    pub mode: Mode,
    /// May be left out of a call.
    pub has_default: bool,
}

/// Which way an argument goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// IN
    In,
    /// OUT
    Out,
    /// INOUT
    InOut,
    /// VARIADIC
    Variadic,
    /// A column of RETURNS TABLE.
    Table,
}

/// What a call gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returns {
    /// SQL text of the type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// SETOF or TABLE.
    pub set: bool,
    /// What one row looks like.
    pub shape: Shape,
}

/// What one row of a function's result looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Nothing.
    Void,
    /// One value.
    Scalar,
    /// A row with named columns.
    Composite,
}

/// What a function promises about its side effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Volatility {
    /// Depends on its arguments only.
    Immutable,
    /// Reads only.
    Stable,
    /// May do anything.
    Volatile,
}

impl Relation {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }
}

impl Routine {
    /// The arguments a caller gives.
    pub fn inputs(&self) -> impl Iterator<Item = &Argument> {
        self.arguments.iter().filter(|a| matches!(a.mode, Mode::In | Mode::InOut | Mode::Variadic))
    }
}

impl Schema {
    /// Joins what was read, in any order, with its fingerprint.
    ///
    /// # Errors
    /// Never in practice: the parts have no map with keys that JSON can't write.
    pub fn new(relations: Vec<Relation>, routines: Vec<Routine>) -> Result<Self, serde_json::Error> {
        let mut schema =
            Self { fingerprint: String::new(), relations: BTreeMap::new(), routines: BTreeMap::new() };
        for relation in relations {
            let named = schema.relations.entry(relation.schema.clone()).or_default();
            named.insert(relation.name.clone(), relation);
        }
        for routine in routines {
            let named = schema.routines.entry(routine.schema.clone()).or_default();
            named.entry(routine.name.clone()).or_default().push(routine);
        }
        // Oids, by which the server sorts argument types, differ between databases.
        let signature = |r: &Routine| r.arguments.iter().map(|a| a.type_name.clone()).collect::<Vec<_>>();
        for overloads in schema.routines.values_mut().flat_map(BTreeMap::values_mut) {
            overloads.sort_by_cached_key(signature);
        }
        let digest = Sha256::digest(serde_json::to_vec(&(&schema.relations, &schema.routines))?);
        schema.fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(schema)
    }

    /// The relation of this name.
    pub fn relation(&self, schema: &str, name: &str) -> Option<&Relation> {
        self.relations.get(schema)?.get(name)
    }

    /// The functions of this name.
    pub fn routines(&self, schema: &str, name: &str) -> &[Routine] {
        self.routines.get(schema).and_then(|named| named.get(name)).map_or(&[], Vec::as_slice)
    }
}
