//! `Facts`: what the catalog says, from which a `Schema` is worked out without asking again.

use serde::{Deserialize, Serialize};

use super::{MediaHandler, Name, Relation, Representation, Routine};

/// What was read from one database. All lists may be in any order.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Those of the exposed schemas. Views have no primary key yet.
    pub relations: Vec<Relation>,
    /// Those of the exposed schemas.
    pub routines: Vec<Routine>,
    /// Those of all schemas: relationships between exposed views may come from tables that are not exposed.
    pub foreign_keys: Vec<ForeignKey>,
    /// Those of all schemas.
    pub primary_keys: Vec<PrimaryKey>,
    /// What columns of exposed views show.
    pub view_columns: Vec<ViewColumn>,
    /// Functions from a row to rows.
    pub computed: Vec<ComputedRelationship>,
    /// Of the exposed schemas.
    pub media_handlers: Vec<MediaHandler>,
    /// Of all schemas.
    pub representations: Vec<Representation>,
    /// `COMMENT ON SCHEMA` of the exposed schemas: schema and comment.
    pub comments: Vec<(String, String)>,
    /// See [`Schema::server_version`](super::Schema::server_version).
    pub server_version: i32,
    /// See [`Schema::geojson`](super::Schema::geojson).
    pub geojson: Option<Name>,
    /// See [`Schema::time_zones`](super::Schema::time_zones).
    pub time_zones: Vec<String>,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// The table that has it.
    pub relation: Name,
    /// The table referred to.
    pub target: Name,
    /// Referring column and the one referred to, in the order of the key.
    pub columns: Vec<(String, String)>,
    /// Whether a primary key or unique constraint is over the same referring columns.
    pub unique: bool,
}

/// A primary key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryKey {
    /// The table that has it.
    pub relation: Name,
    /// In the order of the key.
    pub columns: Vec<String>,
}

/// A view's column that shows a table's column unchanged, perhaps through further views.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewColumn {
    /// The view.
    pub view: Name,
    /// Its column.
    pub column: String,
    /// The table, or a view between the two.
    pub source: Name,
    /// Its column.
    pub source_column: String,
}

/// A function from a relation's row to rows of a relation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ComputedRelationship {
    /// The function.
    pub function: Name,
    /// The relation of its argument.
    pub from: Name,
    /// The relation of its result.
    pub to: Name,
    /// At most one row.
    pub single_row: bool,
}
