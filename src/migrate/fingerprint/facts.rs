//! Facts: what a schema is, line by line, in a form that can be kept.

use serde::{Deserialize, Serialize};

/// One object of a schema, or one part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fact {
    /// What it is about: `table public.items: column colour`. A part's name begins with that of its whole and a colon.
    pub name: String,
    /// What there is, mostly in SQL: `text NOT NULL`.
    pub definition: String,
}

/// All facts of a schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Facts(Vec<Fact>);

impl Facts {
    /// Facts in any order.
    pub fn new(mut facts: Vec<Fact>) -> Self {
        facts.sort();
        Self(facts)
    }

    /// One by one, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Fact> {
        self.0.iter()
    }

    /// The text that the server hashes.
    pub(super) fn text(&self) -> String {
        let lines: Vec<_> = self.0.iter().map(|fact| format!("{}\t{}", fact.name, fact.definition)).collect();
        lines.join("\n")
    }
}
