//! `standing`: where a database stands beside an edition, by what the catalog knows of it.

use super::Edition;
use crate::tenant::Lineage;

/// Where a database stands beside an edition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "standing")]
pub enum Standing {
    /// Has exactly the edition's files.
    Current,
    /// Has the first of the edition's files.
    Behind {
        /// How many files are still to be applied; at least 1.
        by: usize,
    },
    /// Has a version that is newer than all of the edition's files.
    Ahead,
    /// Was made by other files than the edition's.
    Divergent,
}

/// Compares a lineage with an edition. Pure: it trusts the stored lineage. The migrator finds a database whose history
/// was changed since.
pub fn standing(edition: &Edition, lineage: &Lineage) -> Standing {
    if lineage.edition != edition.name {
        return Standing::Divergent;
    }
    if lineage.version > edition.latest() {
        return Standing::Ahead;
    }
    let has = edition.up_to(lineage.version);
    // A version between two files has the digest of the lower one, but no file leads there.
    if lineage.history != edition.history_digest(lineage.version)
        || has.last().map_or(0, |file| file.version) != lineage.version
    {
        return Standing::Divergent;
    }
    match edition.files.len() - has.len() {
        0 => Standing::Current,
        by => Standing::Behind { by },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_standing() {
        let edition =
            Edition::embedded("core", &[("V1__a.sql", "SELECT 1;"), ("V4__b.sql", "SELECT 2;")]).unwrap();
        let at = |version, history: &str| Lineage {
            edition: "core".to_owned(),
            version,
            history: history.to_owned(),
        };
        assert_eq!(standing(&edition, &at(0, "")), Standing::Behind { by: 2 });
        assert_eq!(standing(&edition, &at(1, &edition.history_digest(1))), Standing::Behind { by: 1 });
        assert_eq!(standing(&edition, &at(4, &edition.history_digest(4))), Standing::Current);
        assert_eq!(standing(&edition, &at(5, &edition.history_digest(4))), Standing::Ahead);
        assert_eq!(standing(&edition, &at(4, &edition.history_digest(1))), Standing::Divergent);
        assert_eq!(standing(&edition, &at(2, &edition.history_digest(2))), Standing::Divergent);
        assert_eq!(standing(&edition, &at(0, "ab")), Standing::Divergent);
        let other = Lineage { edition: "lite".to_owned(), ..at(0, "") };
        assert_eq!(standing(&edition, &other), Standing::Divergent);
    }
}
