//! Version requirements: which versions of an edition a tenant may have to be served.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::Invalid;

/// A comparison with a version, such as `>= 12`. Versions are whole numbers, also those that are timestamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRequirement {
    comparison: Comparison,
    version: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    AtLeast,
    Above,
    Exactly,
}

impl VersionRequirement {
    /// Whether a tenant of this version is served.
    pub fn is_met_by(self, version: i64) -> bool {
        match self.comparison {
            Comparison::AtLeast => version >= self.version,
            Comparison::Above => version > self.version,
            Comparison::Exactly => version == self.version,
        }
    }
}

impl FromStr for VersionRequirement {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // The longer sign first: `>` begins both.
        let signs = [(">=", Comparison::AtLeast), (">", Comparison::Above), ("=", Comparison::Exactly)];
        let wrong = || Invalid(format!("`{text}`: expected a version such as >= 12, > 11 or = 12"));
        let (comparison, version) = signs
            .into_iter()
            .find_map(|(sign, comparison)| Some((comparison, text.trim().strip_prefix(sign)?)))
            .ok_or_else(wrong)?;
        let digits = version.trim_start();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        Ok(Self { comparison, version: digits.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for VersionRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.comparison {
            Comparison::AtLeast => ">=",
            Comparison::Above => ">",
            Comparison::Exactly => "=",
        };
        write!(f, "{sign} {}", self.version)
    }
}

impl Serialize for VersionRequirement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_holds() {
        let met = |text: &str| {
            let requirement: VersionRequirement = text.parse().unwrap();
            assert_eq!(requirement.to_string().parse(), Ok(requirement));
            [11, 12, 13].map(|version| requirement.is_met_by(version))
        };
        assert_eq!(met(">= 12"), [false, true, true]);
        assert_eq!(met(" >=12 "), [false, true, true]);
        assert_eq!(met("> 12"), [false, false, true]);
        assert_eq!(met("= 12"), [false, true, false]);
        assert!(">= 20240115180414".parse::<VersionRequirement>().unwrap().is_met_by(20_240_115_180_414));
        for wrong in
            ["", "12", ">=", "> = 12", ">= 1.2", "=> 12", "< 12", "= -1", "= +1", ">= 99999999999999999999"]
        {
            let error = wrong.parse::<VersionRequirement>().unwrap_err().to_string();
            assert!(error.contains(">= 12"), "{error}");
        }
    }
}
