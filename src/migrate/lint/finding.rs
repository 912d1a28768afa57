//! `Finding`: something in a file that is refused, or odd enough to mention.

use std::fmt;

use super::codes::{Code, FROZEN_ROW, FROZEN_VALUE, Weight};

/// Something in a file that is refused, or odd enough to mention.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The file's name.
    pub file: String,
    /// The file's version.
    pub version: i64,
    /// From 1; 0 when it is about what the files make, and not about one of them.
    pub line: u64,
    /// What kind it is; `-- manybox: allow` takes it.
    pub code: &'static str,
    /// True when the file may be run nonetheless.
    pub warning: bool,
    /// What is there and why that is bad.
    pub reason: String,
    /// What to do instead.
    pub fix: String,
}

impl Finding {
    /// One of a file that `of` tells.
    pub(super) fn new(code: &Code, line: u64, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        let (file, version, warning) = (String::new(), 0, code.weight == Weight::Warning);
        Self { file, version, line, code: code.name, warning, reason: reason.into(), fix: fix.into() }
    }

    /// One about rows of a table that are others in each build.
    pub(in crate::migrate) fn of_rows(table: &str, what: &str, version: i64) -> Self {
        let reason = format!(
            "two builds of the template have {what} in {table}, so they are made at random, and all tenants copied from one \
             template share them"
        );
        let fix = "mark the statement that fills them `-- manybox: per-tenant`; where they may be shared, allow it in the file \
                   that names the table";
        Self::new(&FROZEN_ROW, 0, reason, fix).of("template", version)
    }

    /// Whether it is about a random value that all tenants of a template would share.
    pub fn is_frozen_value(&self) -> bool {
        self.code == FROZEN_VALUE.name
    }

    /// Says which file it is of.
    pub(super) fn of(self, file: &str, version: i64) -> Self {
        Self { file: file.to_owned(), version, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}: {} [{}]", self.reason, self.fix, self.code)
    }
}
