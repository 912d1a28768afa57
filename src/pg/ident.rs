//! Quoting: the only place where a name or a literal becomes SQL text.

use std::fmt;

/// An identifier; its `Display` is quoted, whatever it contains.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ident(String);

impl Ident {
    /// Takes a name as it stands in the catalog, without quotes.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for Ident {
    /// PostgreSQL, "Lexical Structure", 4.1.1: a double quote in a quoted identifier is doubled, and NUL can't be
    /// in one; it is left out, so that the server looks for another name rather than reading a cut statement.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('\0', "").replace('"', "\"\""))
    }
}

/// A string literal, for the utility statements that take no parameters (`CREATE ROLE … PASSWORD`,
/// `CREATE DATABASE`). Everywhere else values are bound.
pub fn literal(text: &str) -> String {
    let text = text.replace('\0', "");
    let quoted = text.replace('\'', "''");
    // The E form reads the same whatever standard_conforming_strings says.
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_quotes() {
        assert_eq!(Ident::new("a\"; DROP").to_string(), r#""a""; DROP""#);
        assert_eq!(Ident::new("a\0b").to_string(), r#""ab""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"\'"), r"E'\\'''");
    }
}
