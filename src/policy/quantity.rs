//! Quantities as operators write them: bytes with units, times, and how large they may be.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Longest time of any limit: PostgreSQL's timeouts are milliseconds in 31 bits.
pub const MAX_TIME: Duration = Duration::from_millis(i32::MAX as u64);
/// Most bytes of a body or an answer: PostgreSQL takes and makes no longer value.
pub const MAX_BYTES: usize = 1 << 30;
/// Least size of a database that makes sense as a limit: an empty one has more.
pub(crate) const MIN_DATABASE: u64 = 1 << 20;
/// Most connections, or requests: PostgreSQL has no more connections.
pub const MAX_COUNT: u32 = 262_143;

/// What would be right in place of a time that is shorter or longer than that.
pub(crate) fn wrong_time(value: Duration, least: Duration, most: Duration) -> Option<String> {
    let days = most.as_secs() / (24 * 3600);
    match value {
        value if value < least => Some(format!("expected {} or more", humantime::format_duration(least))),
        value if value > most => Some(format!("expected {days} days at most")),
        _ => None,
    }
}

/// Units, each of 1,024 of the one before, as PostgreSQL counts them.
const UNITS: [(&str, usize); 10] = [
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("tb", 1 << 40),
    ("gb", 1 << 30),
    ("mb", 1 << 20),
    ("kb", 1 << 10),
    ("b", 1),
    ("", 1),
];

/// A number of bytes, alone or with a unit behind it: `1048576`, `1MB`, `512 kB`, `1GiB`.
pub fn bytes(text: &str) -> Option<usize> {
    let text = text.trim().to_ascii_lowercase();
    let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number: usize = text[..text.len() - unit.len()].trim_end().parse().ok()?;
    number.checked_mul(*factor)
}

/// How a number of bytes stands in a settings file.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number of bytes, or one with a unit such as \"1MB\"")]
enum Written {
    Number(usize),
    Text(String),
}

impl Written {
    fn bytes<E: serde::de::Error>(self) -> Result<usize, E> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Text(text) => bytes(&text).ok_or_else(|| {
                E::custom(format!(
                    "`{text}` is no number of bytes: expected one such as 1048576, \"512kB\", \"1MB\" or \"1GB\""
                ))
            }),
        }
    }
}

/// Reads a number of bytes out of a settings file.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    Written::deserialize(deserializer)?.bytes()
}

/// Reads a number of bytes that may be left out.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let written = Option::<Written>::deserialize(deserializer)?;
    Ok(written.map(Written::bytes).transpose()?.map(|bytes| bytes as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("1MB", Some(1 << 20)),
            ("1 MiB", Some(1 << 20)),
            ("512kB", Some(512 << 10)),
            ("64 KB", Some(64 << 10)),
            ("3b", Some(3)),
            ("2GB", Some(2 << 30)),
            ("", None),
            ("MB", None),
            ("1.5MB", None),
            ("-1", None),
            ("1TB", Some(1 << 40)),
            ("2TiB", Some(2 << 40)),
            ("1PB", None),
            ("99999999999999999999GB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
