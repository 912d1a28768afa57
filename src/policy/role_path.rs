//! `RolePath`: where in a token's claims the role is, as PostgREST's `jwt-role-claim-key` has it.

mod legacy;

use std::fmt;
use std::str::FromStr;
use std::sync::Once;

use regex::RegexBuilder;
use serde_json::Value;
use serde_json_path::JsonPath;

use super::Invalid;

/// Longest path, in bytes.
const MAX_PATH: usize = 256;
/// Most values that are searched. The owner of an adopted database chooses both the path and the claims.
const MAX_VALUES: usize = 500;
/// Largest program of a regular expression, in bytes. It is compiled anew for each value that it is compared with.
const MAX_REGEX: usize = 16 * 1024;

/// A JSON Path (RFC 9535) such as `$.role`, `$.roles[0]` or `$.roles[?search(@, "^app_")]`; of several values the first
/// one counts. What PostgREST had before version 16, which begins with a dot, is read as the JSON Path that it means.
#[derive(Debug, Clone, PartialEq)]
pub struct RolePath {
    path: JsonPath,
    /// Whether it looks at more values than it names.
    searches: bool,
    /// As it was written.
    text: String,
}

/// The claims have too many values to search for the role among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyClaims;

impl Default for RolePath {
    /// `$.role`
    fn default() -> Self {
        let text = "$.role".to_owned();
        Self { path: JsonPath::parse(&text).unwrap_or_default(), searches: false, text }
    }
}

impl RolePath {
    /// What is at this place; `None` when nothing is.
    ///
    /// # Errors
    /// When the path searches, and the claims have more than 500 values.
    pub fn find<'a>(&self, claims: &'a Value) -> Result<Option<&'a Value>, TooManyClaims> {
        if self.searches && count(claims, MAX_VALUES) > MAX_VALUES {
            return Err(TooManyClaims);
        }
        Ok(self.path.query(claims).first())
    }
}

/// How many values there are; not counted far beyond `most`.
fn count(value: &Value, most: usize) -> usize {
    let inner: &mut dyn Iterator<Item = &Value> = match value {
        Value::Array(items) => &mut items.iter(),
        Value::Object(fields) => &mut fields.values(),
        _ => return 1,
    };
    let mut counted = 1;
    for value in inner {
        if counted > most {
            break;
        }
        counted += count(value, most - counted.min(most));
    }
    counted
}

impl FromStr for RolePath {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: &str| {
            Invalid(format!(
                "`{text}` is not a path to a claim: {why}; expected a JSON Path such as $.role, $[\"my-role\"][0] or \
                 $.roles[?search(@, \"^app_\")]"
            ))
        };
        if text.len() > MAX_PATH {
            return Err(invalid("it is longer than 256 bytes"));
        }
        let path = match legacy::translated(text) {
            Some(translated) => translated,
            None if text.starts_with('$') => text.to_owned(),
            None => return Err(invalid("it does not begin with $")),
        };
        let (outside, quoted) = parts(&path);
        // Two searches, one inside the other, compare each value with each.
        let searches = outside.matches("..").count() + outside.matches('?').count();
        if searches > 1 {
            return Err(invalid("it may have one filter or one descendant segment (..), not more"));
        }
        // A list of selectors may name a value twice, and two lists behind one another four times, and so on.
        let functions = outside.matches("search(").count() + outside.matches("match(").count();
        if outside.matches(',').count() > functions {
            return Err(invalid("it may have no list of selectors"));
        }
        if outside.contains("search(") || outside.contains("match(") {
            let fits = |regex: &String| RegexBuilder::new(regex).size_limit(MAX_REGEX).build().is_ok();
            if !quoted.iter().all(fits) {
                return Err(invalid("its regular expression can't be read, or is too large"));
            }
        }
        let parsed = JsonPath::parse(&path).map_err(|error| invalid(&error.to_string()))?;
        if text != path {
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                tracing::warn!(
                    "jwt_role_claim_key `{text}` has the syntax before PostgREST 16; as a JSON Path it is `{path}`"
                );
            });
        }
        Ok(Self { path: parsed, searches: searches > 0 || outside.contains('*'), text: text.to_owned() })
    }
}

/// What stands outside the quotes of a JSON Path, and the texts in them, without their escapes.
fn parts(path: &str) -> (String, Vec<String>) {
    let (mut outside, mut quoted) = (String::new(), Vec::new());
    let mut letters = path.chars();
    while let Some(letter) = letters.next() {
        if !matches!(letter, '"' | '\'') {
            outside.push(letter);
            continue;
        }
        let mut text = String::new();
        while let Some(inner) = letters.next().filter(|inner| *inner != letter) {
            match inner {
                '\\' => text.extend(letters.next()),
                _ => text.push(inner),
            }
        }
        quoted.push(text);
    }
    (outside, quoted)
}

impl fmt::Display for RolePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl serde::Serialize for RolePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn find<'a>(path: &str, claims: &'a Value) -> Option<&'a str> {
        let parsed: RolePath = path.parse().unwrap_or_else(|Invalid(error)| panic!("{error}"));
        assert_eq!(parsed.to_string().parse::<RolePath>().unwrap(), parsed, "{path}");
        parsed.find(claims).unwrap().and_then(Value::as_str)
    }

    #[test]
    fn paths_find_what_they_name() {
        let claims = json!({
            "role": "a",
            "https://x.test/role": { "key": "b" },
            "realm": { "roles": ["other", 7, "author"] },
            "names": [{ "name": "c", "on": false }, { "name": "d", "on": true }],
        });
        for (path, expected) in [
            ("$.role", Some("a")),
            ("$['https://x.test/role'].key", Some("b")),
            ("$[\"https://x.test/role\"][\"key\"]", Some("b")),
            ("$.realm.roles[2]", Some("author")),
            ("$.realm.roles[-1]", Some("author")),
            ("$.realm.roles[?(@ == 'author')]", Some("author")),
            ("$.realm.roles[?search(@, '^aut')]", Some("author")),
            ("$.realm.roles[?search(@, 'x?hor$')]", Some("author")),
            ("$.realm.roles[*]", Some("other")),
            ("$.names[?@.on == true].name", Some("d")),
            ("$..name", Some("c")),
            ("$.realm.roles[9]", None),
            ("$.role.deeper", None),
            // As before PostgREST 16.
            (".role", Some("a")),
            (".\"https://x.test/role\".key", Some("b")),
            (".realm.roles[2]", Some("author")),
            (".realm.roles[?(@ == \"author\")]", Some("author")),
            (".realm.roles[?(@ != \"other\")]", Some("author")),
            (".realm.roles[?(@ ^== \"aut\")]", Some("author")),
            (".realm.roles[?(@==^\"hor\")]", Some("author")),
            (".realm.roles[?(@ *== \"utho\")]", Some("author")),
            (".realm.roles[?(@ == \"none\")]", None),
            (".realm.roles[?(@ *== \".\")]", None),
            (".realm.roles[9]", None),
            (".role.deeper", None),
        ] {
            assert_eq!(find(path, &claims), expected, "{path}");
        }
        assert_eq!(RolePath::default().find(&claims).unwrap().and_then(Value::as_str), Some("a"));
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
            ".a-b",
            ".\"a",
            "$.a[",
        ] {
            assert!(bad.parse::<RolePath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_search_is_bounded() {
        for costly in [
            "$..a..a..a",
            "$..[?@..b == 1]",
            "$[?@[?@ == 1]]",
            &format!("$.a{}", "[0,0]".repeat(20)),
            "$.a[*,*][*,*]",
            "$.a[::1,::1]",
            "$[?search(@, 'x'), 0]",
            "$.roles[?search(@, '(\\\\w{50}){50}')]",
            &format!("$.{}", "a".repeat(300)),
        ] {
            assert!(costly.parse::<RolePath>().is_err(), "{costly}");
        }
        // Quotes hide what only looks costly.
        assert!("$['..a..b'][?search(@, 'x?y?')]".parse::<RolePath>().is_ok());
        let many = json!({ "roles": vec!["x"; MAX_VALUES] });
        for (path, found) in [
            ("$.roles[0]", Ok(Some(&json!("x")))),
            ("$..roles", Err(TooManyClaims)),
            ("$.roles[*]", Err(TooManyClaims)),
        ] {
            assert_eq!(path.parse::<RolePath>().unwrap().find(&many), found, "{path}");
        }
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!("$..a".parse::<RolePath>().unwrap().find(&deep), Ok(None));
    }
}
