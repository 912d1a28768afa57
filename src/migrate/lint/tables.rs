//! The tables that a statement names, by its tokens.

use std::ops::Range;

use crate::migrate::statements::Statement;

/// The name of the table that a statement creates, and the position behind it.
pub(super) fn created_table(statement: &Statement<'_>) -> Option<(String, usize)> {
    let word = (1..5).find(|at| statement.has_at(*at, &["TABLE"]))?;
    let kinds = ["TEMP", "TEMPORARY", "LOCAL", "GLOBAL", "UNLOGGED"];
    if !statement.has_at(0, &["CREATE"])
        || !(1..word).all(|at| kinds.iter().any(|k| statement.has_at(at, &[k])))
    {
        return None;
    }
    let at = if statement.has_at(word + 1, &["IF", "NOT", "EXISTS"]) { word + 4 } else { word + 1 };
    let (_, name, behind) = statement.qualified_name(at)?;
    Some((name, behind))
}

/// Whether it is a temporary table.
pub(super) fn temporary(statement: &Statement<'_>) -> bool {
    (1..3).any(|at| statement.has_at(at, &["TEMP"]) || statement.has_at(at, &["TEMPORARY"]))
}

/// The name of the table that a statement alters, and the position behind it.
pub(super) fn altered_table(statement: &Statement<'_>) -> Option<(String, usize)> {
    if !statement.has_at(0, &["ALTER", "TABLE"]) {
        return None;
    }
    let at = if statement.has_at(2, &["IF", "EXISTS"]) { 4 } else { 2 };
    let at = at + usize::from(statement.has_at(at, &["ONLY"]));
    let (_, name, behind) = statement.qualified_name(at)?;
    Some((name, behind))
}

/// What commas part, from a position to the end of the list that it stands in.
pub(super) fn items<'s>(
    statement: &'s Statement<'_>,
    from: usize,
) -> impl Iterator<Item = Range<usize>> + 's {
    let mut at = from;
    let mut ended = at >= statement.len();
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let (start, mut depth) = (at, 0_usize);
        while at < statement.len() {
            match statement.written(at) {
                "(" => depth += 1,
                ")" if depth == 0 => break,
                ")" => depth -= 1,
                "," if depth == 0 => break,
                _ => {}
            }
            at += 1;
        }
        ended = statement.written(at) != ",";
        let item = start..at;
        at += 1;
        Some(item)
    })
}
