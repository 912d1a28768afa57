//! Timeouts that a file sets for itself: it may have them shorter than the settings, not longer.

use std::time::Duration;

use super::codes;
use super::finding::Finding;
use crate::migrate::statements::{Statement, split};

/// The longest that a file's statements may wait and run by the settings; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// For a lock.
    pub lock_timeout: Option<Duration>,
    /// For a statement.
    pub statement_timeout: Option<Duration>,
}

/// Refuses a statement that raises one of them above its limit, by itself or in the body of a `DO`.
pub(super) fn look(statement: &Statement<'_>, limits: &Limits) -> Vec<Finding> {
    if !statement.has_at(0, &["DO"]) {
        return raised(statement, 0, limits).into_iter().collect();
    }
    let mut findings = Vec::new();
    for (body, line) in statement.strings() {
        let Ok(inner) = split(&body) else { continue };
        for statement in inner.iter() {
            let begins = (0..statement.len()).filter(|at| statement.begins_at(*at));
            let raised = begins.filter_map(|at| raised(&statement, at, limits));
            findings.extend(raised.map(|finding| Finding { line: finding.line + line - 1, ..finding }));
        }
    }
    findings
}

fn raised(statement: &Statement<'_>, at: usize, limits: &Limits) -> Option<Finding> {
    let (name, value) = set(statement, at)?;
    let limit = match name.as_str() {
        "lock_timeout" => limits.lock_timeout?,
        "statement_timeout" => limits.statement_timeout?,
        _ => return None,
    };
    // What can't be read is for the server to refuse, and the run sees to the limit all the same.
    let raises = match &value {
        None => true,
        Some(text) => milliseconds(text).is_some_and(|ms| ms == 0 || u128::from(ms) > limit.as_millis()),
    };
    let what = match &value {
        None => format!("gives `{name}` the server's value"),
        Some(text) if milliseconds(text) == Some(0) => format!("takes `{name}` away"),
        Some(text) => format!("sets `{name}` to {text}"),
    };
    let reason = format!(
        "{what}, which the settings have at {} ms: requests for the same table would wait longer",
        limit.as_millis()
    );
    let fix = "remove the line (each head of a dump has it; manybox sets its own), or say why it is needed: \
               `-- manybox: allow raises-timeout because …`";
    raises.then(|| Finding::new(&codes::RAISES_TIMEOUT, statement.line_at(at), reason, fix))
}

/// The setting and its new value, by `SET` or `RESET` at a position, or behind it by a call of `set_config` with
/// constants.
fn set(statement: &Statement<'_>, at: usize) -> Option<(String, Option<String>)> {
    if statement.has_at(at, &["RESET"]) {
        return Some((statement.name(at + 1)?.to_ascii_lowercase(), None));
    }
    if statement.has_at(at, &["SET"]) {
        let scoped = statement.has_at(at + 1, &["SESSION"]) || statement.has_at(at + 1, &["LOCAL"]);
        let setting = at + 1 + usize::from(scoped);
        let name = statement.name(setting)?.to_ascii_lowercase();
        let value = match statement.string(setting + 2) {
            Some((text, _)) => Some(text.into_owned()),
            None if statement.has_at(setting + 2, &["DEFAULT"]) => None,
            None => Some(statement.written(setting + 2).to_owned()),
        };
        return Some((name, value));
    }
    let call = (at..statement.len()).find(|at| {
        statement.name(*at).is_some_and(|name| name == "set_config") && statement.opens_at(at + 1)
    })?;
    let (name, _) = statement.string(call + 2)?;
    let (value, _) = statement.string(call + 4)?;
    Some((name.to_ascii_lowercase(), Some(value.into_owned())))
}

/// A time as PostgreSQL reads it, in milliseconds unless it has a unit. Rounded up, so that only 0 is 0.
fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "us" => 0.001,
        "" | "ms" => 1.0,
        "s" => 1_000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    // Saturates.
    Some((number * unit).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_may_only_lower_timeouts() {
        let limits = Limits { lock_timeout: Some(Duration::from_millis(500)), statement_timeout: None };
        let found = |sql: &str| !look(&split(sql).unwrap().iter().next().unwrap(), &limits).is_empty();
        for sql in [
            "SET lock_timeout = 0",
            "SET LOCAL lock_timeout TO '1s'",
            "SET SESSION \"Lock_Timeout\" = '0.01 min'",
            "SET lock_timeout = '501'",
            "SET lock_timeout TO DEFAULT",
            "RESET lock_timeout",
            "SELECT pg_catalog.set_config('lock_timeout', '0', false)",
            "DO $$ BEGIN SET LOCAL lock_timeout = 0; END $$",
            "DO $$ BEGIN IF true THEN PERFORM set_config('lock_timeout', '1min', true); END IF; END $$",
        ] {
            assert!(found(sql), "{sql}");
        }
        for sql in [
            "SET lock_timeout = 500",
            "SET lock_timeout = '300 ms'",
            "SET lock_timeout = '10us'",
            "SET lock_timeout = rubbish",
            "SET statement_timeout = 0",
            "SELECT set_config('search_path', '', false)",
            "SET search_path = lock_timeout",
            "UPDATE t SET lock_timeout = 0",
            "DO $$ BEGIN SET LOCAL lock_timeout = '100ms'; UPDATE t SET lock_timeout = 0; END $$",
        ] {
            assert!(!found(sql), "{sql}");
        }
    }
}
