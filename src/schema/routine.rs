//! Functions that a request can call.

use serde::{Deserialize, Serialize};

use super::Name;

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
    /// Its `SET` clauses (`pg_proc.proconfig`): name and value, in the order of their names.
    #[serde(default)]
    pub settings: Vec<(String, String)>,
}

/// An argument of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argument {
    /// Empty when it has none.
    pub name: String,
    /// Its type for people, as for [`Column::type_name`](super::Column::type_name); functions don't know lengths.
    #[serde(rename = "type")]
    pub type_name: String,
    /// What values are cast to.
    pub cast: Name,
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
    /// The type for people.
    #[serde(rename = "type")]
    pub type_name: String,
    /// SETOF or TABLE.
    pub set: bool,
    /// What one row looks like.
    pub shape: Shape,
    /// The relation or composite type whose rows these are, seen through a domain; a row of OUT arguments has none.
    #[serde(default)]
    pub row_of: Option<Name>,
    /// Whether the type is a domain over a composite type, whose fields need one more step to reach.
    #[serde(default)]
    pub is_composite_domain: bool,
}

/// What one row of a function's result looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Nothing.
    Void,
    /// One value.
    Scalar,
    /// A row with named columns: of a relation or a composite type, or of OUT, INOUT or TABLE arguments, even of one.
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

impl Routine {
    /// The arguments a caller gives.
    pub fn inputs(&self) -> impl Iterator<Item = &Argument> {
        self.arguments.iter().filter(|a| matches!(a.mode, Mode::In | Mode::InOut | Mode::Variadic))
    }

    /// Whether a call gives nothing.
    pub fn returns_void(&self) -> bool {
        self.returns.shape == Shape::Void
    }

    /// Whether a call takes any number of values for the last argument.
    pub fn is_variadic(&self) -> bool {
        self.arguments.iter().any(|a| a.mode == Mode::Variadic)
    }

    /// The value of a `SET` clause, such as `default_transaction_isolation` or `statement_timeout`.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Argument {
    /// Whether a call fails without it; a variadic argument without DEFAULT counts, as with PostgREST.
    pub fn is_required(&self) -> bool {
        !self.has_default
    }
}
