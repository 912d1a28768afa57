//! `File`: one migration, and the digest that a list of them has.
//!
//! Names and checksums are refinery's. This is the only file that uses that crate.

use std::borrow::Cow;
use std::hash::{Hash as _, Hasher as _};
use std::ops::Range;

use refinery::Migration;
use ring::digest::SHA256;
use siphasher::sip::SipHasher13;

use super::file_name::REPEATABLE;
use super::resumable::StepKind;

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// From 1; the order in which files are applied. Gaps are allowed. 0 for a repeatable one.
    pub version: i64,
    /// What comes after `V<version>__` or `R__`, without `.sql`.
    pub name: String,
    /// Its text, with line ends normalised to `\n`, so that a checkout on another system has the same checksum.
    pub sql: String,
    /// refinery's checksum over name, version and text; of a repeatable file one over name and text.
    pub checksum: u64,
    /// False when the file is marked `-- manybox: no-transaction`.
    pub transactional: bool,
    /// Its statements, in order.
    pub statements: Vec<FileStatement>,
    /// How each statement of a file outside transactions is run; empty for the others.
    pub(super) steps: Vec<Step>,
    /// Whether it lets rows pass that are others in each build of a template.
    pub(super) allows_frozen_rows: bool,
    /// What a squashed file takes the place of, in order of version; empty for all others.
    pub(super) replaces: Vec<Replaced>,
    /// The squashed file that takes the place of this one, which is not here: of its text there is only what runs in each
    /// tenant, as that file has it.
    pub(super) replaced_by: Option<String>,
}

/// What the history holds of a file that a squashed one takes the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) version: i64,
    pub(super) name: String,
    pub(super) checksum: u64,
}

impl Replaced {
    /// The name that the file had.
    pub(super) fn file_name(&self) -> String {
        format!("V{}__{}.sql", self.version, self.name)
    }
}

/// One statement of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStatement {
    /// Its bytes of the file's text, without the semicolon.
    pub range: Range<usize>,
    /// The line that it begins on, from 1.
    pub line: u64,
    /// Whether it is marked to run in every tenant instead of in the template.
    pub per_tenant: bool,
    /// Whether it is a `SET` or `RESET`, which the statements behind it rely on.
    pub setting: bool,
    /// Whether `-- manybox: allow raises-timeout` says why it may set timeouts above the settings'.
    pub raises_timeouts: bool,
}

/// A statement of a file outside transactions, which is run and recorded by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Its bytes of the file's text, without the semicolon.
    pub(super) range: Range<usize>,
    /// The line that it begins on, from 1.
    pub(super) line: u64,
    pub(super) kind: StepKind,
    /// Whether no request stands behind it while it waits for a lock, so that it may wait for long.
    pub(super) waits_alone: bool,
}

impl File {
    /// Whether statements of it are marked to run in every new tenant, after it has been copied.
    pub fn is_per_tenant(&self) -> bool {
        self.statements.iter().any(|statement| statement.per_tenant)
    }

    /// What of the file runs in a template: all but what is marked per-tenant, which is blanked out, so that lines and the
    /// server's positions (in characters) stay.
    pub fn in_template(&self) -> Cow<'_, str> {
        if self.is_per_tenant() {
            Cow::Owned(self.without(|statement| statement.per_tenant && !statement.setting))
        } else {
            Cow::Borrowed(&self.sql)
        }
    }

    /// Whether what of it runs in a template may make rows, or change them. Functions that definitions call are believed to make
    /// none.
    pub(super) fn may_fill(&self) -> bool {
        let fills = |statement: &&FileStatement| {
            let text = self.sql.get(statement.range.clone()).unwrap_or_default().to_ascii_lowercase();
            let mut words =
                text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
            match words.next() {
                Some("create" | "alter") => {
                    ["as", "default", "using", "generated"].iter().any(|w| text.contains(w))
                }
                Some("grant" | "revoke" | "comment" | "set" | "reset" | "drop" | "analyze" | "vacuum") => {
                    false
                }
                _ => true,
            }
        };
        self.statements
            .iter()
            .filter(|statement| !statement.per_tenant && !statement.setting)
            .any(|s| fills(&s))
    }

    /// Whether the file says why some statement of it may set timeouts above the settings'. They then hold until they
    /// are set again.
    pub fn raises_timeouts(&self) -> bool {
        self.statements.iter().any(|statement| statement.raises_timeouts)
    }

    /// The file as a template has it. Name and checksum stay, so that histories are the same.
    pub(super) fn for_template(&self) -> Self {
        if !self.is_per_tenant() {
            return self.clone();
        }
        let left_out = |statement: &&FileStatement| statement.per_tenant && !statement.setting;
        // Characters of several bytes are blanked out by one each.
        let moved = |range: &Range<usize>| {
            let before = self.statements.iter().filter(left_out).filter(|s| s.range.end <= range.start);
            let texts = before.filter_map(|statement| self.sql.get(statement.range.clone()));
            let by: usize = texts.map(|text| text.len() - text.chars().count()).sum();
            range.start - by..range.end - by
        };
        let stays =
            |range: &Range<usize>| !self.statements.iter().filter(left_out).any(|s| s.range == *range);
        let statements = self.statements.iter().filter(|statement| !left_out(statement));
        let steps: Vec<_> = self.steps.iter().filter(|step| stays(&step.range)).collect();
        let settings_only = steps.iter().all(|step| step.kind == StepKind::Setting);
        Self {
            sql: self.in_template().into_owned(),
            statements: statements
                .map(|s| FileStatement { range: moved(&s.range), per_tenant: false, ..s.clone() })
                .collect(),
            steps: steps.iter().map(|step| Step { range: moved(&step.range), ..(*step).clone() }).collect(),
            // Nothing is left that would need to be outside.
            transactional: self.transactional || settings_only,
            ..self.clone()
        }
    }

    fn without(&self, left_out: impl Fn(&FileStatement) -> bool) -> String {
        let mut text = String::with_capacity(self.sql.len());
        let mut at = 0;
        for FileStatement { range, .. } in self.statements.iter().filter(|statement| left_out(statement)) {
            text.push_str(&self.sql[at..range.start]);
            text.extend(self.sql[range.clone()].chars().map(|c| if c == '\n' { c } else { ' ' }));
            at = range.end;
        }
        text.push_str(&self.sql[at..]);
        text
    }

    /// The name as refinery and messages have it: `V3__add_index.sql`.
    pub fn file_name(&self) -> String {
        if self.is_repeatable() {
            return format!("R__{}.sql", self.name);
        }
        let kind = if self.replaces.is_empty() { 'V' } else { 'B' };
        format!("{kind}{}__{}.sql", self.version, self.name)
    }

    /// The name of the file that its text stands in: its own, unless a squashed file took its place.
    pub(super) fn text_name(&self) -> String {
        self.replaced_by.clone().unwrap_or_else(|| self.file_name())
    }

    /// Whether a squashed file took its place: it counts as applied where it was, and can't be run.
    pub fn is_replaced(&self) -> bool {
        self.replaced_by.is_some()
    }

    /// Whether it is run again whenever it has changed, behind all that have a version.
    pub fn is_repeatable(&self) -> bool {
        self.version == REPEATABLE
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
    if version != REPEATABLE && i32::try_from(version).is_ok() {
        let file_name = format!("V{version}__{name}.sql");
        return Migration::unapplied(&file_name, sql).map(|m| m.checksum()).map_err(|e| e.to_string());
    }
    let mut hasher = SipHasher13::new();
    // refinery has no repeatable files: theirs is ours to choose.
    (name, version, sql).hash(&mut hasher);
    Ok(hasher.finish())
}

/// A history in one word: of files with versions, and of repeatable ones when there are any.
pub(super) fn history(versions: &str, repeatables: &str) -> String {
    if repeatables.is_empty() { versions.to_owned() } else { format!("{versions}+{repeatables}") }
}

/// The two parts of such a word.
pub(super) fn parts(history: &str) -> (&str, &str) {
    history.split_once('+').unwrap_or((history, ""))
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
