//! `Place`: where in an edition's files a statement stands.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::file::File;

/// Characters of a statement that are kept to show it.
const SHOWN: usize = 200;

/// Where in an edition's files something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file's name.
    pub file: String,
    /// The line that the server pointed at, or the one on which the statement begins, from 1; `None` when no single
    /// statement is at fault.
    #[serde(default)]
    pub line: Option<u64>,
    /// The statement's number in the file, from 1.
    #[serde(default)]
    pub statement: Option<usize>,
    /// The statement's first 200 characters.
    #[serde(default)]
    pub text: Option<String>,
}

impl Place {
    /// A file, and no single statement of it.
    pub(super) fn file(file: &File) -> Self {
        Self { file: file.text_name(), line: None, statement: None, text: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// One statement of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece<'f> {
    file: &'f File,
    /// Its number in the file, from 1.
    pub(super) number: usize,
    /// How many the file has.
    pub(super) of: usize,
    /// The line that it begins on, from 1.
    pub(super) line: u64,
    /// Its bytes of the file's text, without the semicolon.
    pub(super) range: Range<usize>,
    /// Those.
    pub(super) text: &'f str,
    /// Whether it may have longer timeouts than the settings.
    pub(super) may_raise_timeouts: bool,
}

/// The statements of a file, in order; none when it holds comments only.
pub(super) fn pieces(file: &File) -> Vec<Piece<'_>> {
    let of = file.statements.len();
    let numbered = file.statements.iter().enumerate();
    numbered
        .map(|(i, statement)| Piece {
            file,
            number: i + 1,
            of,
            line: statement.line,
            range: statement.range.clone(),
            text: file.sql.get(statement.range.clone()).unwrap_or_default(),
            may_raise_timeouts: statement.raises_timeouts,
        })
        .collect()
}

impl Piece<'_> {
    /// The place of it, or of the character in it, from 1, that the server points at.
    pub(super) fn place(&self, position: Option<usize>) -> Place {
        let before = position.map_or(0, |position| {
            self.text.chars().take(position.saturating_sub(1)).filter(|c| *c == '\n').count()
        });
        Place {
            file: self.file.text_name(),
            line: Some(self.line + u64::try_from(before).unwrap_or_default()),
            statement: Some(self.number),
            text: Some(self.text.chars().take(SHOWN).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Edition;
    use super::*;

    fn places(sql: &str) -> Vec<(u64, String)> {
        let edition = Edition::embedded("core", &[("V1__a.sql", sql)]).unwrap();
        pieces(&edition.files[0]).iter().map(|piece| (piece.line, piece.text.to_owned())).collect()
    }

    #[test]
    fn statements_are_cut_where_the_server_ends_them() {
        let sql = "-- a; b\nCREATE TABLE \"ä;\" (a text DEFAULT 'x;y');\n\n  COMMENT ON TABLE \"ä;\" IS $$;\n;$$;\n\
                   CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; -- ;\n";
        let expected = [
            (2, "CREATE TABLE \"ä;\" (a text DEFAULT 'x;y')"),
            (4, "COMMENT ON TABLE \"ä;\" IS $$;\n;$$"),
            (6, "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END"),
        ];
        assert_eq!(places(sql), expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn a_place_is_the_line_that_the_server_points_at() {
        let sql = "SELECT 1;\nCREATE TABLE t (\n  a int,\n  b nonsense\n);";
        let edition = Edition::embedded("core", &[("V1__a.sql", sql)]).unwrap();
        let piece = pieces(&edition.files[0]).remove(1);
        let at = piece.text.find("nonsense").unwrap() + 1;
        assert_eq!(piece.place(Some(at)).to_string(), "V1__a.sql:4");
        assert_eq!(piece.place(None).line, Some(2));
        assert_eq!((piece.place(None).statement, piece.of), (Some(2), 2));
        assert_eq!(Place::file(&edition.files[0]).to_string(), "V1__a.sql");
    }
}
