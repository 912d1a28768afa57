//! Arguments that several commands take.

use std::time::Duration;

/// Longest time that anybody means.
const MAX_TIME: Duration = Duration::from_secs(3650 * 24 * 3600);

/// A time such as `90s`, `8h` or `30 days`.
///
/// # Errors
/// A sentence, when it is none, or longer than ten years.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; expected a time such as 90s, 8h or 30days"))?;
    match time <= MAX_TIME {
        true => Ok(time),
        false => Err("expected 3650 days at most".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_an_end() {
        assert_eq!(time("8h"), Ok(Duration::from_secs(8 * 3600)));
        assert!(time("8").unwrap_err().contains("90s"));
        assert!(time("90000y").unwrap_err().contains("3650 days"));
    }
}
