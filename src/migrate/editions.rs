//! `Editions`: all editions of the settings, each read by itself, so that a broken one stops only its own tenants.

use std::collections::BTreeMap;
use std::path::Path;

use super::edition::{Edition, EditionError};
use super::lint::Limits;

/// What was read of every edition, by name. A name is in one of the two.
#[derive(Debug, Default)]
pub struct Editions {
    /// Those whose files are in order.
    pub sound: BTreeMap<String, Edition>,
    /// Why the others can't be used. Nothing may be built or migrated by them.
    pub broken: BTreeMap<String, EditionError>,
}

impl Editions {
    /// Reads each edition from its own folder.
    pub fn read<'a>(folders: impl IntoIterator<Item = (&'a str, &'a Path)>, limits: &Limits) -> Self {
        let mut editions = Self::default();
        for (name, folder) in folders {
            match Edition::read(name, folder, limits) {
                Ok(edition) => drop(editions.sound.insert(name.to_owned(), edition)),
                Err(error) => drop(editions.broken.insert(name.to_owned(), error)),
            }
        }
        editions
    }

    /// Whether the settings have an edition of this name, sound or broken.
    pub fn knows(&self, name: &str) -> bool {
        self.sound.contains_key(name) || self.broken.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_edition_stops_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, sql: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, sql).unwrap();
        };
        write("a/V1__a.sql", "SELECT 1;");
        write("b/V1__b.sql", "COMMIT;");
        let [a, b, c] = ["a", "b", "c"].map(|name| folder.path().join(name));
        let editions = Editions::read([("a", a.as_path()), ("b", &b), ("c", &c)], &Limits::default());
        assert_eq!(editions.sound.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(editions.broken.keys().collect::<Vec<_>>(), ["b", "c"]);
        assert!(editions.knows("a") && editions.knows("c") && !editions.knows("d"));
    }
}
