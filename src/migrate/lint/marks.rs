//! `Marks`: what the comments that begin with `-- manybox:` say about a file or a statement.
//!
//! A mark in the comment lines that the file begins with is the whole file's, as is one that an empty line parts from
//! the first statement. Any other belongs to the statement right below it. One that is misspelt or stands elsewhere is
//! refused, because it would silently mean nothing.

use super::codes::{self, Code, codes};
use super::finding::Finding;
use crate::migrate::statements::{Comment, Statement, Statements};

/// What a file's marks say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Marks {
    /// Each statement runs by itself, outside a transaction that manybox opens.
    pub(super) no_transaction: bool,
    /// For each statement, whether it runs in every tenant instead of in the template.
    pub(super) per_tenant: Vec<bool>,
    allows: Vec<Allow>,
}

/// One code that the file lets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Allow {
    code: &'static str,
    /// Where it is said.
    line: u64,
    /// The lines that it is about, first and last.
    lines: (u64, u64),
}

enum Instruction {
    NoTransaction,
    PerTenant,
    Allow(Vec<&'static str>),
}

/// What a mark is about.
enum Reach {
    File,
    /// Statements by their index.
    Statements(Vec<usize>),
    Nothing,
}

const FORMS: &str =
    "`-- manybox: no-transaction`, `-- manybox: per-tenant` and `-- manybox: allow CODE because REASON`";

/// Reads the marks, and says what is wrong with them.
pub(super) fn read(statements: &Statements<'_>) -> (Marks, Vec<Finding>) {
    let all: Vec<_> = statements.iter().collect();
    let mut marks = Marks { per_tenant: vec![false; all.len()], ..Marks::default() };
    let mut findings = Vec::new();
    for comment in &statements.comments {
        let Some(text) = instruction_of(comment) else { continue };
        let mut refuse = |reason: &str, fix: String| {
            findings.push(Finding::new(&codes::MARK, comment.line, reason, fix));
        };
        let instruction = match parse(text) {
            Ok(instruction) => instruction,
            Err((reason, fix)) => {
                refuse(&reason, fix);
                continue;
            }
        };
        match (instruction, reach(comment, &statements.comments, &all)) {
            (_, Reach::Nothing) => refuse(
                "is a mark that belongs to no statement",
                "put it on a line of its own right above the statement, or among the first lines for the whole file"
                    .into(),
            ),
            (Instruction::NoTransaction, Reach::File) => marks.no_transaction = true,
            (Instruction::NoTransaction, Reach::Statements(_)) => refuse(
                "marks a statement as no-transaction, which only a whole file can be",
                "put it on the first line, and what needs a transaction into another file".into(),
            ),
            (Instruction::PerTenant, Reach::File) => marks.per_tenant.fill(true),
            (Instruction::PerTenant, Reach::Statements(meant)) => {
                let per_tenant = marks.per_tenant.iter_mut().enumerate();
                per_tenant.filter(|(i, _)| meant.contains(i)).for_each(|(_, mark)| *mark = true);
            }
            (Instruction::Allow(allowed), reach) => {
                let meant = match reach {
                    Reach::Statements(meant) => meant,
                    _ => (0..all.len()).collect(),
                };
                let lines = meant.iter().filter_map(|i| all.get(*i)).fold((u64::MAX, 0), |(first, last), s| {
                    (first.min(s.line()), last.max(s.last_line()))
                });
                let line = comment.line;
                marks.allows.extend(allowed.into_iter().map(|code| Allow { code, line, lines }));
            }
        }
    }
    (marks, findings)
}

impl Marks {
    /// Whether the file lets a code pass on a line.
    pub(super) fn allows(&self, code: &Code, line: u64) -> bool {
        self.allows
            .iter()
            .any(|allow| allow.code == code.name && (allow.lines.0..=allow.lines.1).contains(&line))
    }

    /// Whether the file lets a code pass anywhere.
    pub(super) fn allows_somewhere(&self, code: &Code) -> bool {
        self.allows.iter().any(|allow| allow.code == code.name)
    }

    /// Leaves out what the file allows, and says which allowance was for nothing. `unsure` are codes that depend on the
    /// settings, of which none is asked to be there.
    pub(super) fn filter(&self, findings: Vec<Finding>, unsure: &[&str]) -> Vec<Finding> {
        let covers = |allow: &Allow, finding: &Finding| {
            allow.code == finding.code && (allow.lines.0..=allow.lines.1).contains(&finding.line)
        };
        let idle = self.allows.iter().filter(|allow| {
            !unsure.contains(&allow.code) && !findings.iter().any(|finding| covers(allow, finding))
        });
        let idle: Vec<_> = idle
            .map(|allow| {
                let reason = format!("allows `{}`, which is not found there", allow.code);
                Finding::new(&codes::UNUSED_ALLOW, allow.line, reason, "remove the line")
            })
            .collect();
        let mut kept: Vec<_> =
            findings.into_iter().filter(|f| !self.allows.iter().any(|allow| covers(allow, f))).collect();
        kept.extend(idle);
        kept
    }
}

/// The words behind `manybox:`, when a comment is meant for us.
fn instruction_of<'s>(comment: &Comment<'s>) -> Option<&'s str> {
    let (name, rest) = comment.text.split_at_checked("manybox".len())?;
    if !name.eq_ignore_ascii_case("manybox") {
        return None;
    }
    let rest = rest.trim_start();
    let known = ["no-transaction", "notransaction", "per-tenant", "allow"];
    match rest.strip_prefix(':') {
        Some(instruction) => Some(instruction.trim()),
        // A forgotten colon, and no sentence about manybox.
        None => known.iter().any(|word| rest.split_whitespace().next() == Some(word)).then_some(""),
    }
}

fn parse(text: &str) -> Result<Instruction, (String, String)> {
    let unknown = || {
        Err(("is not an instruction that manybox knows".to_owned(), format!("the known ones are {FORMS}")))
    };
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match (word, rest.trim()) {
        ("no-transaction", "") => Ok(Instruction::NoTransaction),
        ("per-tenant", "") => Ok(Instruction::PerTenant),
        ("allow", rest) => {
            let (names, reason) = match rest.split_once("because") {
                Some((names, reason)) => (names, reason.trim_matches(|c: char| !c.is_alphanumeric())),
                None => (rest, ""),
            };
            if reason.is_empty() {
                let reason = "allows something without a reason".to_owned();
                return Err((reason, "write `-- manybox: allow CODE because REASON`".into()));
            }
            let names = names.split([',', ' ', '\t']).filter(|name| !name.is_empty());
            let allowed: Vec<_> = names.map(allowed).collect::<Result<_, _>>()?;
            if allowed.is_empty() { unknown() } else { Ok(Instruction::Allow(allowed)) }
        }
        _ => unknown(),
    }
}

fn allowed(name: &str) -> Result<&'static str, (String, String)> {
    let list = || {
        let names: Vec<_> = codes().filter(|code| code.can_be_allowed()).map(|code| code.name).collect();
        format!("those that can be allowed are {}", names.join(", "))
    };
    match codes().find(|code| code.name == name) {
        Some(code) if code.can_be_allowed() => Ok(code.name),
        Some(_) => Err((format!("allows `{name}`, which always breaks a migration"), list())),
        None => Err((format!("allows `{name}`, which is no code"), list())),
    }
}

fn reach(comment: &Comment<'_>, comments: &[Comment<'_>], all: &[Statement<'_>]) -> Reach {
    if !comment.alone {
        return Reach::Nothing;
    }
    // The lines of comments right below it, and whether such lines lead from the file's first line to it.
    let lines = comments.iter().filter(|other| other.alone);
    let (mut last, mut first) = (comment.last_line, comment.line);
    for other in lines.clone().filter(|other| other.at > comment.at) {
        if other.line == last + 1 {
            last = other.last_line;
        }
    }
    let before: Vec<_> = lines.filter(|other| other.at < comment.at).collect();
    for other in before.iter().rev() {
        if other.last_line + 1 == first {
            first = other.line;
        }
    }
    let begins = all.first().is_none_or(|statement| statement.range().start > comment.at);
    let below: Vec<_> =
        (0..all.len()).filter(|i| all[*i].line() == last + 1 && all[*i].range().start > comment.at).collect();
    let inside = all.iter().any(|statement| statement.range().contains(&comment.at));
    if begins && (first == 1 || below.is_empty()) {
        Reach::File
    } else if below.is_empty() || inside {
        Reach::Nothing
    } else {
        Reach::Statements(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::statements::split;

    fn marks(sql: &str) -> (Marks, Vec<String>) {
        let (marks, findings) = read(&split(sql).unwrap());
        (marks, findings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_mark_is_the_files_or_the_statements_below_it() {
        let per_tenant = |sql: &str| {
            let (marks, findings) = marks(sql);
            assert_eq!(findings, [""; 0], "{sql}");
            marks.per_tenant
        };
        assert_eq!(per_tenant("-- manybox: per-tenant\nSELECT 1;\nSELECT 2;"), [true, true]);
        assert_eq!(per_tenant("-- Licence\n\n-- manybox: per-tenant\n\nSELECT 1;\nSELECT 2;"), [true, true]);
        assert_eq!(per_tenant("-- Licence\n\n-- manybox: per-tenant\nSELECT 1;\nSELECT 2;"), [true, false]);
        assert_eq!(per_tenant("SELECT 1;\n--manybox:per-tenant\n-- why\nSELECT 2;"), [false, true]);
        assert_eq!(
            per_tenant("SELECT 1;\n\n  /* manybox: per-tenant */\nSELECT 2; SELECT 3;\nSELECT 4"),
            [false, true, true, false]
        );
        assert!(marks("-- who\n-- manybox: no-transaction\nVACUUM t").0.no_transaction);
    }

    #[test]
    fn marks_that_would_mean_nothing_are_refused() {
        for (sql, line, hint) in [
            ("-- manybox: notransaction\nVACUUM t", 1, "no-transaction"),
            ("-- manybox no-transaction\nVACUUM t", 1, "-- manybox: no-transaction"),
            ("-- ManyBox: per_tenant\nSELECT 1", 1, "per-tenant"),
            ("-- manybox:\nSELECT 1", 1, "per-tenant"),
            ("SELECT 1;\n\n-- manybox: no-transaction\nVACUUM t", 3, "only a whole file"),
            ("SELECT 1; -- manybox: per-tenant", 1, "no statement"),
            ("SELECT 1;\n-- manybox: per-tenant\n\nSELECT 2", 2, "no statement"),
            ("SELECT 1,\n-- manybox: per-tenant\n2;", 2, "no statement"),
            ("-- manybox: allow frozen-value\nSELECT 1", 1, "without a reason"),
            ("-- manybox: allow frozen-value because …\nSELECT 1", 1, "without a reason"),
            ("-- manybox: allow all because I say so\nSELECT 1", 1, "frozen-value, "),
            ("-- manybox: allow because I say so\nSELECT 1", 1, "known ones are"),
            ("-- manybox: allow role because I say so\nSELECT 1", 1, "is no code"),
            ("-- manybox: allow session because I say so\nSELECT 1", 1, "always breaks"),
        ] {
            let (_, findings) = marks(sql);
            assert_eq!(findings.len(), 1, "{sql}: {findings:?}");
            assert!(
                findings[0].contains(&format!(":{line}: ")) && findings[0].contains(hint),
                "{findings:?}"
            );
        }
        assert_eq!(marks("-- manybox migrations run as the owner\nSELECT 1").1, [""; 0]);
    }

    #[test]
    fn an_allowance_reaches_its_lines_and_is_missed_when_idle() {
        let sql =
            "SELECT 1;\n-- manybox: allow frozen-value, whole-table because a test\nSELECT\n2;\nSELECT 3;";
        let (marks, findings) = marks(sql);
        assert_eq!(findings, [""; 0]);
        let at = |line| Finding::new(&codes::FROZEN_VALUE, line, "", "");
        let left = marks.filter(vec![at(1), at(4), at(5)], &[]);
        assert_eq!(
            left.iter().map(|f| (f.line, f.code)).collect::<Vec<_>>(),
            [(1, "frozen-value"), (5, "frozen-value"), (2, "unused-allow")]
        );
    }
}
