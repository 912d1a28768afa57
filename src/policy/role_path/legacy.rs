//! The syntax that paths had before PostgREST 16, as the JSON Path that means the same.

use std::fmt::Write as _;

/// What compares the texts of an array; longer ones first: `==^` begins like `==`.
const OPERATORS: [&str; 5] = ["==^", "^==", "*==", "==", "!="];

/// The JSON Path of one such as `.role`, `."https://example.com/role"[0]` or `.roles[?(@ ^== "app_")]`; `None` when it is
/// none of these.
pub(super) fn translated(text: &str) -> Option<String> {
    let (mut rest, mut path) = (text, String::from("$"));
    while !rest.is_empty() {
        rest = if let Some(behind) = rest.strip_prefix("[?(") {
            let behind = behind.strip_prefix('@')?.trim_start();
            let operator = OPERATORS.iter().find(|operator| behind.starts_with(**operator))?;
            let (with, behind) = quoted(behind[operator.len()..].trim_start())?;
            path.push_str(&filter(operator, with));
            // Nothing comes behind a comparison.
            behind.strip_prefix(")]").filter(|behind| behind.is_empty())?
        } else if let Some(behind) = rest.strip_prefix('[') {
            let (digits, behind) = behind.split_once(']')?;
            let index: u32 = digits.parse().ok().filter(|_| !digits.starts_with('+'))?;
            let _ = write!(path, "[{index}]");
            behind
        } else {
            let behind = rest.strip_prefix('.')?;
            let (key, behind) = if behind.starts_with('"') {
                quoted(behind)?
            } else {
                let is_key = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '@');
                let end = behind.find(|c| !is_key(c)).unwrap_or(behind.len());
                Some(behind.split_at(end)).filter(|(key, _)| !key.is_empty())?
            };
            let _ = write!(path, "[{}]", string(key));
            behind
        };
    }
    (path.len() > 1).then_some(path)
}

/// Only texts were compared; `search` with any pattern leaves out the rest.
fn filter(operator: &str, with: &str) -> String {
    let pattern = regex::escape(with);
    match operator {
        "==" => format!("[?@ == {}]", string(with)),
        "!=" => format!("[?@ != {} && search(@, \"\")]", string(with)),
        "^==" => format!("[?search(@, {})]", string(&format!("^{pattern}"))),
        "==^" => format!("[?search(@, {})]", string(&format!("{pattern}$"))),
        _ => format!("[?search(@, {})]", string(&pattern)),
    }
}

/// A text as a string of a JSON Path, whose escapes are those of JSON.
fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text in double quotes at the start, and what is behind it. There were no escapes.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('"')?.split_once('"')
}
