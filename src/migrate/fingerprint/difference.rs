//! Drift: how a schema differs from what it should be, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::facts::{Fact, Facts};
use super::rights::{self, RIGHTS};

/// Most characters of a definition that are shown of each side.
const SHOWN: usize = 160;
/// Most lines that are shown. All of them are in the JSON.
const LINES: usize = 100;
/// How the fact about the order of a relation's columns ends.
const ORDER: &str = ": order of columns";
const COLUMN: &str = ": column ";

/// How a schema differs from the one that was expected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Expected, and not there. Parts of a thing that is missing itself are not listed.
    pub missing: Vec<Fact>,
    /// There, and not expected. Parts of a thing that is extra itself are not listed.
    pub extra: Vec<Fact>,
    /// There, but different.
    pub changed: Vec<Changed>,
}

/// A thing that is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// As [`Fact::name`].
    pub name: String,
    /// What there is.
    pub found: String,
    /// What there should be.
    pub expected: String,
}

impl Facts {
    /// How these, which were found, differ from those that were expected.
    pub fn difference(&self, expected: &Facts) -> Drift {
        let (mut found, mut expected) = (by_name(self), by_name(expected));
        usual_rights(&mut found, &expected);
        usual_rights(&mut expected, &found);
        let only = |these: &BTreeMap<&str, String>, others: &BTreeMap<&str, String>| -> Vec<Fact> {
            let there = |name: &str| these.contains_key(name) && !others.contains_key(name);
            these
                .iter()
                .filter(|(name, _)| there(name) && !wholes(name).any(there))
                .map(|(name, definition)| Fact { name: (*name).to_owned(), definition: definition.clone() })
                .collect()
        };
        let (missing, extra) = (only(&expected, &found), only(&found, &expected));
        let has_other_columns = |relation: &str| {
            let column = format!("{relation}{COLUMN}");
            missing.iter().chain(&extra).any(|fact| fact.name.starts_with(&column))
        };
        let changed = found
            .iter()
            .filter_map(|(name, found)| Some((name, found, expected.get(name)?)))
            .filter(|(_, found, expected)| found != expected)
            // Of course it differs where a column is missing.
            .filter(|(name, ..)| !name.strip_suffix(ORDER).is_some_and(has_other_columns))
            .map(|(name, found, expected)| Changed {
                name: (*name).to_owned(),
                found: found.clone(),
                expected: expected.clone(),
            })
            .collect();
        Drift { missing, extra, changed }
    }
}

impl Drift {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many differences there are.
    pub fn len(&self) -> usize {
        self.missing.len() + self.extra.len() + self.changed.len()
    }

    /// Whether all of this is part of the other, difference by difference.
    pub fn is_within(&self, other: &Drift) -> bool {
        self.missing.iter().all(|fact| other.missing.contains(fact))
            && self.extra.iter().all(|fact| other.extra.contains(fact))
            && self.changed.iter().all(|changed| other.changed.contains(changed))
    }

    /// Whether any of it is about something that the other is about too, or about a part or the whole of it.
    pub fn overlaps(&self, other: &Drift) -> bool {
        let others: BTreeSet<&str> = other.names().flat_map(|name| wholes(name).chain([name])).collect();
        let own: BTreeSet<&str> = other.names().collect();
        self.names().any(|name| others.contains(name) || wholes(name).any(|whole| own.contains(whole)))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let facts = self.missing.iter().chain(&self.extra).map(|fact| fact.name.as_str());
        facts.chain(self.changed.iter().map(|changed| changed.name.as_str()))
    }

    /// One sentence for each difference, in the order of their names.
    pub fn lines(&self) -> Vec<String> {
        let missing = self.missing.iter().map(|fact| (&fact.name, format!("{} missing", fact.name)));
        let extra = self.extra.iter().map(|fact| {
            let (definition, _) = apart(&fact.definition, "");
            (&fact.name, format!("{} not expected: {definition}", fact.name))
        });
        let mut lines: Vec<_> = missing.chain(extra).collect();
        for Changed { name, found, expected } in &self.changed {
            if name.ends_with(RIGHTS) {
                lines.extend(rights::lines(name, found, expected).into_iter().map(|line| (name, line)));
            } else {
                let (found, expected) = apart(found, expected);
                lines.push((name, format!("{name}: {found} instead of {expected}")));
            }
        }
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines();
        f.write_str(&lines[..lines.len().min(LINES)].join("\n"))?;
        match lines.len().checked_sub(LINES) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\nand {more} more"),
        }
    }
}

/// Two facts of one name would be a mistake of the statement's; none of them may get lost by it.
fn by_name(facts: &Facts) -> BTreeMap<&str, String> {
    let mut named: BTreeMap<&str, String> = BTreeMap::new();
    for Fact { name, definition } in facts.iter() {
        named
            .entry(name)
            .and_modify(|all| all.extend(["\n", definition]))
            .or_insert_with(|| definition.clone());
    }
    named
}

/// Rights that are the usual ones are no fact. Where the other side has some, that is a change of rights.
fn usual_rights<'a>(these: &mut BTreeMap<&'a str, String>, others: &BTreeMap<&'a str, String>) {
    for name in others.keys().filter(|name| name.ends_with(RIGHTS)) {
        if wholes(name).any(|whole| these.contains_key(whole)) {
            these.entry(name).or_default();
        }
    }
}

/// The names of what a thing may be a part of. Quoted names may have colons too, so these are not all real.
fn wholes(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices(": ").map(|(at, _)| &name[..at])
}

/// Both texts on one line each, shortened to where they differ when they are long.
fn apart(found: &str, expected: &str) -> (String, String) {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (found, expected) = match (flat(found), flat(expected)) {
        // They differ in white space alone.
        (a, b) if a == b && found != expected => (format!("{found:?}"), format!("{expected:?}")),
        flattened => flattened,
    };
    let is_long = |text: &str| text.chars().nth(SHOWN).is_some();
    let same = if is_long(&found) || is_long(&expected) {
        let same = found.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
        same.saturating_sub(SHOWN / 4)
    } else {
        0
    };
    let part = |text: &str| {
        let mut rest = text.chars().skip(same);
        let shown: String = rest.by_ref().take(SHOWN).collect();
        let (before, behind) =
            (if same > 0 { "… " } else { "" }, if rest.next().is_some() { " …" } else { "" });
        format!("{before}{shown}{behind}")
    };
    (part(&found), part(&expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(lines: &[(&str, &str)]) -> Facts {
        let fact = |(name, definition): &(&str, &str)| Fact {
            name: (*name).to_owned(),
            definition: (*definition).to_owned(),
        };
        Facts::new("1.15", lines.iter().map(fact).collect())
    }

    #[test]
    fn differences_are_told_by_name() {
        let expected = facts(&[
            ("table public.items", "owner mb_owner"),
            ("table public.items: column colour", "text"),
            ("table public.items: column id", "bigint NOT NULL"),
            ("table public.items: index items_idx", "CREATE INDEX items_idx ON public.items USING btree (a)"),
            ("table public.items: order of columns", "id, colour"),
            ("table public.items: rights", "anon=r/mb_owner mb_owner=arwdDxt/mb_owner \"x=y\"=r*/mb_owner"),
            ("table public.gone", "owner mb_owner"),
            ("table public.gone: column id", "integer"),
        ]);
        let found = facts(&[
            ("table public.items", "owner mb_owner, unlogged"),
            ("table public.items: column id", "bigint NOT NULL"),
            ("table public.items: index items_idx", "CREATE INDEX items_idx ON public.items USING btree (b)"),
            ("table public.items: order of columns", "id"),
            ("table public.items: rights", "=r/mb_owner anon=ar/other mb_owner=arwdDxt/mb_owner"),
            ("view public.\"a: b\"", "owner mb_owner"),
            ("view public.\"a: b\": definition", "SELECT 1"),
        ]);
        assert!(found.difference(&found).is_empty());
        insta::assert_snapshot!(found.difference(&expected));
    }

    #[test]
    fn the_order_of_the_same_columns_is_told() {
        let order = |columns| facts(&[("table public.items: order of columns", columns)]);
        assert_eq!(
            order("a, b").difference(&order("b, a")).to_string(),
            "table public.items: order of columns: a, b instead of b, a"
        );
    }

    #[test]
    fn long_definitions_are_shown_where_they_differ() {
        let body = |word: &str| {
            facts(&[("function public.f()", &format!("{} {word} {}", "a ".repeat(300), "b ".repeat(300)))])
        };
        let shown = body("HERE").difference(&body("THERE")).to_string();
        assert!(shown.contains("HERE") && shown.contains("instead of … a") && shown.len() < 500, "{shown}");
        let spaces = facts(&[("a", "x  y")]).difference(&facts(&[("a", "x y")])).to_string();
        assert_eq!(spaces, "a: \"x  y\" instead of \"x y\"");
    }

    #[test]
    fn rights_that_are_no_longer_the_usual_ones_are_told_as_a_change() {
        let usual = facts(&[("table a", "owner o")]);
        let granted = facts(&[("table a", "owner o"), ("table a: rights", "anon=r/o o=arwdDxt/o")]);
        assert_eq!(
            granted.difference(&usual).to_string(),
            "table a: rights: anon SELECT; o INSERT, SELECT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER instead of the usual"
        );
        assert!(usual.difference(&granted).to_string().ends_with(" the usual instead of anon SELECT; o INSERT, SELECT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"));
    }

    #[test]
    fn what_is_part_of_another_difference() {
        let expected = facts(&[("table a", "x"), ("table a: column b", "text"), ("table c", "x")]);
        let drift = |lines: &[(&str, &str)]| facts(lines).difference(&expected);
        let one = drift(&[("table a", "x"), ("table c", "x")]);
        let two = drift(&[("table a", "y")]);
        assert!(one.is_within(&two) && !two.is_within(&one));
        let (column, table) = (one.clone(), drift(&[("table c", "x")]));
        assert!(column.overlaps(&table) && table.overlaps(&column));
        let other = drift(&[("table a", "x"), ("table a: column b", "text")]);
        assert!(!other.overlaps(&column) && !column.overlaps(&other));
    }

    #[test]
    fn facts_of_one_name_are_all_compared() {
        let twice = facts(&[("a", "1"), ("a", "2")]);
        assert_eq!(twice.difference(&facts(&[("a", "1")])).changed.len(), 1);
        assert!(twice.difference(&twice.clone()).is_empty());
    }
}
