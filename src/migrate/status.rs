//! `standing`: where a database stands beside an edition, by what the catalog knows of it.

use super::{Edition, file};
use crate::tenant::Lineage;

/// Where a database stands beside an edition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "standing")]
pub enum Standing {
    /// Has exactly the edition's files.
    Current,
    /// Has the first of the edition's files, or other repeatable ones.
    Behind {
        /// How many files are still to be applied; at least 1. The repeatable ones count as one.
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
    let repeated = usize::from(edition.has_other_repeatables(&lineage.history));
    if let Some(below) = edition.gap(&lineage.history) {
        return Standing::Behind { by: below + edition.files.len() - has.len() + repeated };
    }
    // A version between two files has the digest of the lower one, but no file leads there.
    if file::parts(&lineage.history).0 != edition.versions_digest(lineage.version)
        || has.last().map_or(0, |file| file.version) != lineage.version
    {
        return Standing::Divergent;
    }
    match edition.files.len() - has.len() + repeated {
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
        let mut gaps = edition.clone();
        gaps.gaps.insert("ab".into(), vec![1]);
        assert_eq!(standing(&gaps, &at(4, "ab")), Standing::Behind { by: 1 });
        assert_eq!(standing(&gaps, &at(4, "cd")), Standing::Divergent);
        let files = [("V1__a.sql", "SELECT 1;"), ("V4__b.sql", "SELECT 2;"), ("R__v.sql", "SELECT 3;")];
        let repeats = Edition::embedded("core", &files).unwrap();
        assert_eq!(standing(&repeats, &at(4, &repeats.history_digest(4))), Standing::Current);
        assert_eq!(standing(&repeats, &at(4, &edition.history_digest(4))), Standing::Behind { by: 1 });
        assert_eq!(standing(&edition, &at(4, &repeats.history_digest(4))), Standing::Behind { by: 1 });
        assert_eq!(standing(&repeats, &at(1, &edition.history_digest(1))), Standing::Behind { by: 2 });
        assert_eq!(standing(&repeats.ending_at(1), &at(1, &edition.history_digest(1))), Standing::Current);
        let other = Lineage { edition: "lite".to_owned(), ..at(0, "") };
        assert_eq!(standing(&edition, &other), Standing::Divergent);
    }
}
