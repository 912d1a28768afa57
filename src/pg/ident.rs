//! Quoting: the only place where a name or a literal becomes SQL text.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// An identifier; its `Display` is quoted, whatever it contains.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ident<'a>(Cow<'a, str>);

impl<'a> Ident<'a> {
    /// Takes a name as it stands in the catalog, without quotes.
    pub fn new(name: impl Into<Cow<'a, str>>) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for Ident<'_> {
    /// PostgreSQL, "Lexical Structure", 4.1.1: a double quote in a quoted identifier is doubled, and NUL can't be
    /// in one; it is left out, so that the server looks for another name rather than reading a cut statement.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        // Nearly all names are one piece.
        for (index, piece) in self.0.split('"').enumerate() {
            if index > 0 {
                f.write_str("\"\"")?;
            }
            piece.split('\0').try_for_each(|part| f.write_str(part))?;
        }
        f.write_char('"')
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
