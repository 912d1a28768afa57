//! `select=` and the fields it and other parameters name: columns, JSON paths, aliases, casts.

use super::super::error::Error;
use super::split;

/// A column, or a place inside a JSON column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    /// The column's name.
    pub(crate) name: String,
    /// Steps into it.
    pub(crate) path: Vec<Step>,
}

/// One step of a JSON path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// `->>` instead of `->`.
    pub(crate) as_text: bool,
    /// What it goes to.
    pub(crate) key: Key,
}

/// What a step goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// An object's key.
    Name(String),
    /// An array's element, negative from its end.
    Index(i32),
}

/// One item of `select=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// `*`
    All,
    /// `alias:field::cast`
    Field {
        /// What is read.
        field: Field,
        /// Its name in the answer, where that is not the column's.
        alias: Option<String>,
        /// The type to cast to, as spelled.
        cast: Option<String>,
    },
}

impl Field {
    /// Reads `column`, `column->key`, `column->0->>key`; any part may be in double quotes.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::query(
                format!("failed to parse field ({text})"),
                "expected a column name, perhaps with a JSON path such as data->key->>name",
            )
        };
        let mut parts = split(text, "->").map_err(|_| bad())?.into_iter();
        let name = unquote(parts.next().unwrap_or_default());
        if name.is_empty() || name.contains('(') {
            return Err(bad());
        }
        let mut path = Vec::new();
        for part in parts {
            let (as_text, key) = part.strip_prefix('>').map_or((false, part), |key| (true, key));
            let last_was_text = path.last().is_some_and(|step: &Step| step.as_text);
            if key.is_empty() || last_was_text {
                return Err(bad());
            }
            let key = key.parse().map_or_else(|_| Key::Name(unquote(key)), Key::Index);
            path.push(Step { as_text, key });
        }
        Ok(Self { name, path })
    }

    /// The name that the field has in an answer: that of the last key.
    pub(crate) fn label(&self) -> &str {
        let named = self.path.iter().rev().find_map(|step| match &step.key {
            Key::Name(name) => Some(name.as_str()),
            Key::Index(_) => None,
        });
        named.unwrap_or(&self.name)
    }
}

impl Item {
    /// Reads the whole parameter; empty means all columns, as if it was not there.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Self>, Error> {
        if text.trim().is_empty() {
            return Ok(vec![Self::All]);
        }
        let bad = |reason: String| Error::query(format!("failed to parse select parameter ({text})"), reason);
        split(text, ",").map_err(bad)?.into_iter().map(|item| Self::parse(item.trim())).collect()
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let bad = |details: &str| Error::query(format!("failed to parse select parameter ({text})"), details);
        if text == "*" {
            return Ok(Self::All);
        }
        let aggregate = ["count()", ".sum()", ".avg()", ".min()", ".max()", ".count()"];
        if aggregate.iter().any(|call| text.contains(call)) {
            let message = "Use of aggregate functions is not allowed";
            return Err(Error::new(http::StatusCode::BAD_REQUEST, "PGRST123", message, None, None));
        }
        if text.ends_with(')') || text.starts_with("...") {
            return Err(bad("embedding other tables isn't there yet: select the table's own columns"));
        }
        let mut parts = split(text, "::").map_err(|reason| bad(&reason))?.into_iter();
        let (named, cast) = (parts.next().unwrap_or_default(), parts.next());
        if parts.next().is_some() || cast.is_some_and(|c| c.is_empty() || c.contains([':', '"'])) {
            return Err(bad("expected at most one cast, as in column::type"));
        }
        let named = split(named, ":").map_err(|reason| bad(&reason))?;
        let (alias, field) = match named[..] {
            [field] => (None, field),
            [alias, field] if !alias.is_empty() => (Some(unquote(alias)), field),
            _ => return Err(bad("expected at most one alias, as in alias:column")),
        };
        Ok(Self::Field { field: Field::parse(field)?, alias, cast: cast.map(str::to_owned) })
    }
}

/// Takes the double quotes off, and the backslashes inside them.
pub(crate) fn unquote(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
        return text.to_owned();
    };
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}
