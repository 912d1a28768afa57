//! `Facts`: what the catalog says, from which a `Schema` is worked out without asking again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{MediaHandler, Name, Relation, Representation, Routine};

/// The form in which facts are stored. Raised with every change of what they hold or mean, so that a program reads only
/// what one of its own kind wrote.
pub const FORMAT: i32 = 1;

/// What was read from one database. All lists may be in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Those of the schemas that were read. Views have no primary key yet.
    pub relations: Vec<Relation>,
    /// Those of the schemas that were read.
    pub routines: Vec<Routine>,
    /// Those of all schemas: relationships between exposed views may come from tables that are not exposed.
    pub foreign_keys: Vec<ForeignKey>,
    /// Those of all schemas.
    pub primary_keys: Vec<PrimaryKey>,
    /// What columns of views show.
    pub view_columns: Vec<ViewColumn>,
    /// Functions from a row to rows.
    pub computed: Vec<ComputedRelationship>,
    /// Of the schemas that were read.
    pub media_handlers: Vec<MediaHandler>,
    /// Of all schemas.
    pub representations: Vec<Representation>,
    /// `COMMENT ON SCHEMA` of the schemas that were read: schema and comment.
    pub comments: Vec<(String, String)>,
    /// See [`Schema::server_version`](super::Schema::server_version).
    pub server_version: i32,
    /// See [`Schema::geojson`](super::Schema::geojson).
    pub geojson: Option<Name>,
}

impl Facts {
    /// In the form [`FORMAT`], to be stored.
    ///
    /// # Errors
    /// Never in practice: no part is a map with keys that JSON can't write.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Reads what [`Facts::to_json`] wrote.
    ///
    /// # Errors
    /// When it is of another form.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// What remains where only `exposed` schemas are, and views of theirs and of `extra_search_path` are looked through:
    /// the same as reading no more than that.
    #[must_use]
    pub fn select(mut self, exposed: &[String], extra_search_path: &[String]) -> Self {
        let shown: BTreeSet<&str> = exposed.iter().map(String::as_str).collect();
        let seen: BTreeSet<&str> = exposed.iter().chain(extra_search_path).map(String::as_str).collect();
        self.relations.retain(|relation| shown.contains(relation.schema.as_str()));
        self.routines.retain(|routine| shown.contains(routine.schema.as_str()));
        self.media_handlers.retain(|handler| shown.contains(handler.function.schema.as_str()));
        self.comments.retain(|(schema, _)| shown.contains(schema.as_str()));
        self.view_columns.retain(|column| {
            shown.contains(column.view.schema.as_str())
                && column.through.iter().all(|schema| seen.contains(schema.as_str()))
        });
        self
    }
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ViewColumn {
    /// The view.
    pub view: Name,
    /// Its column.
    pub column: String,
    /// The table.
    pub source: Name,
    /// Its column.
    pub source_column: String,
    /// The schemas of the views between the two.
    #[serde(default)]
    pub through: Vec<String>,
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
