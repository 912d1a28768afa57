//! The forms that values of keys have: how each is read, and how it is written again.

use std::fmt::Display;
use std::time::Duration;

use super::super::quantity::{MAX_BYTES, MAX_COUNT, MAX_TIME, MIN_DATABASE, bytes};
use super::{APP, NONE};

pub(super) fn is_json_object(text: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
}

pub(super) fn set<T>(place: &mut T, value: T) -> Option<()> {
    *place = value;
    Some(())
}

pub(super) fn names(value: &str) -> Option<Vec<String>> {
    let names: Vec<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
    names.iter().all(|name| !name.is_empty() && !name.contains('\0')).then_some(names)
}

pub(super) fn text(value: &str) -> Option<String> {
    (!value.contains('\0')).then(|| value.to_owned())
}

/// PostgreSQL takes 0 for no limit at all, and counts in milliseconds.
pub(super) fn time(value: &str) -> Option<Duration> {
    time_or_zero(value).filter(|d| d.as_millis() > 0)
}

/// A time that may be none at all.
pub(super) fn time_or_zero(value: &str) -> Option<Duration> {
    humantime::parse_duration(value).ok().filter(|d| *d <= MAX_TIME)
}

/// A number of bytes, with or without a unit.
pub(super) fn size(value: &str) -> Option<usize> {
    bytes(value).filter(|n| *n <= MAX_BYTES)
}

/// A size that a database may have.
pub(super) fn database_size(value: &str) -> Option<u64> {
    bytes(value).map(|bytes| bytes as u64).filter(|n| *n >= MIN_DATABASE)
}

/// How many there may be of something that there must be one of.
pub(super) fn count(value: &str) -> Option<u32> {
    number(value).filter(|n| (1..=MAX_COUNT).contains(n))
}

pub(super) fn number<N: std::str::FromStr>(value: &str) -> Option<N> {
    value.parse().ok()
}

/// `true` in every way in which PostgREST takes it.
pub(super) fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

pub(super) fn or_none<T>(value: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if value == NONE { Some(None) } else { read(value).map(Some) }
}

pub(super) fn url(value: &str) -> bool {
    let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    host.is_some_and(|host| !host.is_empty()) && value.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
}

/// What our own statement sets may not be set again behind it. PostgreSQL takes names in any case.
pub(super) fn may_be_hoisted(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    is_setting(&name)
        && !matches!(name.as_str(), "role" | "session_authorization" | "search_path")
        && !["request.", "response.", "pgrst.", APP].iter().any(|prefix| name.starts_with(prefix))
}

/// Whether PostgreSQL would take it as a setting's name: words separated by dots.
pub(super) fn is_setting(name: &str) -> bool {
    name.len() <= 100
        && name.split('.').all(|word| {
            word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && word.bytes().next().is_some_and(|b| !b.is_ascii_digit())
        })
}

pub(super) fn list(names: &[String]) -> String {
    if names.is_empty() { NONE.into() } else { names.join(",") }
}

pub(super) fn option(value: Option<&impl Display>) -> String {
    value.map_or_else(|| NONE.into(), ToString::to_string)
}
