//! The linter: what a migration must not contain, and what runs, but seldom as meant.
//!
//! What is refused is told by tokens, so that no statement of a newer PostgreSQL is misread for want of its grammar.

mod codes;
mod finding;
mod frozen;
mod hazards;
mod marks;
mod other_tools;
mod refusals;
mod tables;
mod timeouts;

use std::time::Duration;

use super::file::{FileStatement, Step};
use super::file_name::REPEATABLE;
use super::resumable::{self, Refusal};
use super::statements::{Statement, split};
use frozen::Known;
use marks::Marks;

pub use codes::{Code, Weight, codes};
pub use finding::Finding;
pub use timeouts::Limits;

/// What is read of one file.
#[derive(Debug, Default)]
pub(super) struct Linted {
    pub(super) transactional: bool,
    pub(super) statements: Vec<FileStatement>,
    /// How each statement is run; of a file outside transactions only.
    pub(super) steps: Vec<Step>,
    /// In the order of the lines.
    pub(super) findings: Vec<Finding>,
    /// Whether it lets rows pass that are others in each build.
    pub(super) allows_frozen_rows: bool,
}

/// How much is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// What is refused: as often as an edition is read.
    Refused,
    /// Warnings too, in files above a version. The definitions there are parsed, so this is for where somebody reads them.
    Above(i64),
}

/// Reads the files of an edition, which must come in order, because what one defines the next may use.
#[derive(Debug)]
pub(super) struct Linter {
    limits: Limits,
    scope: Scope,
    known: Known,
}

impl Linter {
    pub(super) fn new(limits: Limits, scope: Scope) -> Self {
        Self { limits, scope, known: Known::default() }
    }

    /// Reads the next file and says what is wrong with it.
    pub(super) fn lint(&mut self, file: &str, version: i64, sql: &str) -> Linted {
        let repeatable = version == REPEATABLE;
        let warned = matches!(self.scope, Scope::Above(below) if version > below || repeatable);
        let mut linted = self.read(sql, warned);
        if repeatable {
            let refused = not_repeatable(&linted);
            linted.findings.extend(refused);
        }
        linted.findings.sort_by_key(|finding| finding.line);
        let findings = std::mem::take(&mut linted.findings).into_iter();
        let wanted = findings.filter(|finding| warned || !finding.warning);
        linted.findings = wanted.map(|finding| finding.of(file, version)).collect();
        linted
    }

    fn read(&mut self, sql: &str, warned: bool) -> Linted {
        let unreadable = |code: &Code, line: u64, reason: &str, fix: &str| Linted {
            findings: vec![Finding::new(code, line, reason, fix)],
            ..Linted::default()
        };
        if sql.starts_with('\u{feff}') {
            let reason = "begins with a byte order mark, which the server rejects";
            return unreadable(&codes::ENCODING, 1, reason, "save it as plain UTF-8");
        }
        if let Some(before) = sql.split_once(['\0', '\r']).map(|(before, _)| before) {
            let line = before.matches('\n').count() as u64 + 1;
            return unreadable(
                &codes::ENCODING,
                line,
                "contains a NUL or a bare carriage return",
                "remove it",
            );
        }
        let split = match split(sql) {
            Ok(split) => split,
            Err((line, reason)) => {
                return unreadable(&codes::SYNTAX, line, &reason, "write it as the server reads it");
            }
        };
        let statements: Vec<_> = split.iter().collect();
        let (marks, mut findings) = marks::read(&split);
        findings.extend(other_tools::look(&split));
        if statements.is_empty() {
            findings.push(Finding::new(
                &codes::EMPTY,
                1,
                "holds no statement",
                "remove the file or write one",
            ));
        }
        let limits = limits_of(&marks, &statements, &self.limits);
        let mut steps = Vec::new();
        for (statement, per_tenant) in statements.iter().zip(&marks.per_tenant) {
            let refused: Vec<_> = statement.parts().filter_map(|part| refusals::refuse(&part)).collect();
            if refused.is_empty() {
                findings.extend(run(statement, &marks, &mut steps));
            }
            findings.extend(refused);
            findings.extend(timeouts::look(statement, &limits));
            findings.extend(per_tenant.then(|| definition(statement, &marks)).flatten());
            if self.scope != Scope::Refused {
                findings.extend(self.known.look(statement, *per_tenant));
            }
        }
        if warned && !marks.no_transaction {
            findings.extend(unusable_values(&statements));
        }
        if warned {
            findings.extend(hazards::look(sql, &statements, !marks.no_transaction));
        }
        let statements =
            statements.iter().zip(&marks.per_tenant).map(|(statement, per_tenant)| FileStatement {
                range: statement.range(),
                line: statement.line(),
                per_tenant: *per_tenant,
                setting: statement.has_at(0, &["SET"]) || resumable::is_setting(statement),
                raises_timeouts: marks.allows(&codes::RAISES_TIMEOUT, statement.line()),
            });
        Linted {
            transactional: !marks.no_transaction,
            statements: statements.collect(),
            steps,
            allows_frozen_rows: marks.allows_somewhere(&codes::FROZEN_ROW),
            findings: marks.filter(findings, &[codes::RAISES_TIMEOUT.name, codes::FROZEN_ROW.name]),
        }
    }
}

/// Refuses marks that a repeatable file can't have: it is run again in a transaction, in templates and tenants alike.
fn not_repeatable(linted: &Linted) -> Option<Finding> {
    let what = match linted {
        Linted { transactional: false, statements, .. } if !statements.is_empty() => "no-transaction",
        Linted { statements, .. } if statements.iter().any(|statement| statement.per_tenant) => "per-tenant",
        _ => return None,
    };
    let reason = format!("is marked {what}, which a repeatable file can't be");
    Some(Finding::new(&codes::MARK, 1, reason, "put these statements into a file with a version"))
}

/// Looks at how a statement runs, in a transaction or as a step of its own.
fn run(statement: &Statement<'_>, marks: &Marks, steps: &mut Vec<Step>) -> Vec<Finding> {
    let line = statement.line();
    let refused = |code: &Code, Refusal { reason, fix }: Refusal| vec![Finding::new(code, line, reason, fix)];
    if marks.no_transaction {
        return match resumable::step(statement) {
            Ok(kind) => {
                let waits_alone = resumable::waits_alone(statement);
                steps.push(Step { range: statement.range(), line, kind, waits_alone });
                Vec::new()
            }
            Err(refusal) => refused(&codes::NOT_RESUMABLE, refusal),
        };
    }
    let refusal = resumable::required_by(statement);
    refusal.map_or(Vec::new(), |refusal| refused(&codes::NEEDS_NO_TRANSACTION, refusal))
}

/// Values that a file adds to an enum and uses itself, which the server refuses in one transaction.
fn unusable_values(statements: &[Statement<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, statement) in statements.iter().enumerate() {
        let Some((value, _)) = resumable::added_enum_value(statement) else { continue };
        let used = |later: &Statement<'_>| later.strings().any(|(text, _)| text == value);
        if statements[at + 1..].iter().any(used) {
            findings.push(Finding::new(
                &codes::ENUM_VALUE,
                statement.line(),
                format!(
                    "adds `{value}` to an enum, and the file seems to use it before the transaction is over"
                ),
                "use it in a later file",
            ));
        }
    }
    findings
}

/// How long a statement may wait for a lock when no request stands behind it.
const ALONE: Duration = Duration::from_secs(60);

/// A file outside transactions whose statements hold nobody up while they wait for a lock may let them wait for long.
fn limits_of(marks: &Marks, statements: &[Statement<'_>], limits: &Limits) -> Limits {
    let alone =
        |statement: &Statement<'_>| resumable::is_setting(statement) || resumable::waits_alone(statement);
    let long = marks.no_transaction && statements.iter().all(alone);
    let lock_timeout = limits.lock_timeout.map(|limit| if long { limit.max(ALONE) } else { limit });
    Limits { lock_timeout, ..*limits }
}

/// Refuses what only tenants would get, and no template.
fn definition(statement: &Statement<'_>, marks: &Marks) -> Option<Finding> {
    if marks.no_transaction {
        return Some(Finding::new(
            &codes::PER_TENANT,
            statement.line(),
            "is marked per-tenant in a file outside transactions",
            "move it into a file of its own, without no-transaction",
        ));
    }
    let first = statement.keyword(0).unwrap_or_default();
    let is_data = statement.opens_at(0)
        || matches!(
            first.as_str(),
            "INSERT"
                | "UPDATE"
                | "DELETE"
                | "MERGE"
                | "SELECT"
                | "WITH"
                | "VALUES"
                | "TABLE"
                | "DO"
                | "CALL"
                | "COPY"
                | "TRUNCATE"
                | "SET"
                | "RESET"
                | "REFRESH"
                | "ANALYZE"
                | "LOCK"
                | "PREPARE"
                | "EXECUTE"
                | "NOTIFY"
        )
        || statement.has_at(0, &["ALTER", "SEQUENCE"]);
    (!is_data).then(|| {
        Finding::new(
            &codes::PER_TENANT,
            statement.line(),
            format!("`{first}` is marked per-tenant, so that the template would lack what it defines"),
            "mark only what fills tables, by a line right above that statement; the mark of a whole file stands among \
             its first lines",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::resumable::StepKind;
    use super::*;

    fn lint(sql: &str) -> Linted {
        Linter::new(Limits::default(), Scope::Above(0)).lint("V1__x.sql", 1, sql)
    }

    fn findings(sql: &str) -> Vec<Finding> {
        lint(sql).findings
    }

    fn refused(sql: &str) -> Vec<String> {
        findings(sql).into_iter().filter(|f| !f.warning).map(|f| f.to_string()).collect()
    }

    #[test]
    fn a_file_outside_transactions_runs_step_by_step() {
        let mark = |sql: &str| format!("-- manybox: no-transaction\n{sql}");
        let linted = lint(&mark("SET search_path TO s;\nCREATE INDEX CONCURRENTLY i ON t (a);"));
        assert_eq!(linted.findings, []);
        assert!(!linted.transactional);
        assert_eq!(linted.steps.iter().map(|step| step.line).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(linted.steps[0].kind, StepKind::Setting);
        let several = lint(&mark("VACUUM t;\nCREATE TABLE u ();\nCREATE INDEX CONCURRENTLY i ON t (a);"));
        assert_eq!(several.findings.iter().filter(|finding| !finding.warning).count(), 0);
        assert_eq!(
            several.steps.iter().map(|step| step.waits_alone).collect::<Vec<_>>(),
            [true, false, true]
        );
        for (sql, hint) in [
            ("CREATE INDEX CONCURRENTLY ON t (a)", "name"),
            ("COMMIT", "controls the transaction"),
            ("SAVEPOINT a", "no transaction"),
            ("", "no statement"),
        ] {
            let found = findings(&mark(sql));
            assert!(found.len() == 1 && found[0].reason.contains(hint), "{sql}: {found:?}");
        }
    }

    #[test]
    fn unreadable_files_and_near_misses_are_refused() {
        assert!(refused("\u{feff}SELECT 1;")[0].contains("byte order mark"));
        assert!(refused("SELECT 1;\nSELECT 'a")[0].starts_with("V1__x.sql:2: "));
        assert!(refused("-- manybox: notransaction\nANALYZE t;")[0].contains("no-transaction"));
        assert!(refused("-- just a thought\n;;")[0].contains("no statement"));
        assert!(refused("SELECT 1;\n-- a\rCOMMIT;")[0].starts_with("V1__x.sql:2: "));
        assert!(refused("VACUUM t;")[0].contains("-- manybox: no-transaction"));
        assert!(
            refused("SELECT 1;\nDO $$ BEGIN COMMIT; END $$")[0].starts_with("V1__x.sql:2: `COMMIT` can't")
        );
    }

    #[test]
    fn random_values_in_data_are_mentioned() {
        let found = findings("INSERT INTO t VALUES (gen_random_uuid());");
        assert!(found.len() == 1 && found[0].warning && found[0].reason.contains("template"));
        assert_eq!(findings("-- manybox: per-tenant\nINSERT INTO t VALUES (gen_random_uuid());"), []);
        assert_eq!(findings("CREATE TABLE t (id uuid DEFAULT gen_random_uuid());"), []);
        assert_eq!(findings("ALTER TYPE e ADD VALUE 'x';\nCREATE TABLE t (a e);"), []);
        let used = findings(
            "ALTER TYPE e ADD VALUE IF NOT EXISTS 'x' AFTER 'y';\nCREATE TABLE t (a e DEFAULT 'x');",
        );
        assert_eq!((used[0].line, used[0].code, used[0].warning), (1, "enum-value", true));
        let allowed =
            "-- manybox: allow frozen-value because the rows are public\nINSERT INTO t VALUES (random());";
        assert_eq!(findings(allowed), []);
    }

    #[test]
    fn what_one_file_defines_the_next_is_judged_by() {
        let mut linter = Linter::new(Limits::default(), Scope::Above(0));
        let table = "CREATE TABLE t (a int, s uuid DEFAULT gen_random_uuid());";
        assert_eq!(linter.lint("V1__a.sql", 1, table).findings, []);
        let found = linter.lint("V2__b.sql", 2, "\nINSERT INTO t (a) VALUES (1);").findings;
        assert_eq!((found[0].version, found[0].line, found[0].code), (2, 2, "frozen-value"));
        assert!(found[0].reason.contains("`t.s`"), "{found:?}");
    }

    #[test]
    fn a_file_says_which_statement_may_raise_timeouts() {
        let sql = "CREATE TABLE t ();\n-- manybox: allow raises-timeout because of the backfill\nSET lock_timeout = 0;\nSELECT 1";
        let limits = Limits { lock_timeout: Some(Duration::from_secs(1)), statement_timeout: None };
        let linted = Linter::new(limits, Scope::Refused).lint("V1__x.sql", 1, sql);
        assert_eq!(linted.findings, []);
        assert_eq!(
            linted.statements.iter().map(|s| s.raises_timeouts).collect::<Vec<_>>(),
            [false, true, false]
        );
    }

    #[test]
    fn only_data_is_per_tenant() {
        let sql =
            "CREATE TABLE t ();\n-- manybox: per-tenant\nINSERT INTO t DEFAULT VALUES;\nCREATE TABLE u ();";
        let linted = lint(sql);
        assert_eq!(linted.findings, []);
        assert_eq!(linted.statements.iter().map(|s| s.per_tenant).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(refused(&format!("-- manybox: per-tenant\n{sql}")).len(), 2);
        let outside = "-- manybox: no-transaction\n\n-- manybox: per-tenant\nSELECT 1";
        assert!(refused(outside)[0].contains("outside transactions"));
    }
}
