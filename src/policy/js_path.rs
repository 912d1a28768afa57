//! `JsPath`: where in a token's claims the role is, in the form that PostgREST's `jwt-role-claim-key` has.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::Invalid;

/// Most steps of a path: claims are small, and every request walks it.
const MAX_STEPS: usize = 16;

/// A path such as `.role`, `."https://example.com/role"[0]` or `.roles[?(@ ^== "app_")]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsPath(Vec<PathStep>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum PathStep {
    Key(String),
    Index(usize),
    /// The first text of an array that compares so; only the last step can be one.
    First(Compare, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equals,
    Differs,
    Starts,
    Ends,
    Contains,
}

/// Longer ones first: `==^` begins like `==`.
const OPERATORS: [(&str, Compare); 5] = [
    ("==^", Compare::Ends),
    ("^==", Compare::Starts),
    ("*==", Compare::Contains),
    ("==", Compare::Equals),
    ("!=", Compare::Differs),
];

impl Compare {
    fn holds(self, text: &str, with: &str) -> bool {
        match self {
            Self::Equals => text == with,
            Self::Differs => text != with,
            Self::Starts => text.starts_with(with),
            Self::Ends => text.ends_with(with),
            Self::Contains => text.contains(with),
        }
    }
}

impl Default for JsPath {
    fn default() -> Self {
        Self(vec![PathStep::Key("role".into())])
    }
}

impl JsPath {
    /// What is at this place.
    pub fn find<'a>(&self, claims: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(claims, |at, step| match step {
            PathStep::Key(key) => at.as_object()?.get(key),
            PathStep::Index(index) => at.as_array()?.get(*index),
            PathStep::First(compare, with) => {
                at.as_array()?.iter().find(|v| v.as_str().is_some_and(|text| compare.holds(text, with)))
            }
        })
    }
}

impl FromStr for JsPath {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        parse(text).ok_or_else(|| {
            Invalid(format!(
                "`{text}` is not a path to a claim: expected one such as .role, .\"my-role\"[0] or .roles[?(@ == \"x\")]"
            ))
        })
    }
}

fn parse(text: &str) -> Option<JsPath> {
    let (mut rest, mut steps) = (text, Vec::new());
    while !rest.is_empty() {
        // Nothing comes behind a comparison.
        if steps.len() == MAX_STEPS || matches!(steps.last(), Some(PathStep::First(..))) {
            return None;
        }
        let step;
        (step, rest) = if let Some(behind) = rest.strip_prefix("[?(") {
            let behind = behind.strip_prefix('@')?.trim_start();
            let (operator, compare) = OPERATORS.iter().find(|(sign, _)| behind.starts_with(sign))?;
            let (with, behind) = quoted(behind[operator.len()..].trim_start())?;
            (PathStep::First(*compare, with), behind.strip_prefix(")]")?)
        } else if let Some(behind) = rest.strip_prefix('[') {
            let (digits, behind) = behind.split_once(']')?;
            let digits = Some(digits).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
            (PathStep::Index(digits.parse().ok()?), behind)
        } else {
            let behind = rest.strip_prefix('.')?;
            if behind.starts_with('"') {
                let (key, behind) = quoted(behind)?;
                (PathStep::Key(key), behind)
            } else {
                let is_key = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '@');
                let end = behind.find(|c| !is_key(c)).unwrap_or(behind.len());
                let (key, behind) = Some(behind.split_at(end)).filter(|(key, _)| !key.is_empty())?;
                (PathStep::Key(key.to_owned()), behind)
            }
        };
        steps.push(step);
    }
    (!steps.is_empty()).then_some(JsPath(steps))
}

/// A text in double quotes at the start, and what is behind it. There are no escapes in PostgREST's form.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (inner, behind) = text.strip_prefix('"')?.split_once('"')?;
    Some((inner.to_owned(), behind))
}

impl fmt::Display for JsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| match step {
            PathStep::Key(key) => write!(f, ".\"{key}\""),
            PathStep::Index(index) => write!(f, "[{index}]"),
            PathStep::First(compare, with) => {
                let sign = OPERATORS.iter().find(|(_, c)| c == compare).map_or("", |(sign, _)| sign);
                write!(f, "[?(@ {sign} \"{with}\")]")
            }
        })
    }
}

impl serde::Serialize for JsPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_what_they_name() {
        let claims = serde_json::json!({
            "role": "a",
            "https://x.test/role": { "key": "b" },
            "realm": { "roles": ["other", 7, "author"] },
        });
        for (path, expected) in [
            (".role", Some("a")),
            (".\"https://x.test/role\".key", Some("b")),
            (".realm.roles[2]", Some("author")),
            (".realm.roles[?(@ == \"author\")]", Some("author")),
            (".realm.roles[?(@ != \"other\")]", Some("author")),
            (".realm.roles[?(@ ^== \"aut\")]", Some("author")),
            (".realm.roles[?(@==^\"hor\")]", Some("author")),
            (".realm.roles[?(@ *== \"utho\")]", Some("author")),
            (".realm.roles[?(@ == \"none\")]", None),
            (".realm.roles[9]", None),
            (".role.deeper", None),
        ] {
            let parsed: JsPath = path.parse().unwrap();
            assert_eq!(parsed.find(&claims).and_then(Value::as_str), expected, "{path}");
            assert_eq!(parsed.to_string().parse::<JsPath>().unwrap(), parsed, "{path}");
        }
    }

    #[test]
    fn what_is_no_path() {
        for bad in [
            "",
            "role",
            ".",
            "..role",
            ".a[",
            ".a[x]",
            ".a[+1]",
            ".a[?(@ == \"x\")].b",
            ".a[?(@ ~ \"x\")]",
            ".a-b",
            ".\"a",
        ] {
            assert!(bad.parse::<JsPath>().is_err(), "{bad}");
        }
    }
}
