//! Squashed files: `B<version>__<name>.sql`, by which a template is begun in place of the files up to that version.
//!
//! Only what has no history yet is made by one, and has the rows of the files in its history then. So it has the same lineage
//! as a database that ran them all, and the files may be there or not.

use std::collections::BTreeMap;

use ring::digest::SHA256;

use super::file::{File, Replaced};
use super::file_name;
use super::lint::{Finding, Limits, Linter, Scope};

/// How a line of its head begins that names a file which it takes the place of; the file's name and checksum follow.
pub(super) const REPLACES: &str = "-- replaces ";
/// How the line of its head begins that says the digest of what stands behind the head.
pub(super) const DIGEST: &str = "-- sha256 ";
/// How the line begins behind which stands what one of the files does in each tenant; the file's name follows.
pub(super) const PART: &str = "-- in each tenant, of ";

/// A squashed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Squashed {
    /// What a template is begun with.
    pub(super) file: File,
    /// What the files that it takes the place of do in each tenant, by their versions.
    parts: BTreeMap<i64, File>,
}

/// Why a squashed file can't be used.
#[derive(Debug)]
pub(super) enum Unread {
    /// In words that stand behind its name.
    Reason(String),
    /// What the linter refuses.
    Findings(Vec<Finding>),
}

impl Squashed {
    /// Reads one.
    ///
    /// # Errors
    /// When `manybox migrate squash` did not write it like that, or the linter refuses what is in it.
    pub(super) fn read(
        file_name: &str,
        (version, name): (i64, String),
        text: &str,
        limits: &Limits,
    ) -> Result<Self, Unread> {
        let (replaces, head) = head(version, text).map_err(Unread::Reason)?;
        let mut findings = Vec::new();
        let mut read = |(version, name): (i64, &str), before: usize, sql: &str| {
            // Lines of messages are those of the whole file.
            let sql = format!("{}{sql}", "\n".repeat(before));
            let linted = Linter::new(*limits, Scope::Refused).lint(file_name, version, &sql);
            findings.extend(linted.findings);
            File {
                version,
                name: name.to_owned(),
                checksum: 0,
                transactional: linted.transactional,
                sql,
                statements: linted.statements,
                steps: linted.steps,
                allows_frozen_rows: false,
                replaces: Vec::new(),
                replaced_by: None,
            }
        };
        let mut sections = sections(text, head);
        let (_, before, sql) = sections.remove(0);
        let mut file = read((version, &name), before, sql);
        let mut parts = BTreeMap::new();
        for (of, before, sql) in sections {
            let of = replaces.iter().find(|replaced| replaced.file_name() == of).ok_or_else(|| {
                Unread::Reason(format!("has a part of `{of}`, which it does not take the place of"))
            })?;
            parts.insert(of.version, read((of.version, &of.name), before, sql));
        }
        file.replaces = replaces;
        if findings.is_empty() { Ok(Self { file, parts }) } else { Err(Unread::Findings(findings)) }
    }

    /// What stands for a file that is not here.
    fn stand_in(&self, replaced: &Replaced) -> File {
        let Replaced { version, name, checksum } = replaced.clone();
        let part = self.parts.get(&version);
        File {
            version,
            name,
            checksum,
            transactional: true,
            sql: part.map(|part| part.sql.clone()).unwrap_or_default(),
            statements: part.map(|part| part.statements.clone()).unwrap_or_default(),
            steps: Vec::new(),
            allows_frozen_rows: false,
            replaces: Vec::new(),
            replaced_by: Some(self.file.file_name()),
        }
    }
}

/// Reads the head: what the file takes the place of, and how many bytes the head has.
fn head(version: i64, text: &str) -> Result<(Vec<Replaced>, usize), String> {
    const NOT_OURS: &str = "is a baseline that `manybox migrate squash` did not write: make one with it; a database that is \
                            there already is adopted at a version by `manybox tenant adopt --baseline`";
    let end = text.find("\n\n").ok_or(NOT_OURS)? + 2;
    let (head, body) = text.split_at(end);
    let mut replaces = Vec::new();
    for line in head.lines() {
        let Some((name, checksum)) = line.strip_prefix(REPLACES).and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let unreadable =
            || format!("names what it takes the place of in a line that can't be read: `{line}`");
        let (version, name) = file_name::parse(name).map_err(|_| unreadable())?;
        let checksum = checksum.parse().map_err(|_| unreadable())?;
        replaces.push(Replaced { version, name, checksum });
    }
    if replaces.last().ok_or(NOT_OURS)?.version != version
        || !replaces.is_sorted_by(|a, b| a.version < b.version)
    {
        return Err(format!("does not take the place of files up to version {version}: make it anew"));
    }
    if head.lines().find_map(|line| line.strip_prefix(DIGEST)) != Some(&sha256(body)) {
        return Err("was changed since it was made, and what it makes was proved then: restore it, or delete it and run \
                    `manybox migrate squash` again; changes go into a new file"
            .into());
    }
    Ok((replaces, end))
}

/// What stands behind the head, and then each part behind its line: whose it is, how many lines come before it, its text.
fn sections(text: &str, head: usize) -> Vec<(&str, usize, &str)> {
    let (mut sections, mut of, mut start, mut at) = (Vec::new(), "", head, head);
    let lines_before = |at: usize| text[..at].matches('\n').count();
    for line in text[head..].split_inclusive('\n') {
        if let Some(next) = line.strip_prefix(PART) {
            sections.push((of, lines_before(start), &text[start..at]));
            (of, start) = (next.trim_end(), at);
        }
        at += line.len();
    }
    sections.push((of, lines_before(start), &text[start..]));
    sections
}

/// Adds what stands for files that are not here to those that are, in order of version.
///
/// # Errors
/// The file, and what is wrong with it: a squashed one was made of others than are here, or without one of them.
pub(super) fn complete(files: &mut Vec<File>, squashed: &[Squashed]) -> Result<(), (String, String)> {
    for squashed in squashed {
        let name = squashed.file.file_name();
        for replaced in &squashed.file.replaces {
            match files.binary_search_by_key(&replaced.version, |file| file.version) {
                Err(at) => files.insert(at, squashed.stand_in(replaced)),
                Ok(at) if files[at].name == replaced.name && files[at].checksum == replaced.checksum => {}
                Ok(at) => {
                    let reason = format!(
                        "was made of `{}` with checksum {}, where `{}` with checksum {} is here: restore that file, or delete \
                         this one and run `manybox migrate squash` again",
                        replaced.file_name(),
                        replaced.checksum,
                        files[at].file_name(),
                        files[at].checksum
                    );
                    return Err((name, reason));
                }
            }
        }
        let replaces = |file: &File| squashed.file.replaces.iter().any(|r| r.version == file.version);
        let below = files.iter().filter(|file| file.version <= squashed.file.version);
        if let Some(file) = below.into_iter().find(|file| !replaces(file)) {
            let reason = format!(
                "stands below `{name}`, which was made without it: give it a version over {}, or delete `{name}` and run \
                 `manybox migrate squash` again",
                squashed.file.version
            );
            return Err((file.file_name(), reason));
        }
    }
    Ok(())
}

pub(super) fn sha256(text: &str) -> String {
    ring::digest::digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
