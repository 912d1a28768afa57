//! `SquashText`: a squashed file as it is written, from the files that it takes the place of and a dump of what they make.

use std::collections::BTreeSet;

use super::edition::{Edition, EditionError};
use super::file::File;
use super::file_name;
use super::squashed::{DIGEST, PART, REPLACES, sha256};
use super::statements::{Statement, split};
use crate::pg::Ident;

/// Settings of a dump's head that files don't need, or may not set.
const SETTINGS: [&str; 8] = [
    "CLIENT_ENCODING",
    "CLIENT_MIN_MESSAGES",
    "IDLE_IN_TRANSACTION_SESSION_TIMEOUT",
    "LOCK_TIMEOUT",
    "ROW_SECURITY",
    "STANDARD_CONFORMING_STRINGS",
    "STATEMENT_TIMEOUT",
    "TRANSACTION_TIMEOUT",
];
/// Schemas that are there before any file runs.
const SCHEMAS: [&str; 2] = ["public", "extensions"];

/// Why a squashed file can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SquashError {
    /// The version or the name can't be had.
    #[error("{0}")]
    Refused(String),
    /// What was made can't be used.
    #[error("what PostgreSQL writes of this edition can't be a migration: {0}")]
    Unusable(#[from] EditionError),
}

/// A squashed file, and the edition that has it.
#[derive(Debug)]
pub struct SquashText {
    /// Its name, `B<version>__<name>.sql`.
    pub file_name: String,
    /// What it holds.
    pub text: String,
    /// The edition up to its version, with nothing but this file.
    pub edition: Edition,
}

impl Edition {
    /// What a database of nothing begins with in place of the files up to its version, where that is at most `target`; only of
    /// an edition that is for templates.
    pub(super) fn squashed_for_new(&self, target: i64) -> Option<&File> {
        let mut squashed = self.squashed.iter().map(|squashed| &squashed.file);
        squashed.rfind(|file| self.is_for_template && file.version <= target)
    }

    /// Whether new templates begin with a squashed file.
    pub fn begins_squashed(&self) -> bool {
        !self.squashed.is_empty()
    }

    /// Says which of some files a database can't be given, because a squashed one took their place and they are not here;
    /// `None` when all are.
    pub(super) fn needed<'f>(&self, files: impl Iterator<Item = &'f File>) -> Option<String> {
        let needed: Vec<_> = files.filter(|file| file.is_replaced()).collect();
        let by = needed.last()?.replaced_by.as_deref()?;
        let names = match needed.as_slice() {
            [only] => only.file_name(),
            [first, .., last] => format!("{} to {}", first.file_name(), last.file_name()),
            [] => return None,
        };
        Some(format!(
            "{names} of edition `{}` must be applied to it, and only `{by}` is here, which takes their place in new \
             templates alone: put them back for as long as a database lacks them",
            self.name
        ))
    }

    /// The same of the files that a database of this version and history lacks.
    pub fn needed_by(&self, version: i64, history: &str) -> Option<String> {
        let below = self.gaps.get(Self::versions_in(history));
        let is_lacked =
            |file: &&File| file.version > version || below.is_some_and(|below| below.contains(&file.version));
        self.needed(self.files.iter().filter(is_lacked))
    }

    /// The edition without squashed files, where all that they take the place of is here.
    #[must_use]
    pub fn by_files(&self) -> Self {
        let mut edition = self.clone();
        if !edition.files.iter().any(File::is_replaced) {
            edition.squashed.clear();
        }
        edition
    }

    /// The edition that a squashed file up to `version` is made from: its files with a version, up to there.
    ///
    /// # Errors
    /// When there is no file of that version, or a squashed one is there already.
    pub fn to_squash(&self, version: i64, name: &str) -> Result<Self, SquashError> {
        let refuse = |reason: String| Err(SquashError::Refused(reason));
        if !file_name::is_name(name) {
            return refuse(format!(
                "`{name}` can't stand in a file's name: lower-case letters, digits and underscores can"
            ));
        }
        if !self.files.iter().any(|file| file.version == version) {
            let known: Vec<_> = self.files.iter().map(|file| file.version.to_string()).collect();
            return refuse(format!(
                "edition `{}` has no file of version {version}; it has {}",
                self.name,
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            ));
        }
        if let Some(there) = self.squashed.iter().find(|squashed| squashed.file.version == version) {
            return refuse(format!(
                "`{}` is there already; delete it to make it anew",
                there.file.file_name()
            ));
        }
        Ok(self.by_files().ending_at(version).versions_only())
    }

    /// The squashed file of this edition, which [`Edition::to_squash`] gave. `dump` is what `pg_dump` wrote, as SQL with rows as
    /// INSERTs, of a database that these files made; `owner` owns what they make.
    ///
    /// # Errors
    /// When what was written can't be a migration.
    pub fn squash(
        &self,
        name: &str,
        dump: &str,
        owner: &str,
        api_roles: &[String],
    ) -> Result<SquashText, SquashError> {
        let version = self.latest();
        let file_name = format!("B{version}__{name}.sql");
        let text = compose(&self.files, dump, owner, api_roles).map_err(SquashError::Refused)?;
        let text = format!(
            "-- Made by `manybox migrate squash --edition {} --to {version}`, and proved: new templates begin with this file in\n\
             -- place of those below. Databases that ran those go on with them, and have the same history. Don't change it.\n{text}",
            self.name
        );
        let mut edition = Edition::embedded(&self.name, &[(&file_name, &text)])?;
        edition.settings.clone_from(&self.settings);
        Ok(SquashText { file_name, text, edition: edition.versions_only() })
    }
}

/// The text behind the words that it begins with.
fn compose(files: &[File], dump: &str, owner: &str, api_roles: &[String]) -> Result<String, String> {
    // The files began with less than PostgreSQL grants by itself, and a dump says what differs from that.
    let mut body = format!(
        "ALTER DEFAULT PRIVILEGES FOR ROLE {} GRANT EXECUTE ON FUNCTIONS TO PUBLIC;\n\n",
        Ident::new(owner)
    );
    let dump = without_restrict(dump);
    let statements =
        split(&dump).map_err(|(line, reason)| format!("line {line} of pg_dump's output {reason}"))?;
    let usage = usage(api_roles);
    for statement in statements.iter() {
        let text = &dump[statement.range()];
        if !is_there_before(&statement) && !usage.contains(text) {
            body.push_str(text);
            body.push_str(";\n\n");
        }
    }
    let mut parts = String::new();
    for file in files.iter().filter(|file| file.is_per_tenant()) {
        parts.push_str(&format!("{PART}{}\n\n", file.file_name()));
        for statement in file.statements.iter().filter(|statement| statement.per_tenant || statement.setting)
        {
            if statement.raises_timeouts {
                let of = file.file_name();
                parts.push_str(&format!("-- manybox: allow raises-timeout because {of} does\n"));
            }
            if statement.per_tenant {
                parts.push_str("-- manybox: per-tenant\n");
            }
            let text = file.sql.get(statement.range.clone()).unwrap_or_default();
            if text.lines().any(|line| line.starts_with(PART)) {
                return Err(format!("a line of `{}` begins with `{PART}`", file.file_name()));
            }
            parts.push_str(text);
            parts.push_str(";\n\n");
        }
    }
    if body.lines().any(|line| line.starts_with(PART)) {
        return Err(format!("a line of what is in the database begins with `{PART}`"));
    }
    let body = format!("{body}{parts}");
    let replaces: String = files
        .iter()
        .map(|file| format!("{REPLACES}V{}__{}.sql {}\n", file.version, file.name, file.checksum))
        .collect();
    Ok(format!("{replaces}{DIGEST}{}\n\n{body}", sha256(&body)))
}

/// The dump without the commands to psql that it begins and ends with.
fn without_restrict(dump: &str) -> String {
    let token = dump.lines().find_map(|line| line.strip_prefix("\\restrict "));
    let Some(token) = token else { return dump.to_owned() };
    let commands = [format!("\\restrict {token}"), format!("\\unrestrict {token}")];
    let lines = dump.lines().filter(|line| !commands.iter().any(|command| command == line));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Whether a statement of the dump is about what a file finds there, or may not touch.
fn is_there_before(statement: &Statement<'_>) -> bool {
    SETTINGS.iter().any(|name| statement.has_at(0, &["SET", name]))
        || SCHEMAS.iter().any(|name| statement.has_at(0, &["CREATE", "SCHEMA", name]) && statement.len() == 3)
        // Its text comes with the extension.
        || statement.has_at(0, &["COMMENT", "ON", "EXTENSION"])
}

/// The grants that every database begins with. Which roles it has is the settings' matter, and may change.
fn usage(api_roles: &[String]) -> BTreeSet<String> {
    let names = api_roles.iter().flat_map(|role| [role.clone(), Ident::new(role).to_string()]);
    names.flat_map(|name| SCHEMAS.map(|schema| format!("GRANT USAGE ON SCHEMA {schema} TO {name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [(&str, &str); 3] = [
        ("V1__a.sql", "CREATE TABLE t (a text);"),
        ("V2__b.sql", "SET search_path = x;\n-- manybox: per-tenant\nINSERT INTO t VALUES ('ä');"),
        ("V4__c.sql", "SELECT 4;"),
    ];
    const DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\nSET statement_timeout = 0;\n\
        SELECT pg_catalog.set_config('search_path', '', false);\nCREATE SCHEMA extensions;\n\
        CREATE TABLE public.t (a text DEFAULT '\n\\unrestrict abd;\n');\nGRANT USAGE ON SCHEMA public TO anon;\n\
        GRANT USAGE ON SCHEMA public TO other;\n\\unrestrict abc\n";

    fn edition(more: &[(&str, &str)]) -> Result<Edition, EditionError> {
        Edition::embedded("core", &[&FILES, more].concat())
    }

    fn squashed(version: i64) -> SquashText {
        let files = edition(&[]).unwrap().to_squash(version, "all").unwrap();
        files.squash("all", DUMP, "owner", &["anon".to_owned()]).unwrap()
    }

    #[test]
    fn it_stands_for_the_files_and_has_their_history() {
        let SquashText { file_name, text, edition: of } = squashed(2);
        assert_eq!(file_name, "B2__all.sql");
        for gone in ["restrict abc", "statement_timeout", "extensions", "TO anon;"] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        for there in
            ["TO other;", "unrestrict abd;", "FUNCTIONS TO PUBLIC;", "-- in each tenant, of V2__b.sql"]
        {
            assert!(text.contains(there), "{there}: {text}");
        }
        let (kept, deleted) = (edition(&[(&file_name, &text)]).unwrap(), &of);
        assert_eq!(kept.history_digest(2), deleted.history_digest(2));
        assert_eq!(kept.history_digest(4), edition(&[]).unwrap().history_digest(4));
        assert!(kept.is_per_tenant(2) && deleted.is_per_tenant(2) && !deleted.is_per_tenant(1));
        let part = &deleted.files[1];
        assert_eq!(part.file_name(), "V2__b.sql");
        let line = text.lines().position(|line| line.starts_with("INSERT INTO t")).unwrap() as u64 + 1;
        assert_eq!(
            part.statements.iter().map(|s| (s.line, s.per_tenant)).collect::<Vec<_>>(),
            [(line - 3, false), (line, true)]
        );
        // Only what has nothing begins with it, and only up to a version that has it.
        let template = kept.for_template();
        assert!(kept.squashed_for_new(4).is_none() && template.squashed_for_new(1).is_none());
        assert_eq!(template.squashed_for_new(4).unwrap().file_name(), "B2__all.sql");
        assert!(template.ending_at(1).squashed_for_new(4).is_none());
        assert_eq!(kept.needed_by(0, ""), None);
        let needed = deleted.needed_by(1, "").unwrap();
        assert!(needed.starts_with("V2__b.sql of edition") && needed.contains("B2__all.sql"), "{needed}");
        assert_eq!(deleted.needed_by(2, ""), None);
    }

    #[test]
    fn one_that_was_changed_or_does_not_fit_is_refused() {
        let SquashText { file_name, text, .. } = squashed(2);
        let refused = |file: &str, sql: &str| edition(&[(file, sql)]).unwrap_err().to_string();
        assert!(
            refused(&file_name, &text.replace("TABLE public.t", "TABLE public.u")).contains("was changed")
        );
        assert!(refused("B4__all.sql", &text).contains("up to version 4"));
        assert!(refused(&file_name, "SELECT 1;\n\n").contains("did not write"));
        assert!(
            refused(&file_name, &text.replace("replaces V1__a.sql", "replaces V1__z.sql"))
                .contains("V1__z.sql")
        );
        let SquashText { file_name, text, .. } = squashed(4);
        let late = edition(&[(&file_name, &text), ("V3__late.sql", "SELECT 3;")]).unwrap_err().to_string();
        assert!(late.contains("`V3__late.sql` stands below `B4__all.sql`"), "{late}");
        assert!(
            edition(&[])
                .unwrap()
                .to_squash(3, "all")
                .unwrap_err()
                .to_string()
                .contains("no file of version 3")
        );
        assert!(edition(&[]).unwrap().to_squash(2, "Not a name").is_err());
    }
}
