//! Which column of which relation each column of a view shows: read from the tree PostgreSQL keeps of the view.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::{Name, ViewColumn};

/// A relation's column as the catalog numbers them: oid and attnum.
pub(super) type Origin = (u32, i32);

/// Most views that are looked through between a view's column and a table's. `CREATE OR REPLACE VIEW` can make two views
/// show each other, and more than these can't be queried anyway.
const MAX_DEPTH: usize = 100;

/// A view as `sql/views.sql` gives it. The catalog has no other record of what its columns show: `pg_depend` names
/// all columns that it reads, not which comes out where.
#[derive(Debug, Deserialize)]
pub(super) struct View {
    oid: u32,
    name: Name,
    /// Only exposed views get relationships; the others are looked through.
    exposed: bool,
    /// Number and name.
    columns: Vec<(i32, String)>,
    /// `pg_rewrite.ev_action` of its SELECT rule.
    tree: String,
}

/// Looks through views over views, down to the columns in `keys`.
pub(super) fn trace(views: Vec<View>, keys: &HashMap<Origin, (Name, String)>) -> Vec<ViewColumn> {
    let names: HashMap<u32, (Name, bool, BTreeMap<i32, String>)> = views
        .iter()
        .map(|v| (v.oid, (v.name.clone(), v.exposed, v.columns.iter().cloned().collect())))
        .collect();
    let mut shows: HashMap<Origin, Origin> = HashMap::new();
    for view in views {
        shows.extend(origins(&view.tree).into_iter().map(|(number, origin)| ((view.oid, number), origin)));
    }
    let mut found = Vec::new();
    for (oid, (view, _, columns)) in names.iter().filter(|(_, (_, exposed, _))| *exposed) {
        for (number, column) in columns {
            let mut through: Vec<&str> = Vec::new();
            let mut at = (*oid, *number);
            for _ in 0..MAX_DEPTH {
                let Some(origin) = shows.get(&at) else { break };
                at = *origin;
                if let Some((source, source_column)) = keys.get(&at) {
                    found.push(ViewColumn {
                        view: view.clone(),
                        column: column.clone(),
                        source: source.clone(),
                        source_column: source_column.clone(),
                        through: through.into_iter().map(str::to_owned).collect(),
                    });
                    // Only tables have keys, and they show nothing.
                    break;
                }
                // A view that was not read ends the way at the next look-up.
                through.extend(names.get(&at.0).map(|(view, ..)| view.schema.as_str()));
            }
        }
    }
    found
}

/// The columns of the outermost query that show a column unchanged: their numbers, and where they come from.
///
/// The tree is a list of nodes: `({QUERY :commandType 1 ... :targetList ({TARGETENTRY ... :resno 1 ... :resorigtbl
/// 16707 :resorigcol 8 ...} ...) ...})`, with further queries nested anywhere. PostgreSQL notes the origin of a target
/// entry itself, through joins and subqueries.
fn origins(tree: &str) -> Vec<(i32, Origin)> {
    let mut found = Vec::new();
    let (mut depth, mut field, mut targets) = (0_usize, "", false);
    let mut entry: [i64; 3] = [0; 3];
    for token in Tokens(tree) {
        match token {
            "(" | "{" => {
                depth += 1;
                // The list's own items are one level deeper.
                if depth == 3 {
                    targets = field == ":targetList";
                }
                entry = if depth == 4 { [0; 3] } else { entry };
            }
            ")" | "}" => {
                if depth == 4
                    && targets
                    && let [number, table, column] = entry
                    && let (Ok(number), Ok(table), Ok(column)) =
                        (i32::try_from(number), u32::try_from(table), i32::try_from(column))
                    && table != 0
                    && column > 0
                {
                    found.push((number, (table, column)));
                }
                depth = depth.saturating_sub(1);
            }
            name if name.starts_with(':') => field = name,
            value if depth == 4 => {
                let place = [":resno", ":resorigtbl", ":resorigcol"].iter().position(|name| *name == field);
                if let (Some(place), Ok(value)) = (place, value.parse()) {
                    entry[place] = value;
                }
            }
            _ => {}
        }
    }
    found
}

/// Words, and single parentheses and braces; a backslash takes the meaning from what follows it.
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start();
        let mut escaped = false;
        let end = text.char_indices().find_map(|(at, c)| {
            let ends = !escaped && (c.is_whitespace() || matches!(c, '(' | ')' | '{' | '}'));
            escaped = c == '\\' && !escaped;
            ends.then_some(at)
        });
        // At 0 is a bracket, which is a token of its own.
        let (token, rest) = text.split_at_checked(end.map_or(text.len(), |at| at.max(1)))?;
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_the_outermost_targets_count() {
        let tree = r#"({QUERY :rtable ({RANGETBLENTRY :colnames ("a\ \)b") :subquery {QUERY :targetList ({TARGETENTRY
            :resno 1 :resorigtbl 7 :resorigcol 7})}}) :targetList ({TARGETENTRY :expr {SUBLINK :subselect {QUERY
            :targetList ({TARGETENTRY :resno 9 :resorigtbl 9 :resorigcol 9})}} :resno 1 :resname :resno\ 5\ \}
            :resorigtbl 0 :resorigcol 0 :resjunk false} {TARGETENTRY :expr {VAR :varno 1} :resno 2 :resname b
            :resorigtbl 16707 :resorigcol 3 :resjunk false}) :returningList <>})"#;
        assert_eq!(origins(tree), [(2, (16707, 3))]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_ends(tree in ".*") {
            let _ = origins(&tree);
        }
    }
}
