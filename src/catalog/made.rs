//! By which version of manybox the catalog was made: older and newer ones meet in it.

use super::{CatalogError, MIGRATIONS};
use crate::pg::Sessions;

/// The number of the newest migration of the catalog that this program has.
pub const NEWEST_MIGRATION: i32 = number(MIGRATIONS[MIGRATIONS.len() - 1].0);

/// Which files the catalog was made by last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The number of the newest one.
    pub migration: i32,
    /// The version of the manybox that ran it.
    pub by: String,
}

pub(super) async fn made(sessions: &Sessions) -> Result<Option<Made>, CatalogError> {
    // A catalog of then has no such table.
    let there = "SELECT pg_catalog.to_regclass('catalog.made') IS NOT NULL";
    if !sessions.query_one(there, &[]).await?.try_get(0)? {
        return Ok(None);
    }
    let row = sessions.query_opt("SELECT migration, by FROM catalog.made", &[]).await?;
    row.map(|row| Ok(Made { migration: row.try_get(0)?, by: row.try_get(1)? })).transpose()
}

impl Made {
    /// Whether a newer manybox than this one made it.
    pub fn is_newer(made: Option<&Self>) -> bool {
        made.is_some_and(|made| made.migration > NEWEST_MIGRATION)
    }

    /// What is wrong with it for this program: a sentence that says what to do; `None` when they fit.
    pub fn misfit(made: Option<&Self>) -> Option<String> {
        let own = env!("CARGO_PKG_VERSION");
        match made {
            Some(made) if made.migration > NEWEST_MIGRATION => Some(format!(
                "the catalog was made by a newer manybox ({}, migration {}; this is {own}, migration {NEWEST_MIGRATION}): \
                 upgrade this one",
                made.by, made.migration
            )),
            Some(made) if made.migration == NEWEST_MIGRATION => None,
            older => Some(format!(
                "the catalog was made by an older manybox ({}; this is {own}, migration {NEWEST_MIGRATION}): run `manybox init`",
                older.map_or_else(
                    || "before versions were kept".to_owned(),
                    |m| format!("{}, migration {}", m.by, m.migration)
                ),
            )),
        }
    }
}

/// The number in a file's name, `V12__name.sql`.
const fn number(name: &str) -> i32 {
    let (bytes, mut at, mut number) = (name.as_bytes(), 1, 0);
    while at < bytes.len() && bytes[at].is_ascii_digit() {
        number = number * 10 + (bytes[at] - b'0') as i32;
        at += 1;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_older_is_told() {
        let made = |migration| Made { migration, by: "9.9.9".into() };
        assert_eq!(Made::misfit(Some(&made(NEWEST_MIGRATION))), None);
        let told = Made::misfit(Some(&made(NEWEST_MIGRATION + 1)));
        assert!(told.is_some_and(|told| told.contains("upgrade this one") && told.contains("9.9.9")));
        for older in [Some(&made(NEWEST_MIGRATION - 1)), None] {
            assert!(Made::misfit(older).is_some_and(|told| told.contains("manybox init")));
        }
        assert_eq!((number("V9__router.sql"), number("V12__copies.sql")), (9, 12));
    }
}
