//! Where a statement writes rows, by its tokens.

use crate::migrate::lint::tables::items;
use crate::migrate::statements::Statement;

/// A place where a statement writes rows.
pub(super) struct Write {
    pub(super) table: String,
    pub(super) columns: Given,
    /// Whether `DEFAULT` stands for some value.
    pub(super) defaults: bool,
    /// The table whose rows decide whether anything is written, if that can be told: an UPDATE's own, or the one that
    /// an INSERT selects from.
    pub(super) source: Option<String>,
}

/// The columns that a write gives values for.
pub(super) enum Given {
    Named(Vec<String>),
    /// This many from the left.
    First(usize),
    /// All, as far as can be seen.
    All,
}

/// Where a statement writes rows, also in its CTEs and in bodies.
pub(super) fn writes(statement: &Statement<'_>) -> Vec<Write> {
    // A definition runs nothing of what it holds.
    let first = statement.keyword(0).unwrap_or_default();
    if matches!(first.as_str(), "CREATE" | "ALTER" | "GRANT" | "REVOKE" | "COMMENT" | "PREPARE") {
        return Vec::new();
    }
    let mut writes = Vec::new();
    for at in 0..statement.len() {
        let target = if statement.has_at(at, &["INSERT", "INTO"]) || statement.has_at(at, &["MERGE", "INTO"])
        {
            at + 2
        } else if is_update(statement, at) || (statement.has_at(at, &["COPY"]) && statement.has("FROM")) {
            at + 1
        } else {
            continue;
        };
        let target = target + usize::from(statement.has_at(target, &["ONLY"]));
        let Some((_, table, behind)) = statement.qualified_name(target) else { continue };
        let columns = if statement.has_at(at, &["UPDATE"]) { Given::All } else { given(statement, behind) };
        let defaults = (behind..statement.len())
            .any(|i| statement.has_at(i, &["DEFAULT"]) && !statement.has_at(i + 1, &["VALUES"]));
        let source =
            if statement.has_at(at, &["UPDATE"]) { Some(table.clone()) } else { selected(statement, behind) };
        writes.push(Write { table, columns, defaults, source });
    }
    writes
}

/// `UPDATE`, but for `FOR UPDATE`, `ON UPDATE` and `DO UPDATE`.
fn is_update(statement: &Statement<'_>, at: usize) -> bool {
    let before = |word: &str| at > 0 && statement.has_at(at - 1, &[word]);
    statement.has_at(at, &["UPDATE"])
        && !["FOR", "ON", "DO", "KEY", "THEN"].iter().any(|word| before(word))
        && statement.find(at, &["SET"]).is_some()
}

/// The table that an INSERT without VALUES selects from.
fn selected(statement: &Statement<'_>, behind: usize) -> Option<String> {
    let select = statement.find(behind, &["SELECT"])?;
    if statement.find(behind, &["VALUES"]).is_some() {
        return None;
    }
    let from = statement.find(select, &["FROM"])?;
    // A function is no table.
    let (_, table, end) = statement.qualified_name(from + 1)?;
    (!statement.opens_at(end)).then_some(table)
}

fn given(statement: &Statement<'_>, behind: usize) -> Given {
    let mut at = behind;
    if statement.has_at(at, &["AS"]) {
        at += 2;
    }
    if statement.opens_at(at) && !statement.has_at(at + 1, &["SELECT"]) {
        let names = items(statement, at + 1).filter_map(|item| statement.name(item.start));
        return Given::Named(names.collect());
    }
    if statement.has_at(at, &["DEFAULT", "VALUES"]) {
        return Given::First(0);
    }
    match (at..statement.len()).find(|i| statement.has_at(*i, &["VALUES"])) {
        Some(values) if statement.opens_at(values + 1) => Given::First(items(statement, values + 2).count()),
        _ => Given::All,
    }
}
