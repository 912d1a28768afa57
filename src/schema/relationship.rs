//! Which relations belong together, and by what.

mod derive;

pub(super) use derive::{MAX_PAIRS, TooMany, derive};

use serde::Serialize;

use super::Name;

/// A column of the relation a relationship starts from, and the one on its other side that is equal.
pub type ColumnPair = (String, String);

/// A way from the rows of one relation to those of another, or of the same.
///
/// A foreign key gives two: one each way, and more where views show its columns. A pair of foreign keys of one table
/// can give another two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Relationship {
    /// Where it starts.
    pub from: Name,
    /// Where it leads.
    pub to: Name,
    /// Whether that is the same relation.
    pub is_self: bool,
    /// How rows are matched.
    pub join: Join,
    /// Whether it starts at a view.
    pub from_view: bool,
    /// Whether it leads to a view: the constraint is then not one of that relation.
    pub to_view: bool,
}

/// How rows of the two relations are matched: PostgREST's cardinality.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Join {
    /// The other side holds the foreign key; many rows.
    OneToMany {
        /// The foreign key's name.
        constraint: String,
        /// From here to there, in the order of the key.
        columns: Vec<ColumnPair>,
    },
    /// This side holds the foreign key; one row.
    ManyToOne {
        /// The foreign key's name.
        constraint: String,
        /// From here to there, in the order of the key.
        columns: Vec<ColumnPair>,
    },
    /// The foreign key's columns are unique; one row.
    OneToOne {
        /// The foreign key's name.
        constraint: String,
        /// From here to there, in the order of the key.
        columns: Vec<ColumnPair>,
        /// Whether the other side holds the foreign key.
        is_parent: bool,
    },
    /// Through a third relation whose primary key holds both foreign keys; many rows.
    ManyToMany(Junction),
    /// A function of this side's row gives the rows.
    Computed {
        /// The function, by whose name requests ask for it.
        function: Name,
        /// At most one row: not SETOF, or SETOF with ROWS 1.
        single_row: bool,
    },
}

/// The third relation of a many-to-many relationship.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Junction {
    /// It.
    pub relation: Name,
    /// Its foreign key to where the relationship starts.
    pub from_constraint: String,
    /// Its foreign key to where the relationship leads.
    pub to_constraint: String,
    /// From columns of where it starts to the junction's.
    pub from_columns: Vec<ColumnPair>,
    /// From columns of where it leads to the junction's.
    pub to_columns: Vec<ColumnPair>,
}

impl Relationship {
    /// Whether there is at most one row on the other side.
    pub fn is_to_one(&self) -> bool {
        matches!(
            self.join,
            Join::ManyToOne { .. } | Join::OneToOne { .. } | Join::Computed { single_row: true, .. }
        )
    }

    /// The foreign key's name, where one foreign key makes it.
    pub fn constraint(&self) -> Option<&str> {
        match &self.join {
            Join::OneToMany { constraint, .. }
            | Join::ManyToOne { constraint, .. }
            | Join::OneToOne { constraint, .. } => Some(constraint),
            Join::ManyToMany(_) | Join::Computed { .. } => None,
        }
    }

    /// The columns that are equal, from here to there, where one foreign key makes it; else empty.
    pub fn columns(&self) -> &[ColumnPair] {
        match &self.join {
            Join::OneToMany { columns, .. }
            | Join::ManyToOne { columns, .. }
            | Join::OneToOne { columns, .. } => columns,
            Join::ManyToMany(_) | Join::Computed { .. } => &[],
        }
    }
}
