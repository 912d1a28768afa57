//! Rows that a template makes at random: which files may make any, and what is said of those that two builds show.

use super::edition::Edition;
use super::lint::Finding;

impl Edition {
    /// Whether files above a version, or repeatable ones, may make or change rows of a template, and don't allow that they are
    /// others in each build.
    pub fn may_fill_above(&self, version: i64) -> bool {
        let above = self.files.iter().filter(|file| file.version > version && !file.is_replaced());
        above.chain(&self.repeatables).any(|file| !file.allows_frozen_rows && file.may_fill())
    }

    /// What is said of a table (by its quoted name) whose rows are others in each build, as `what` says; `None` when a file
    /// that names it allows that.
    pub fn frozen_row(&self, table: &str, what: &str) -> Option<Finding> {
        let name = table.rsplit('.').next().unwrap_or(table).trim_matches('"');
        let mut files = self.files.iter().chain(&self.repeatables);
        let allowed = files.any(|file| file.allows_frozen_rows && file.sql.contains(name));
        (!allowed).then(|| Finding::of_rows(table, what, self.latest()))
    }
}
