//! What is dangerous on a live database: locks that requests wait for, tables that are read or written whole, names
//! that requests use. Said and not refused, because a small table bears it.
//!
//! squawk's linter knows most of it. It gets the definitions only, with everything else blanked out, so that lines stay
//! and rows by the thousand are not parsed.

use std::thread;

use squawk_linter::{Linter, LinterSettings, Rule, Violation};
use squawk_syntax::SourceFile;
use squawk_syntax::syntax_error::SyntaxError;

use super::codes::{self, Code};
use super::finding::Finding;
use super::tables::created_table;
use crate::migrate::statements::Statement;

/// The oldest PostgreSQL that there is to migrate.
const OLDEST: &str = "15";

/// squawk's parser calls itself for what is nested, so its stack decides how deep that may be.
const STACK: usize = 256 << 20;

/// Tokens and open parentheses of a statement beyond which squawk does not see it.
const LONGEST: usize = 10_000;
const DEEPEST: usize = 200;

/// Looks at a whole file, because what it has made itself holds nobody up.
pub(super) fn look(sql: &str, statements: &[Statement<'_>], transactional: bool) -> Vec<Finding> {
    let made: Vec<_> = statements.iter().filter_map(|s| Some(created_table(s)?.0)).collect();
    let mut findings: Vec<_> = statements.iter().filter_map(|statement| ours(statement, &made)).collect();
    let (read, unread): (Vec<&Statement<'_>>, Vec<&Statement<'_>>) = statements
        .iter()
        .filter(|statement| is_definition(statement))
        .partition(|statement| is_readable(statement));
    findings.extend(unread.into_iter().map(|statement| hazards_unread(statement.line(), "is too long")));
    if read.is_empty() {
        return findings;
    }
    let text = only(sql, &read);
    let Some((violations, errors)) = squawk(text, transactional) else {
        findings.push(hazards_unread(read[0].line(), "and what follows stopped the linter"));
        return findings;
    };
    let line_of = |offset: usize| sql.bytes().take(offset).filter(|byte| *byte == b'\n').count() as u64 + 1;
    let mut lines: Vec<_> = errors.iter().map(|error| line_of(error.range().start().into())).collect();
    lines.dedup();
    findings.extend(lines.into_iter().map(|line| hazards_unread(line, "is not in the linter's grammar")));
    for violation in &violations {
        let offset = usize::from(violation.text_range.start());
        let Some(statement) = read.iter().find(|s| s.range().contains(&offset)) else { continue };
        if !is_made_again(statement, statements) && !is_said_better(violation, &violations) {
            findings.extend(theirs(violation, line_of(offset)));
        }
    }
    findings
}

/// What squawk does not know, or knows of newer servers only.
fn ours(statement: &Statement<'_>, made: &[String]) -> Option<Finding> {
    let found =
        |code: &Code, reason: &str, fix: &str| Some(Finding::new(code, statement.line(), reason, fix));
    let at = |i| statement.keyword(i).unwrap_or_default();
    match (at(0).as_str(), at(1).as_str()) {
        ("UPDATE", _) | ("DELETE", "FROM") => {
            let target = if at(0) == "UPDATE" { 1 } else { 2 };
            let target = target + usize::from(statement.has_at(target, &["ONLY"]));
            let (_, table, _) = statement.qualified_name(target)?;
            if made.contains(&table) || statement.has("WHERE") {
                return None;
            }
            found(
                &codes::WHOLE_TABLE,
                "changes every row in one transaction, which locks them all until it ends",
                "go through the rows in batches: a `DO` block with `COMMIT`, in a file marked no-transaction",
            )
        }
        ("LOCK", _) => {
            let weak = [["ACCESS", "SHARE"], ["ROW", "SHARE"], ["ROW", "EXCLUSIVE"]];
            if weak.iter().any(|[a, b]| statement.has_pair(a, b)) {
                return None;
            }
            found(
                &codes::LOCK_TABLE,
                "locks a table until the file ends, and requests wait for it",
                "leave it out, or keep the file short",
            )
        }
        ("REFRESH", _) if !statement.has("CONCURRENTLY") => found(
            &codes::BLOCKING_REFRESH,
            "reading the view waits until it is filled anew",
            "give it a unique index and write `REFRESH MATERIALIZED VIEW CONCURRENTLY`",
        ),
        ("VACUUM", _) if statement.has("FULL") => found(&codes::REWRITES_TABLE, REWRITES, QUIET),
        ("CLUSTER", _) => found(&codes::REWRITES_TABLE, REWRITES, QUIET),
        ("ALTER", "TABLE") => {
            let rewrites = [["SET", "LOGGED"], ["SET", "UNLOGGED"], ["SET", "TABLESPACE"], ["SET", "ACCESS"]];
            let table = (2..6).find_map(|i| statement.name(i).filter(|name| made.contains(name)));
            if table.is_some() || !rewrites.iter().any(|[a, b]| statement.has_pair(a, b)) {
                return None;
            }
            found(&codes::REWRITES_TABLE, REWRITES, QUIET)
        }
        _ => None,
    }
}

const REWRITES: &str = "writes the table anew, and shuts everybody out of it for as long";
const QUIET: &str = "do it at a quiet hour, or by a tool that copies beside the traffic";

fn hazards_unread(line: u64, why: &str) -> Finding {
    let reason =
        format!("the statement {why}, so nobody has looked whether it is dangerous on a live database");
    Finding::new(&codes::HAZARDS_UNREAD, line, reason, "look at it yourself")
}

/// Whether it defines something of which squawk knows what is dangerous.
fn is_definition(statement: &Statement<'_>) -> bool {
    let at = |i| statement.keyword(i).unwrap_or_default();
    let second = at(1);
    match at(0).as_str() {
        "CREATE" => {
            created_table(statement).is_some() || matches!(second.as_str(), "INDEX" | "UNIQUE" | "DOMAIN")
        }
        "ALTER" => {
            matches!(second.as_str(), "TABLE" | "FOREIGN" | "DOMAIN" | "VIEW" | "MATERIALIZED" | "FUNCTION")
        }
        "DROP" => matches!(
            second.as_str(),
            "TABLE" | "FOREIGN" | "VIEW" | "MATERIALIZED" | "FUNCTION" | "PROCEDURE" | "SCHEMA" | "INDEX"
        ),
        "REINDEX" | "TRUNCATE" => true,
        _ => false,
    }
}

fn is_readable(statement: &Statement<'_>) -> bool {
    let (mut depth, mut deepest) = (0_usize, 0);
    for at in 0..statement.len() {
        match statement.written(at) {
            "(" | "[" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    statement.len() <= LONGEST && deepest <= DEEPEST
}

/// The text with nothing but these statements in it, each where it was.
fn only(sql: &str, statements: &[&Statement<'_>]) -> String {
    let blank = |text: &str| text.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect::<String>();
    let (mut text, mut at) = (String::with_capacity(sql.len()), 0);
    for statement in statements {
        let range = statement.range();
        text.push_str(&blank(&sql[at..range.start]));
        text.push_str(&sql[range.clone()]);
        at = range.end;
        // The semicolon between it and the next, which is blanked out with everything else.
        if sql.as_bytes().get(at).is_some_and(u8::is_ascii) {
            text.push(';');
            at += 1;
        }
    }
    text.push_str(&blank(&sql[at..]));
    text
}

/// Asks squawk. `None` when it gave up, which concerns nothing but its advice.
fn squawk(text: String, transactional: bool) -> Option<(Vec<Violation>, Vec<SyntaxError>)> {
    let rules: Vec<_> = codes::SQUAWK.iter().filter_map(|(code, _)| Rule::try_from(code.name).ok()).collect();
    let asked = thread::Builder::new().stack_size(STACK).spawn(move || {
        let parsed = SourceFile::parse(&text);
        let mut linter = Linter::from(rules);
        linter.settings = LinterSettings {
            pg_version: OLDEST.parse().unwrap_or_default(),
            assume_in_transaction: transactional,
        };
        (linter.lint(&parsed, &text), parsed.errors())
    });
    asked.ok()?.join().ok()
}

/// A finding of squawk's in our words.
fn theirs(violation: &Violation, line: u64) -> Option<Finding> {
    let name = violation.code.to_string();
    let (code, fix) = codes::SQUAWK.iter().find(|(code, _)| code.name == name)?;
    let mut reason = violation.message.trim_end_matches('.').to_owned();
    // It stands behind a colon.
    if reason.chars().nth(1).is_some_and(char::is_lowercase) {
        reason.replace_range(..1, &reason[..1].to_lowercase());
    }
    Some(Finding::new(code, line, reason, *fix))
}

/// Whether another rule says more of the same place.
fn is_said_better(violation: &Violation, violations: &[Violation]) -> bool {
    let better = [
        Rule::AddingForeignKeyConstraint,
        Rule::DisallowedUniqueConstraint,
        Rule::AddingSerialPrimaryKeyField,
        Rule::AddingNotNullableField,
    ];
    violation.code == Rule::ConstraintMissingNotValid
        && violations.iter().any(|other| {
            better.contains(&other.code) && other.text_range.intersect(violation.text_range).is_some()
        })
}

/// Whether a file drops a view or a function only to make it anew, which nobody sees before it is committed.
fn is_made_again(dropped: &Statement<'_>, statements: &[Statement<'_>]) -> bool {
    let kind = dropped.keyword(1).unwrap_or_default();
    if !dropped.has_at(0, &["DROP"]) || !matches!(kind.as_str(), "VIEW" | "FUNCTION" | "PROCEDURE") {
        return false;
    }
    let at = if dropped.has_at(2, &["IF", "EXISTS"]) { 4 } else { 2 };
    let Some((_, name, _)) = dropped.qualified_name(at) else { return false };
    statements.iter().filter(|other| other.range().start > dropped.range().start).any(|other| {
        let made = other.find(0, &[&kind]).filter(|_| other.has_at(0, &["CREATE"]));
        made.and_then(|i| other.qualified_name(i + 1)).is_some_and(|(_, made, _)| made == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::statements::split;

    fn seen(sql: &str, transactional: bool) -> Vec<(u64, &'static str)> {
        let statements = split(sql).unwrap();
        let statements: Vec<_> = statements.iter().collect();
        look(sql, &statements, transactional).iter().map(|finding| (finding.line, finding.code)).collect()
    }

    #[test]
    fn every_code_is_a_rule_of_squawks() {
        for (code, fix) in codes::SQUAWK {
            assert!(Rule::try_from(code.name).is_ok() && !fix.is_empty(), "{}", code.name);
        }
    }

    #[test]
    fn what_is_dangerous_on_a_live_database_is_said() {
        for (sql, code) in [
            ("ALTER TABLE t ADD COLUMN a uuid DEFAULT gen_random_uuid()", "adding-field-with-default"),
            ("ALTER TABLE t ADD COLUMN a int NOT NULL", "adding-required-field"),
            ("ALTER TABLE t ALTER COLUMN a TYPE bigint", "changing-column-type"),
            ("ALTER TABLE t ALTER COLUMN a SET NOT NULL", "adding-not-nullable-field"),
            ("ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u", "adding-foreign-key-constraint"),
            ("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0)", "constraint-missing-not-valid"),
            ("ALTER TABLE t ADD CONSTRAINT c UNIQUE (a)", "disallowed-unique-constraint"),
            ("ALTER TABLE t ADD PRIMARY KEY (a)", "adding-serial-primary-key-field"),
            ("CREATE INDEX i ON t (a)", "require-concurrent-index-creation"),
            ("DROP INDEX i", "require-concurrent-index-deletion"),
            ("ALTER TABLE t DROP COLUMN a", "ban-drop-column"),
            ("DROP TABLE t", "ban-drop-table"),
            ("DROP VIEW v", "ban-drop-view"),
            ("DROP FUNCTION f()", "ban-drop-function"),
            ("ALTER TABLE t RENAME COLUMN a TO b", "renaming-column"),
            ("ALTER TABLE t RENAME TO u", "renaming-table"),
            ("ALTER TABLE p DETACH PARTITION q", "require-concurrent-partition-detach"),
            ("REINDEX TABLE t", "require-concurrent-reindex"),
            ("TRUNCATE t CASCADE", "ban-truncate-cascade"),
            ("UPDATE t SET a = 1", "whole-table"),
            ("DELETE FROM ONLY t", "whole-table"),
            ("LOCK TABLE t IN SHARE MODE", "lock-table"),
            ("REFRESH MATERIALIZED VIEW v", "blocking-refresh"),
            ("CLUSTER t USING i", "rewrites-table"),
            ("ALTER TABLE t SET UNLOGGED", "rewrites-table"),
        ] {
            let padded = format!("SELECT 'ä; ALTER TABLE';\n\n  {sql};\nSELECT 1;");
            assert_eq!(seen(&padded, true), [(3, code)], "{sql}");
        }
        assert_eq!(seen("VACUUM (FULL) t", false), [(1, "rewrites-table")]);
    }

    #[test]
    fn what_holds_nobody_up_is_not_mentioned() {
        for sql in [
            "CREATE TABLE t (a int NOT NULL REFERENCES u, b text UNIQUE); CREATE INDEX ON t (a); UPDATE t SET a = 1",
            "ALTER TABLE t ADD COLUMN a int DEFAULT 0",
            "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID",
            "UPDATE t SET a = 1 WHERE b = 2",
            "DROP VIEW v; CREATE VIEW v AS SELECT 1",
            "DROP FUNCTION IF EXISTS f(int); CREATE OR REPLACE FUNCTION f() RETURNS int RETURN 1",
            "LOCK TABLE t IN ROW EXCLUSIVE MODE",
            "INSERT INTO t VALUES ('DROP TABLE t')",
        ] {
            assert_eq!(seen(sql, true), [], "{sql}");
        }
        assert_eq!(seen("CREATE INDEX CONCURRENTLY i ON t (a); DROP INDEX CONCURRENTLY i", false), []);
    }

    #[test]
    fn what_could_not_be_read_is_said() {
        let deep = format!("ALTER TABLE t ADD CHECK ({}1{}) NOT VALID", "(".repeat(9_000), ")".repeat(9_000));
        assert_eq!(seen(&deep, true), [(1, "hazards-unread")]);
        assert_eq!(seen("SELECT 1;\nALTER TABLE t FROBNICATE;", true), [(2, "hazards-unread")]);
    }
}
