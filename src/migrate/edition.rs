//! `Edition`: the migration files of one line of schema versions, checked before any of them is run.

use std::collections::BTreeMap;
use std::path::Path;

use super::file::{self, File};
use super::file_name::{self, REPEATABLE};
use super::lint::{Finding, Limits, Linter, Scope};
use super::squashed::{self, Squashed};

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
        /// What is refused, in the order of the files.
        findings: Vec<Finding>,
        /// What was found odd besides.
        warnings: Vec<Finding>,
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
    /// Those that have a version, in ascending order of it.
    pub files: Vec<File>,
    /// Those that are run behind them, and again whenever they have changed, in order of their names.
    pub repeatables: Vec<File>,
    /// Squashed files, in ascending order of version: what new templates begin with in place of the files up to there.
    pub(super) squashed: Vec<Squashed>,
    /// Whether it is what templates are made by.
    pub(super) is_for_template: bool,
    /// Whether it ends below its newest version: repeatable files are written for that, and left alone before.
    ends_early: bool,
    /// Settings of PostgreSQL that its files run with, by name.
    pub settings: BTreeMap<String, String>,
    /// Histories, by their digest, that lack nothing but files below their newest version, with the versions of these: databases
    /// that have one are behind and not divergent, because these files may be applied out of order.
    pub gaps: BTreeMap<String, Vec<i64>>,
    /// The timeouts that its files may not raise.
    limits: Limits,
}

impl Edition {
    /// Reads `<folder>/V<n>__<snake_name>.sql`, `R__<snake_name>.sql` and `B<n>__<snake_name>.sql`. `folder` is the edition's own, `migrations/<edition>`.
    /// `README.md` and names that begin with a dot are ignored; everything else must be a migration.
    ///
    /// # Errors
    /// When the folder can't be read, holds anything else, or a file contains what [`EditionError::Lint`] lists.
    pub fn read(name: &str, folder: &Path, limits: &Limits) -> Result<Self, EditionError> {
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
            let refuse = |reason: String| EditionError::Entry {
                edition: name.to_owned(),
                entry: file_name.clone(),
                reason,
            };
            // Follows links: a folder of shared files linked one by one is fine, a linked folder is not.
            if !std::fs::metadata(&path).map_err(|e| unreadable(&path, e))?.is_file() {
                return Err(refuse(
                    "is not a file: an edition has no subfolders, move its migrations up".into(),
                ));
            }
            // Checked before it is read, so that a stray image is reported by its name and not as bad UTF-8.
            if file_name::parse_squashed(&file_name).is_none() {
                file_name::parse(&file_name).map_err(refuse)?;
            }
            texts.push((file_name, std::fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?));
        }
        let texts: Vec<_> = texts.iter().map(|(file, sql)| (file.as_str(), sql.as_str())).collect();
        Self::checked(name, &texts, limits)
    }

    /// An edition from texts that are part of the program, under the same rules as one from a folder.
    ///
    /// # Errors
    /// As [`Edition::read`].
    pub fn embedded(name: &str, files: &[(&str, &str)]) -> Result<Self, EditionError> {
        Self::checked(name, files, &Limits::default())
    }

    fn checked(name: &str, texts: &[(&str, &str)], limits: &Limits) -> Result<Self, EditionError> {
        if !is_edition(name) {
            return Err(EditionError::Name(name.to_owned()));
        }
        let entry = |entry: &str, reason: String| EditionError::Entry {
            edition: name.to_owned(),
            entry: entry.to_owned(),
            reason,
        };
        let (mut parsed, mut squashed) = (Vec::with_capacity(texts.len()), Vec::new());
        for &(file_name, text) in texts {
            if let Some(of) = file_name::parse_squashed(file_name) {
                let read = Squashed::read(file_name, of, &text.replace("\r\n", "\n"), limits);
                squashed.push(read.map_err(|unread| match unread {
                    squashed::Unread::Reason(reason) => entry(file_name, reason),
                    squashed::Unread::Findings(findings) => {
                        EditionError::Lint { edition: name.to_owned(), findings, warnings: Vec::new() }
                    }
                })?);
                continue;
            }
            let (version, stem) = file_name::parse(file_name).map_err(|reason| entry(file_name, reason))?;
            parsed.push((file_name, version, stem, text.replace("\r\n", "\n")));
        }
        // The linter knows what a file may use by those that run before it.
        parsed.sort_by(|(_, a, a_name, _), (_, b, b_name, _)| {
            (*a == REPEATABLE, a, a_name).cmp(&(*b == REPEATABLE, b, b_name))
        });
        for pair in parsed.windows(2) {
            if let [(first, a, ..), (second, b, ..)] = pair
                && a == b
                && *a != REPEATABLE
            {
                let reason = format!("has the same version as `{first}`: give the newer one the next number");
                return Err(entry(second, reason));
            }
        }
        let mut linter = Linter::new(*limits, Scope::Refused);
        let (mut files, mut repeatables, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for (file_name, version, stem, sql) in parsed {
            let linted = linter.lint(file_name, version, &sql);
            refused.extend(linted.findings);
            let of_kind = if version == REPEATABLE { &mut repeatables } else { &mut files };
            of_kind.push(File {
                version,
                checksum: file::checksum(version, &stem, &sql).map_err(|e| entry(file_name, e))?,
                name: stem,
                transactional: linted.transactional,
                sql,
                statements: linted.statements,
                steps: linted.steps,
                allows_frozen_rows: linted.allows_frozen_rows,
                replaces: Vec::new(),
                replaced_by: None,
            });
        }
        squashed.sort_by_key(|squashed| squashed.file.version);
        squashed::complete(&mut files, &squashed).map_err(|(file, reason)| entry(&file, reason))?;
        let edition = Self {
            name: name.to_owned(),
            files,
            repeatables,
            squashed,
            is_for_template: false,
            ends_early: false,
            settings: BTreeMap::new(),
            gaps: BTreeMap::new(),
            limits: *limits,
        };
        if refused.is_empty() {
            return Ok(edition);
        }
        let (name, warnings) = (name.to_owned(), edition.warnings(0));
        Err(EditionError::Lint { edition: name, findings: refused, warnings })
    }

    /// What the linter finds odd in files above a version, and in repeatable ones, but lets pass, in the order of the files. Reads the whole
    /// edition once more and parses its definitions, so it is asked only where somebody reads the answer.
    pub fn warnings(&self, above: i64) -> Vec<Finding> {
        let mut linter = Linter::new(self.limits, Scope::Above(above));
        // What it defines is known, and there is nothing to say of it: nothing but new templates is made by it.
        if let Some(squashed) = self.squashed.iter().rfind(|_| self.files.iter().any(File::is_replaced)) {
            linter.lint(&squashed.file.file_name(), squashed.file.version, &squashed.file.sql);
        }
        let found = self
            .files
            .iter()
            .filter(|file| !file.is_replaced())
            .chain(&self.repeatables)
            .flat_map(|file| linter.lint(&file.file_name(), file.version, &file.sql).findings);
        found.filter(|finding| finding.warning).collect()
    }

    /// Of the warnings those about random values that a template made by these files has, and all its copies.
    pub fn frozen_values(&self, above: i64) -> Vec<Finding> {
        let mut found = self.warnings(above);
        found.retain(Finding::is_frozen_value);
        found
    }

    /// The edition as templates are made by it: without what is marked to run in each tenant. Names and checksums stay, so
    /// that histories are the same.
    pub fn for_template(&self) -> Self {
        let files = self.files.iter().map(File::for_template).collect();
        Self { files, is_for_template: true, ..self.clone() }
    }

    /// Whether files up to `version` have what is marked to run in each tenant.
    pub fn is_per_tenant(&self, version: i64) -> bool {
        self.up_to(version).iter().any(File::is_per_tenant)
    }

    /// The newest version; 0 when the edition is empty.
    pub fn latest(&self) -> i64 {
        self.files.last().map_or(0, |file| file.version)
    }

    /// The edition as it was when `version` was its newest. Below its newest its repeatable files are left alone.
    #[must_use]
    pub fn ending_at(&self, version: i64) -> Self {
        let ends_early = self.ends_early || version < self.latest();
        let repeatables = if ends_early { Vec::new() } else { self.repeatables.clone() };
        let squashed = self.squashed.iter().filter(|squashed| squashed.file.version <= version);
        Self {
            files: self.up_to(version).to_vec(),
            squashed: squashed.cloned().collect(),
            repeatables,
            ends_early,
            ..self.clone()
        }
    }

    /// The edition without its repeatable files, which are left alone.
    #[must_use]
    pub fn versions_only(&self) -> Self {
        Self { repeatables: Vec::new(), ends_early: true, ..self.clone() }
    }

    /// Whether its repeatable files are run, and those that it does not have any more forgotten, in a database that is brought up
    /// to `target`.
    pub(super) fn repeats(&self, target: Option<i64>) -> bool {
        !self.ends_early && target.is_none_or(|target| target >= self.latest())
    }

    /// How many files a database of this history lacks below its newest version, when these may be applied out of order.
    pub fn gap(&self, history: &str) -> Option<usize> {
        self.gaps.get(file::parts(history).0).map(Vec::len)
    }

    /// The files with a version of at most `version`.
    pub(super) fn up_to(&self, version: i64) -> &[File] {
        &self.files[..self.files.partition_point(|file| file.version <= version)]
    }

    /// Hex SHA-256 over (version, name, checksum) of the files with a version of at most `up_to`; empty when there
    /// are none. A database with the same digest was made by exactly these files. At the newest version, `+` and a digest of the
    /// repeatable files stand behind it when there are any.
    pub fn history_digest(&self, up_to: i64) -> String {
        let versions = self.versions_digest(up_to);
        if up_to < self.latest() { versions } else { file::history(&versions, &self.repeatables_digest()) }
    }

    /// The same of the files with a version alone.
    pub(super) fn versions_digest(&self, up_to: i64) -> String {
        file::digest(self.up_to(up_to).iter().map(|f| (f.version, f.name.as_str(), f.checksum)))
    }

    /// Of the repeatable files alone; empty when there are none.
    pub(super) fn repeatables_digest(&self) -> String {
        file::digest(self.repeatables.iter().map(|f| (f.version, f.name.as_str(), f.checksum)))
    }

    /// What a history's digest says of files with a version.
    pub(super) fn versions_in(history: &str) -> &str {
        file::parts(history).0
    }

    /// What a history's digest says of repeatable files; empty when none was run.
    pub fn repeatables_in(history: &str) -> &str {
        file::parts(history).1
    }

    /// Whether a database of this history has other repeatable files than these; of an edition that ends early it does not matter.
    pub fn has_other_repeatables(&self, history: &str) -> bool {
        !self.ends_early && file::parts(history).1 != self.repeatables_digest()
    }
}

fn is_edition(name: &str) -> bool {
    name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(files: &[(&str, &str)]) -> String {
        Edition::embedded("core", files).unwrap_err().to_string()
    }

    #[test]
    fn a_version_is_taken_once() {
        let twice = [("V1__a.sql", "SELECT 1;"), ("V01__b.sql", "SELECT 1;")];
        assert!(refused(&twice).contains("same version as `V1__a.sql`"));
        assert!(refused(&[("V2__add-col.sql", "SELECT 1;")]).contains("`V2__add-col.sql` is not"));
        assert!(matches!(Edition::embedded("Core", &[]), Err(EditionError::Name(_))));
    }

    #[test]
    fn a_file_says_what_runs_in_each_tenant() {
        let sql = "CREATE TABLE s (k text);\nSET search_path = 'ä';\n\n-- manybox: per-tenant\nINSERT INTO s\nVALUES (1);\nSELECT 2;";
        let edition = Edition::embedded("core", &[("V1__a.sql", sql)]).unwrap();
        let file = &edition.files[0];
        assert_eq!(
            file.statements.iter().map(|s| s.per_tenant).collect::<Vec<_>>(),
            [false, false, true, false]
        );
        // What is blanked out keeps its place, so that the server's positions still point at it.
        assert!(!file.in_template().contains("INSERT") && file.in_template().contains("SELECT 2;"));
        assert_eq!(file.in_template().chars().count(), sql.chars().count());
        let edition = Edition::embedded("core", &[("V1__a.sql", "SELECT 1;")]).unwrap();
        assert!(!edition.files[0].is_per_tenant());
        assert_eq!(edition.files[0].in_template(), "SELECT 1;");
    }

    #[test]
    fn a_folder_may_hold_a_readme_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("README.md", "# why");
        write(".keep", "");
        write("V10__b.sql", "SELECT 10;\r\n");
        write("V2__a.sql", "SELECT 2;");
        let edition = Edition::read("core", folder.path(), &Limits::default()).unwrap();
        assert_eq!(edition.files.iter().map(|f| f.version).collect::<Vec<_>>(), [2, 10]);
        assert_eq!(edition.latest(), 10);
        assert_eq!(edition.files[1].sql, "SELECT 10;\n");
        std::fs::create_dir(folder.path().join("V11__c.sql")).unwrap();
        assert!(
            Edition::read("core", folder.path(), &Limits::default())
                .unwrap_err()
                .to_string()
                .contains("subfolders")
        );
        assert!(
            Edition::read("core", Path::new("/nowhere"), &Limits::default())
                .unwrap_err()
                .to_string()
                .contains("/nowhere")
        );
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

    #[test]
    fn repeatable_files_stand_behind_all_versions() {
        let v = [("V1__a.sql", "SELECT 1;"), ("V2__b.sql", "SELECT 2;")];
        let read = |more: &[(&str, &str)]| Edition::embedded("core", &[&v, more].concat()).unwrap();
        let none = read(&[]);
        let one = read(&[("R__views.sql", "CREATE VIEW v AS SELECT 1;")]);
        let two = read(&[("R__views.sql", "CREATE VIEW v AS SELECT 1;"), ("R__a.sql", "SELECT 1;")]);
        assert_eq!(
            two.repeatables.iter().map(File::file_name).collect::<Vec<_>>(),
            ["R__a.sql", "R__views.sql"]
        );
        assert_eq!(two.files.len(), 2);
        assert_eq!(one.history_digest(1), none.history_digest(1));
        assert!(one.history_digest(2).starts_with(&format!("{}+", none.history_digest(2))));
        assert_ne!(one.history_digest(2), two.history_digest(2));
        assert_eq!(one.ending_at(2), one);
        assert_eq!(one.ending_at(1).history_digest(1), none.history_digest(1));
        for (file, sql) in [
            ("R__x.sql", "-- manybox: no-transaction\nVACUUM t;"),
            ("R__x.sql", "-- manybox: per-tenant\n\nSELECT 1;"),
        ] {
            assert!(refused(&[(file, sql)]).contains("R__x.sql:1: "), "{sql}");
        }
    }

    #[test]
    fn a_template_is_made_without_what_is_marked() {
        let sql = "CREATE TABLE a (b text);\n\n-- manybox: per-tenant\n\
                   INSERT INTO a VALUES ('größe');\nCREATE INDEX x ON a (b);";
        let marked = "-- manybox: per-tenant\nSET lock_timeout = '1s';\nINSERT INTO a VALUES ('ß');";
        let edition = Edition::embedded("core", &[("V1__a.sql", sql), ("V2__b.sql", marked)]).unwrap();
        let template = edition.for_template();
        assert_eq!(template.history_digest(2), edition.history_digest(2));
        assert!(edition.is_per_tenant(1) && !template.is_per_tenant(2));
        let [first, second] = template.files.as_slice() else { panic!() };
        let wanted = ["CREATE TABLE a (b text)", "CREATE INDEX x ON a (b)"];
        let statements: Vec<_> = first.statements.iter().map(|s| &first.sql[s.range.clone()]).collect();
        assert_eq!(statements, wanted);
        assert!(second.sql.contains("SET lock_timeout") && !second.sql.contains("INSERT"));
    }
}
