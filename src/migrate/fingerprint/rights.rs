//! Rights as the server writes them (`anon=ar*/mb_owner`), in words.

use std::collections::{BTreeMap, BTreeSet};

/// How the name of a fact about rights ends.
pub(in crate::migrate) const RIGHTS: &str = ": rights";

/// PostgreSQL, "Privileges", table 5.1.
const LETTERS: [(char, &str); 15] = [
    ('r', "SELECT"),
    ('a', "INSERT"),
    ('w', "UPDATE"),
    ('d', "DELETE"),
    ('D', "TRUNCATE"),
    ('x', "REFERENCES"),
    ('t', "TRIGGER"),
    ('m', "MAINTAIN"),
    ('U', "USAGE"),
    ('C', "CREATE"),
    ('c', "CONNECT"),
    ('T', "TEMPORARY"),
    ('X', "EXECUTE"),
    ('s', "SET"),
    ('A', "ALTER SYSTEM"),
];

/// One privilege of one role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::migrate) struct Right {
    /// Empty for PUBLIC.
    pub(in crate::migrate) role: String,
    /// As in GRANT: `SELECT`.
    pub(in crate::migrate) privilege: &'static str,
    /// Whether it may be passed on.
    pub(in crate::migrate) grantable: bool,
}

impl Right {
    /// What PUBLIC may.
    pub(in crate::migrate) fn of_public(privilege: &'static str) -> Self {
        Self { role: String::new(), privilege, grantable: false }
    }
}

/// The privileges in a fact about rights, whoever granted them.
pub(in crate::migrate) fn rights(text: &str) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for (role, letters, _) in items(text).filter_map(parts) {
        let inner = role.strip_prefix('"').and_then(|role| role.strip_suffix('"'));
        let role = inner.map_or_else(|| role.to_owned(), |role| role.replace("\"\"", "\""));
        let mut letters = letters.chars().peekable();
        while let Some(letter) = letters.next() {
            let grantable = letters.next_if_eq(&'*').is_some();
            if let Some((_, privilege)) = LETTERS.iter().find(|(known, _)| *known == letter) {
                rights.insert(Right { role: role.clone(), privilege, grantable });
            }
        }
    }
    rights
}

/// One sentence for each role whose rights differ. Who granted them is said where that is the only difference.
pub(super) fn lines(name: &str, found: &str, expected: &str) -> Vec<String> {
    // None are written where they are the usual ones.
    if found.is_empty() || expected.is_empty() {
        let all = |text: &str| match by_role(text, false) {
            roles if roles.is_empty() => "the usual".to_owned(),
            roles => {
                roles.iter().map(|(role, rights)| format!("{role} {rights}")).collect::<Vec<_>>().join("; ")
            }
        };
        return vec![format!("{name}: {} instead of {}", all(found), all(expected))];
    }
    let lines = differences(name, &by_role(found, false), &by_role(expected, false));
    if lines.is_empty() {
        return differences(name, &by_role(found, true), &by_role(expected, true));
    }
    lines
}

fn differences(
    name: &str,
    found: &BTreeMap<String, String>,
    expected: &BTreeMap<String, String>,
) -> Vec<String> {
    let roles: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let of = |rights: &BTreeMap<String, String>, role: &str| {
        rights.get(role).cloned().unwrap_or_else(|| "none".to_owned())
    };
    let differ = roles.into_iter().filter(|role| found.get(*role) != expected.get(*role));
    differ
        .map(|role| format!("{name} of {role}: {} instead of {}", of(found, role), of(expected, role)))
        .collect()
}

/// Each role's rights in words; those of several grantors behind each other.
fn by_role(text: &str, with_grantors: bool) -> BTreeMap<String, String> {
    let mut roles: BTreeMap<String, String> = BTreeMap::new();
    for (role, letters, grantor) in items(text).filter_map(parts) {
        let role = if role.is_empty() { "PUBLIC" } else { role };
        let mut words: Vec<String> = Vec::new();
        for letter in letters.chars() {
            match (LETTERS.iter().find(|(known, _)| *known == letter), words.last_mut()) {
                (Some((_, word)), _) => words.push((*word).to_owned()),
                (None, Some(word)) if letter == '*' => word.push_str(" WITH GRANT OPTION"),
                (None, _) => words.push(letter.to_string()),
            }
        }
        let mut rights = words.join(", ");
        if with_grantors {
            rights = format!("{rights} by {grantor}");
        }
        roles.entry(role.to_owned()).and_modify(|all| *all = format!("{all}, {rights}")).or_insert(rights);
    }
    roles
}

/// The items of the list, which spaces part, but for those in quotes.
fn items(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    })
    .filter(|item| !item.is_empty())
}

/// Role, letters and grantor of `role=letters/grantor`. Letters are never quoted, so the last `=` outside of quotes is
/// the one behind the role.
fn parts(item: &str) -> Option<(&str, &str, &str)> {
    let mut quoted = false;
    let equals = item.find(|c| {
        quoted ^= c == '"';
        c == '=' && !quoted
    })?;
    let (letters, grantor) = item[equals + 1..].split_once('/')?;
    Some((&item[..equals], letters, grantor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_role_by_role() {
        let right = |role: &str, privilege, grantable| Right { role: role.into(), privilege, grantable };
        let found = rights("=r/o anon=aw*/\"a b\" \"x \"\"y=\"=X/o");
        let expected = [
            right("", "SELECT", false),
            right("anon", "INSERT", false),
            right("anon", "UPDATE", true),
            right("x \"y=", "EXECUTE", false),
        ];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
        assert!(rights("").is_empty());
    }
}
