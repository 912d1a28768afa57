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
pub struct Facts {
    pub(super) basis: String,
    facts: Vec<Fact>,
}

impl Facts {
    /// Facts in any order; `basis` as in [`Fingerprint`](super::Fingerprint).
    pub fn new(basis: impl Into<String>, mut facts: Vec<Fact>) -> Self {
        facts.sort();
        Self { basis: basis.into(), facts }
    }

    /// JSON, to be kept.
    ///
    /// # Errors
    /// Never: there are no maps in it.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Facts that were kept.
    ///
    /// # Errors
    /// When the text is not what [`Facts::to_json`] made.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// One by one, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Fact> {
        self.facts.iter()
    }

    /// The text that the server hashes.
    pub(super) fn text(&self) -> String {
        let lines: Vec<_> =
            self.facts.iter().map(|fact| format!("{}\t{}", fact.name, fact.definition)).collect();
        lines.join("\n")
    }
}
