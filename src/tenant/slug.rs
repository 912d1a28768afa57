//! `Slug`: the tenant's name for people and URLs.

use std::fmt;
use std::str::FromStr;

use crate::policy::Invalid;

/// Words that mean something in a URL of ours, so no tenant may have them.
const RESERVED: [&str; 9] =
    ["rest", "rpc", "admin", "health", "metrics", "live", "ready", "manybox", "well-known"];

/// A tenant's name: `[a-z0-9][a-z0-9-]{0,39}` without a trailing dash, and not a reserved word.
///
/// It is a label of a host name and a segment of a path as it stands, so nothing needs escaping.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slug(String);

impl Slug {
    /// The slug's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Slug {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let shape = text.len() <= 40
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.ends_with('-');
        if !shape {
            return Err(Invalid(format!(
                "`{text}` is not a slug: expected up to 40 of a-z, 0-9 and -, not beginning or ending with -"
            )));
        }
        if RESERVED.contains(&text) {
            return Err(Invalid(format!("`{text}` is a reserved word (one of {})", RESERVED.join(", "))));
        }
        Ok(Self(text.to_owned()))
    }
}

impl serde::Serialize for Slug {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar() {
        for good in ["a", "acme", "a-1", "3m", "1", &"a".repeat(40)] {
            assert!(good.parse::<Slug>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "rpc", "admin", &"a".repeat(41)] {
            assert!(bad.parse::<Slug>().is_err(), "{bad}");
        }
    }
}
