//! `Edition`: the migration files of one line of schema versions, checked before any of them is run.

use std::path::Path;

use super::file::{self, File, NO_TRANSACTION};
use super::inert::is_inert;
use super::lint::{self, Finding};

/// Why an edition can't be used. Nothing of it has been run.
#[derive(Debug, thiserror::Error)]
pub enum EditionError {
    /// The edition's name is not one.
    #[error(
        "`{0}` is not a name of an edition: expected a lower-case letter, then letters, digits, `-` or `_`, \
         at most 40 characters"
    )]
    Name(String),
    /// A folder or file can't be read.
    #[error("edition `{edition}`: cannot read `{path}`: {source}")]
    Read {
        /// The edition.
        edition: String,
        /// What can't be read.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The folder holds something that is not a migration, or two that can't both be.
    #[error("edition `{edition}`: `{entry}` {reason}")]
    Entry {
        /// The edition.
        edition: String,
        /// The file or folder.
        entry: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// Files contain what a migration must not; one finding a line.
    #[error("edition `{edition}` is refused:{}", lines(.findings))]
    Lint {
        /// The edition.
        edition: String,
        /// Everything found, in the order of the files.
        findings: Vec<Finding>,
    },
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("\n  {finding}")).collect()
}

/// A named line of schema versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edition {
    /// The folder's name under `migrations/`.
    pub name: String,
    /// In ascending order of version.
    pub files: Vec<File>,
    /// What the linter found odd but let pass.
    pub warnings: Vec<Finding>,
}

impl Edition {
    /// Reads `<folder>/V<n>__<snake_name>.sql`. `folder` is the edition's own, `migrations/<edition>`.
    /// `README.md` and names that begin with a dot are ignored; everything else must be a migration.
    ///
    /// # Errors
    /// When the folder can't be read, holds anything else, or a file contains what [`EditionError::Lint`] lists.
    pub fn read(name: &str, folder: &Path) -> Result<Self, EditionError> {
        let unreadable = |path: &Path, source| EditionError::Read {
            edition: name.to_owned(),
            path: path.display().to_string(),
            source,
        };
        let mut texts = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|e| unreadable(folder, e))? {
            let entry = entry.map_err(|e| unreadable(folder, e))?;
            let path = entry.path();
            let file_name = entry.file_name().to_string_lossy().into_owned();
            if file_name.starts_with('.') || file_name == "README.md" {
                continue;
            }
            // Follows links: a folder of shared files linked one by one is fine, a linked folder is not.
            if !std::fs::metadata(&path).map_err(|e| unreadable(&path, e))?.is_file() {
                return Err(EditionError::Entry {
                    edition: name.to_owned(),
                    entry: file_name,
                    reason: "is not a file: an edition has no subfolders, move its migrations up".to_owned(),
                });
            }
            // Checked before it is read, so that a stray image is reported by its name and not as bad UTF-8.
            parse(name, &file_name)?;
            texts.push((file_name, std::fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?));
        }
        let texts: Vec<_> = texts.iter().map(|(file, sql)| (file.as_str(), sql.as_str())).collect();
        Self::embedded(name, &texts)
    }

    /// An edition from texts that are part of the program, under the same rules as one from a folder.
    ///
    /// # Errors
    /// As [`Edition::read`].
    pub fn embedded(name: &str, files: &[(&str, &str)]) -> Result<Self, EditionError> {
        if !is_edition(name) {
            return Err(EditionError::Name(name.to_owned()));
        }
        let entry = |entry: &str, reason: String| EditionError::Entry {
            edition: name.to_owned(),
            entry: entry.to_owned(),
            reason,
        };
        let mut parsed: Vec<(&str, File)> = Vec::with_capacity(files.len());
        for &(file_name, text) in files {
            let (version, stem) = parse(name, file_name)?;
            let sql = text.replace("\r\n", "\n");
            let mut file = File { version, name: stem, sql, checksum: 0, transactional: true, inert: false };
            file.checksum =
                file::checksum(version, &file.name, &file.sql).map_err(|e| entry(file_name, e))?;
            file.transactional = file.sql.lines().next().map(str::trim_end) != Some(NO_TRANSACTION);
            file.inert = file.transactional && is_inert(&file.sql);
            parsed.push((file_name, file));
        }
        parsed.sort_by_key(|(_, file)| file.version);
        for pair in parsed.windows(2) {
            if let [(first, a), (second, b)] = pair
                && a.version == b.version
            {
                let reason = format!("has the same version as `{first}`: give the newer one the next number");
                return Err(entry(second, reason));
            }
        }
        let mut findings = Vec::new();
        for (file_name, file) in &parsed {
            findings.extend(lint::lint(file_name, &file.sql, file.transactional));
        }
        let (warnings, refused): (Vec<_>, Vec<_>) = findings.into_iter().partition(|f| f.warning);
        if !refused.is_empty() {
            return Err(EditionError::Lint { edition: name.to_owned(), findings: refused });
        }
        let files = parsed.into_iter().map(|(_, file)| file).collect();
        Ok(Self { name: name.to_owned(), files, warnings })
    }

    /// The newest version; 0 when the edition is empty.
    pub fn latest(&self) -> i64 {
        self.files.last().map_or(0, |file| file.version)
    }

    /// The files with a version of at most `version`.
    pub(super) fn up_to(&self, version: i64) -> &[File] {
        &self.files[..self.files.partition_point(|file| file.version <= version)]
    }

    /// Hex SHA-256 over (version, name, checksum) of the files with a version of at most `up_to`; empty when there
    /// are none. A database with the same digest was made by exactly these files.
    pub fn history_digest(&self, up_to: i64) -> String {
        file::digest(self.up_to(up_to).iter().map(|f| (f.version, f.name.as_str(), f.checksum)))
    }
}

fn is_edition(name: &str) -> bool {
    name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

/// Splits `V<n>__<snake_name>.sql`. refinery would skip what it doesn't know and cut a name at its first odd
/// character, so that two files look like one; here each file is one or is refused.
fn parse(edition: &str, file_name: &str) -> Result<(i64, String), EditionError> {
    let refuse = |reason: &str| {
        Err(EditionError::Entry {
            edition: edition.to_owned(),
            entry: file_name.to_owned(),
            reason: reason.to_owned(),
        })
    };
    let shape = "is not the name of a migration: expected `V<number>__<name>.sql` with a capital V, two \
                 underscores, and lower-case letters, digits and underscores in the name";
    let Some((prefix, rest)) = file_name.split_once("__") else { return refuse(shape) };
    let Some(name) = rest.strip_suffix(".sql") else { return refuse(shape) };
    if prefix.starts_with('U') {
        return refuse(
            "is an unversioned migration, which can run in any order: give it a version, `V<number>__…`",
        );
    }
    let Some(digits) = prefix.strip_prefix('V') else { return refuse(shape) };
    let is_name = name.len() <= 200
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !is_name || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return refuse(shape);
    }
    match digits.parse::<i64>() {
        Ok(0) => refuse("has version 0, which means that nothing has been applied: begin at 1"),
        Ok(version) => Ok((version, name.to_owned())),
        Err(_) => refuse("has a version over 9223372036854775807, which the history's column can't hold"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(files: &[(&str, &str)]) -> String {
        Edition::embedded("core", files).unwrap_err().to_string()
    }

    #[test]
    fn names_that_refinery_would_skip_or_cut_are_refused() {
        for name in [
            "V2__add-col.sql",
            "v3__low.sql",
            "V1_one.sql",
            "V__x.sql",
            "V1__.sql",
            "V1__A.sql",
            "V1.5__x.sql",
            "V+1__x.sql",
            "V1__x.SQL",
            "V1__x.rs",
            "V1__x.sql.orig",
            "notes.txt",
            "V1___x.sql",
        ] {
            let error = refused(&[(name, "SELECT 1;")]);
            assert!(error.contains(name) && error.contains("V<number>__<name>.sql"), "{error}");
        }
        assert!(refused(&[("U1__x.sql", "SELECT 1;")]).contains("unversioned"));
        assert!(refused(&[("V0__x.sql", "SELECT 1;")]).contains("begin at 1"));
        assert!(refused(&[("V9223372036854775808__x.sql", "SELECT 1;")]).contains("9223372036854775807"));
        let twice = [("V1__a.sql", "SELECT 1;"), ("V01__b.sql", "SELECT 1;")];
        assert!(refused(&twice).contains("same version as `V1__a.sql`"));
        assert!(matches!(Edition::embedded("Core", &[]), Err(EditionError::Name(_))));
    }

    #[test]
    fn a_folder_may_hold_a_readme_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("README.md", "# why");
        write(".keep", "");
        write("V10__b.sql", "SELECT 10;\r\n");
        write("V2__a.sql", "SELECT 2;");
        let edition = Edition::read("core", folder.path()).unwrap();
        assert_eq!(edition.files.iter().map(|f| f.version).collect::<Vec<_>>(), [2, 10]);
        assert_eq!(edition.latest(), 10);
        assert_eq!(edition.files[1].sql, "SELECT 10;\n");
        std::fs::create_dir(folder.path().join("V11__c.sql")).unwrap();
        assert!(Edition::read("core", folder.path()).unwrap_err().to_string().contains("subfolders"));
        assert!(Edition::read("core", Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn the_digest_tells_histories_apart() {
        let one =
            Edition::embedded("core", &[("V1__a.sql", "SELECT 1;"), ("V3__b.sql", "SELECT 2;")]).unwrap();
        let two =
            Edition::embedded("core", &[("V1__a.sql", "SELECT 1;"), ("V3__b.sql", "SELECT 3;")]).unwrap();
        assert_eq!(one.history_digest(0), "");
        assert_eq!(one.history_digest(1).len(), 64);
        assert_eq!(one.history_digest(1), one.history_digest(2));
        assert_eq!(one.history_digest(2), two.history_digest(2));
        assert_ne!(one.history_digest(3), two.history_digest(3));
        // Fixed: stored in catalogs, and refinery's checksum stored in every database's history.
        assert_eq!(one.files[0].checksum, 17_487_863_982_594_259_854);
    }
}
