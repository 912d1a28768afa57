//! Quantities as operators write them: bytes with units, times, and how large they may be.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Longest time of any limit: PostgreSQL's timeouts are milliseconds in 31 bits.
pub const MAX_TIME: Duration = Duration::from_millis(i32::MAX as u64);
/// Most bytes of a body or an answer: PostgreSQL takes and makes no longer value.
pub const MAX_BYTES: usize = 1 << 30;
/// Most connections, or requests: PostgreSQL has no more connections.
pub const MAX_COUNT: u32 = 262_143;

/// Units, each of 1,024 of the one before, as PostgreSQL counts them.
const UNITS: [(&str, usize); 8] = [
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
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

/// Reads a number of bytes out of a settings file.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number of bytes, or one with a unit such as \"1MB\"")]
    enum Written {
        Number(usize),
        Text(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Number(number) => Ok(number),
        Written::Text(text) => bytes(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "`{text}` is no number of bytes: expected one such as 1048576, \"512kB\", \"1MB\" or \"1GB\""
            ))
        }),
    }
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
            ("1TB", None),
            ("99999999999999999999GB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
