//! The question for a schema's facts, made of the parts of `facts.sql` that the database at hand has any rows for.

use std::collections::{BTreeMap, BTreeSet};

/// See there for the form.
const PARTS: &str = include_str!("facts.sql");
/// The name of the parts that are the answer.
const FACTS: &str = "facts";
/// How the line above a part begins: the text's own first lines speak of it.
const MARK: &str = "\n-- @ ";

/// One part: a query.
struct Part {
    name: &'static str,
    /// When it has rows.
    condition: Option<&'static str>,
    sql: &'static str,
}

fn parts() -> Vec<Part> {
    let after_marks = PARTS.split(MARK).skip(1);
    after_marks
        .map(|text| {
            let (mark, sql) = text.split_once('\n').unwrap_or((text, ""));
            let (name, condition) = match mark.split_once(" if ") {
                Some((name, condition)) => (name, Some(condition)),
                None => (mark, None),
            };
            Part { name, condition, sql: sql.trim_end() }
        })
        .collect()
}

/// The conditions, each once.
fn conditions() -> BTreeSet<&'static str> {
    parts().into_iter().filter_map(|part| part.condition).collect()
}

/// An expression for which of the conditions hold: `t` and `f`, one for each.
pub(super) fn kinds() -> String {
    let letters: Vec<_> = conditions()
        .into_iter()
        .map(|condition| format!("CASE WHEN {condition} THEN 't' ELSE 'f' END"))
        .collect();
    format!("concat({})", letters.join(", "))
}

/// A query for the facts (name, definition) of a database that has these [`kinds`].
pub(super) fn of_kinds(kinds: &str) -> String {
    let holds: BTreeMap<_, _> = conditions().into_iter().zip(kinds.chars()).collect();
    let is_asked = |part: &Part| part.condition.is_none_or(|condition| holds.get(condition) != Some(&'f'));
    let parts: Vec<_> = parts().into_iter().filter(is_asked).collect();
    let of = |name: &str| -> String {
        let parts: Vec<_> = parts.iter().filter(|part| part.name == name).map(|part| part.sql).collect();
        parts.join("\nUNION ALL\n")
    };
    // From the answer back to what it is made of, so that nothing is planned that nobody reads.
    let mut query = of(FACTS);
    let mut names: Vec<_> = parts.iter().map(|part| part.name).filter(|name| *name != FACTS).collect();
    names.dedup();
    let mut with = Vec::new();
    for name in names.into_iter().rev() {
        let sql = of(name);
        if with.iter().chain([&query]).any(|text| reads(text, name)) {
            with.push(format!("{name} AS MATERIALIZED (\n{sql}\n)"));
        }
    }
    with.reverse();
    if !with.is_empty() {
        query = format!("WITH {}\n{query}", with.join(",\n"));
    }
    query
}

/// Whether a query reads from parts of this name.
fn reads(query: &str, name: &str) -> bool {
    ["FROM ", "JOIN "].iter().any(|word| {
        query.match_indices(word).any(|(at, word)| {
            let rest = &query[at + word.len()..];
            rest.strip_prefix(name).is_some_and(|rest| {
                !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_asked_when_there_is_something_and_when_nobody_knows() {
        let none = "f".repeat(conditions().len());
        let few = of_kinds(&none);
        assert!(few.contains("FROM pg_constraint") && few.contains("FROM relations"), "{few}");
        for rare in ["FROM pg_policy", "FROM pg_operator", "FROM functions", "functions AS", "described AS"] {
            assert!(!few.contains(rare), "{rare}: {few}");
        }
        let all = of_kinds(&"t".repeat(conditions().len()));
        assert_eq!(of_kinds(""), all);
        for part in parts() {
            assert!(all.contains(part.sql), "{}", part.sql);
            assert!(!part.sql.is_empty() && part.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        }
        for (at, condition) in conditions().into_iter().enumerate() {
            let mut kinds = none.clone();
            kinds.replace_range(at..=at, "t");
            let asked = of_kinds(&kinds);
            let of_condition = parts().into_iter().filter(|part| part.condition == Some(condition));
            for part in of_condition.filter(|part| part.name == FACTS) {
                assert!(asked.contains(part.sql), "{condition}: {}", part.sql);
            }
        }
    }
}
