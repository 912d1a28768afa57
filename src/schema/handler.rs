//! What changes how values look on their way in and out: media type handlers and domain representations.

use serde::{Deserialize, Serialize};

use super::Name;

/// A function whose result is a whole body: its return type is a domain named like a media type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MediaHandler {
    /// What it is for.
    pub target: Target,
    /// What a request asks for, in lower case; `*/*` for anything.
    pub media_type: String,
    /// The `Content-Type` of the answer: the same, but `application/octet-stream` for `*/*`.
    pub content_type: String,
    /// The aggregate; for [`Target::Routine`] the function itself.
    pub function: Name,
}

/// What a media type handler is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// An aggregate over the rows of this relation.
    Relation(Name),
    /// A function that is called by its own name and gives one such value.
    Routine(Name),
    /// An aggregate over `anyelement`: the rows of any relation.
    AnyElement,
}

/// A cast between a domain and json or text, made by a function: how the domain's values look outside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Representation {
    /// From this type, as in [`Column::type_name`](super::Column::type_name).
    pub source: String,
    /// To this type.
    pub target: String,
    /// By this function.
    pub function: Name,
}
