//! `File`: one migration, and the digest that a list of them has.
//!
//! Names and checksums are refinery's. This is the only file that uses that crate.

use std::hash::{Hash as _, Hasher as _};

use refinery::Migration;
use ring::digest::SHA256;
use siphasher::sip::SipHasher13;

/// The first line of a file that is run outside a transaction.
pub(super) const NO_TRANSACTION: &str = "-- manybox: no-transaction";

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// From 1; the order in which files are applied. Gaps are allowed.
    pub version: i64,
    /// What comes after `V<version>__`, without `.sql`.
    pub name: String,
    /// Its text, with line ends normalised to `\n`, so that a checkout on another system has the same checksum.
    pub sql: String,
    /// refinery's checksum over name, version and text.
    pub checksum: u64,
    /// False when the file begins with `-- manybox: no-transaction`.
    pub transactional: bool,
    /// True when it holds definitions only, after which nothing needs to be checked.
    pub inert: bool,
}

impl File {
    /// The name as refinery and messages have it: `V3__add_index.sql`.
    pub fn file_name(&self) -> String {
        format!("V{}__{}.sql", self.version, self.name)
    }
}

/// refinery's checksum of a file: a hash over its name, version and text. A history row holds it in decimal.
///
/// refinery knows versions of 32 bits unless it is built for 64, and then all its checksums are others. So smaller versions
/// have the checksum that it gives by default, larger ones the one that it gives when it is built for them.
///
/// # Errors
/// When refinery can't read the file's name.
pub(super) fn checksum(version: i64, name: &str, sql: &str) -> Result<u64, String> {
    if i32::try_from(version).is_ok() {
        let file_name = format!("V{version}__{name}.sql");
        return Migration::unapplied(&file_name, sql).map(|m| m.checksum()).map_err(|e| e.to_string());
    }
    let mut hasher = SipHasher13::new();
    (name, version, sql).hash(&mut hasher);
    Ok(hasher.finish())
}

/// Hex SHA-256 over the rows, empty for none.
pub(super) fn digest<'a>(rows: impl Iterator<Item = (i64, &'a str, u64)>) -> String {
    // A file's name holds neither tab nor newline, so no two histories give the same text.
    let text: String =
        rows.map(|(version, name, checksum)| format!("{version}\t{name}\t{checksum}\n")).collect();
    if text.is_empty() {
        return text;
    }
    ring::digest::digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
