//! `TenantId`: the opaque name of a tenant in the database server, never used twice.

use std::fmt;
use std::str::FromStr;

use crate::policy::Invalid;

/// Crockford's alphabet without the letters people misread; all of it is legal in an unquoted identifier.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: usize = 16;

/// A tenant's identity: 16 characters, 80 random bits.
///
/// Database and role names are made from it and not from the slug, because `pg_database` and `pg_roles` are
/// readable by every login of a server: a customer list would be too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(String);

impl TenantId {
    /// A new id from the operating system's random source.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn random() -> Result<Self, Invalid> {
        let mut bytes = [0_u8; LENGTH];
        getrandom::fill(&mut bytes)
            .map_err(|e| Invalid(format!("no random bytes from the operating system: {e}")))?;
        Ok(Self(bytes.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect()))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the tenant's database and of its login role, which are the same.
    pub fn database(&self) -> String {
        format!("mb_{}", self.0)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TenantId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() == LENGTH && text.bytes().all(|b| ALPHABET.contains(&b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid(format!("`{text}` is not a tenant id: expected {LENGTH} characters of 0-9 and a-z")))
        }
    }
}

impl serde::Serialize for TenantId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_parse_and_differ() {
        let (a, b) = (TenantId::random().unwrap(), TenantId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<TenantId>().unwrap(), a);
        assert_eq!(a.database().len(), 19);
    }

    #[test]
    fn what_could_leave_an_identifier_is_refused() {
        for bad in ["", "short", "0123456789abcde\"", "0123456789ABCDEF", "0123456789abcdefg"] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad}");
        }
    }
}
