//! Columns: those of one relation by their names.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;

use crate::schema::{Column, Relation};

/// After so many look-ups an index is made. Most requests name a few columns, of relations that have a few.
const UNINDEXED: usize = 16;

/// The columns of a relation; none where it is not known.
pub(super) struct Columns<'a> {
    relation: Option<&'a Relation>,
    asked: Cell<usize>,
    index: OnceCell<HashMap<&'a str, &'a Column>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(relation: Option<&'a Relation>) -> Self {
        Self { relation, asked: Cell::new(0), index: OnceCell::new() }
    }

    /// The column of this name. A relation may have 1,600 of them and a URL name thousands, so it doesn't look through all
    /// each time.
    pub(super) fn get(&self, name: &str) -> Option<&'a Column> {
        let relation = self.relation?;
        self.asked.set(self.asked.get() + 1);
        if self.asked.get() <= UNINDEXED {
            return relation.column(name);
        }
        let index = || relation.columns.iter().map(|column| (column.name.as_str(), column)).collect();
        self.index.get_or_init(index).get(name).copied()
    }

    /// All of them, in their order.
    pub(super) fn all(&self) -> &'a [Column] {
        self.relation.map_or(&[], |relation| &relation.columns)
    }
}
