//! `Snippet`: SQL text and the values bound in it. Values never become text; they become `$n`.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::pg::Ident;
use crate::pg::wire::Parameter;

/// A value as the caller spelled it, bound in PostgreSQL's text format, so that the server reads it as the type
/// it inferred for the place, as it does with a quoted literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    bytes: Bytes,
    /// The bytes are the value, not its text.
    binary: bool,
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self { bytes: Bytes::copy_from_slice(text.as_bytes()), binary: false }
    }
}

impl Value {
    /// As it is bound.
    pub(crate) fn parameter(&self) -> Parameter<'_> {
        Parameter { bytes: Some(&self.bytes), binary: self.binary }
    }
}

/// What may be SQL text without a second thought: constants of this program, quoted names, numbers of its own.
pub(crate) trait Text {
    /// Adds it.
    fn write(self, sql: &mut String);
}

impl Text for &'static str {
    fn write(self, sql: &mut String) {
        sql.push_str(self);
    }
}

impl Text for Ident<'_> {
    fn write(self, sql: &mut String) {
        // Writing to a String can't fail.
        let _ = write!(sql, "{self}");
    }
}

impl Text for usize {
    fn write(self, sql: &mut String) {
        let _ = write!(sql, "{self}");
    }
}

/// SQL under construction.
#[derive(Debug)]
pub(crate) struct Snippet {
    text: String,
    values: Vec<Value>,
}

impl Default for Snippet {
    fn default() -> Self {
        // Room for most statements, which grow by small pieces.
        Self { text: String::with_capacity(1024), values: Vec::new() }
    }
}

impl Snippet {
    /// Adds what may be text.
    pub(crate) fn push(&mut self, text: impl Text) -> &mut Self {
        text.write(&mut self.text);
        self
    }

    /// Adds text that this program made of constants, or the default of a column: an expression as PostgreSQL wrote it, of
    /// the edition's template or of the database that this statement is for, never of another tenant's.
    pub(crate) fn push_sql(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Binds a value and adds its placeholder.
    pub(crate) fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.again()
    }

    /// Adds the placeholder of the value bound last once more.
    pub(crate) fn again(&mut self) -> &mut Self {
        let number = self.values.len();
        self.push("$").push(number)
    }

    /// Binds bytes as they are, for a `bytea`.
    pub(crate) fn bind_bytes(&mut self, bytes: Bytes) -> &mut Self {
        self.bind(Value { bytes, binary: true })
    }

    /// Adds items with a text between them.
    pub(crate) fn join<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        between: &'static str,
        mut each: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.push(between);
            }
            each(self, item);
        }
        self
    }

    /// Text and values.
    pub(crate) fn finish(self) -> (String, Vec<Value>) {
        (self.text, self.values)
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, binary: false }
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self { bytes: text.into(), binary: false }
    }
}
