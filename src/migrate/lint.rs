//! The linter: what a migration must not contain, because it would escape its transaction, its role or its database.
//!
//! It reads tokens, not syntax trees, so that it understands every PostgreSQL version's statements. It guards against
//! mistakes; what SQL hides in `EXECUTE` strings is caught by the checks after each file (`session`).

use std::fmt;

use super::resumable;
use super::statements::{Statement, split};

/// Something in a file that is refused, or odd enough to mention.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The file's name.
    pub file: String,
    /// From 1.
    pub line: u64,
    /// What is there, why that is bad, what to do instead.
    pub reason: String,
    /// True when the file may be run nonetheless.
    pub warning: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// What is wrong with one file, in the order of its lines.
pub(super) fn lint(file: &str, sql: &str, transactional: bool) -> Vec<Finding> {
    let finding =
        |line: u64, warning: bool, reason: String| Finding { file: file.to_owned(), line, reason, warning };
    let refused = |line: u64, reason: &str| vec![finding(line, false, reason.to_owned())];
    if sql.starts_with('\u{feff}') {
        return refused(1, "begins with a byte order mark, which the server rejects: save it as plain UTF-8");
    }
    if let Some(before) = sql.split_once(['\0', '\r']).map(|(before, _)| before) {
        let line = before.matches('\n').count() as u64 + 1;
        return refused(line, "contains a NUL or a bare carriage return: remove it");
    }
    let first = sql.lines().next().unwrap_or_default();
    if transactional && first.trim_start().starts_with("-- manybox") {
        return refused(
            1,
            "is not an instruction that manybox knows: the only one is `-- manybox: no-transaction`",
        );
    }
    let statements = match split(sql) {
        Ok(statements) => statements,
        Err((line, reason)) => return vec![finding(line, false, reason)],
    };
    let statements: Vec<_> = statements.iter().collect();
    let mut findings = Vec::new();
    if statements.is_empty() {
        findings.push(finding(1, false, "holds no statement: remove the file or write one".to_owned()));
    }
    for statement in &statements {
        for part in statement.parts() {
            if let Some(reason) = refuse(&part) {
                findings.push(finding(part.line(), false, reason));
            }
        }
        if transactional && let Some(reason) = resumable::required_by(statement) {
            findings.push(finding(statement.line(), false, reason));
        }
        if transactional && let Some(reason) = warn(statement) {
            findings.push(finding(statement.line(), true, reason.to_owned()));
        }
    }
    if !transactional && findings.is_empty() {
        if let [_, second, ..] = statements.as_slice() {
            let reason = "is a second statement in a file marked no-transaction, which could be left half done: \
                          give each statement a file of its own";
            findings.push(finding(second.line(), false, reason.to_owned()));
        } else if let [only] = statements.as_slice()
            && let Err(reason) = resumable::step(only)
        {
            findings.push(finding(only.line(), false, reason));
        }
    }
    findings
}

/// Why a statement, or a part of one between two semicolons, must not be in a migration.
fn refuse(part: &Statement<'_>) -> Option<String> {
    if part.has_backslash() {
        return Some("is a psql command (`\\…`), which the server doesn't know: write it in SQL".to_owned());
    }
    let at = |i| part.keyword(i).unwrap_or_default();
    let (first, second) = (at(0), at(1));
    match (first.as_str(), second.as_str()) {
        ("BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "SAVEPOINT" | "RELEASE", _)
        | ("START" | "PREPARE", "TRANSACTION") => Some(format!(
            "`{first}` controls the transaction, which is manybox's, so that a file is applied with its history row \
             or not at all: remove it, or split the file"
        )),
        ("SET", _) => {
            let skip = if matches!(second.as_str(), "SESSION" | "LOCAL") { 2 } else { 1 };
            // A setting's name may be quoted, and then still has no case.
            let name = part.name(skip)?.to_ascii_lowercase();
            let session = |n: String| n.eq_ignore_ascii_case("authorization");
            // `u` begins a name in Unicode escapes (`U&"…"`), which could spell any of them.
            let escapes = matches!(name.as_str(), "role" | "session_authorization" | "u")
                || (skip == 2 && name == "authorization")
                || (name == "session" && part.name(skip + 1).is_some_and(session));
            escapes.then(|| role("SET"))
        }
        ("RESET", _) => {
            let name = part.name(1)?.to_ascii_lowercase();
            matches!(name.as_str(), "role" | "all" | "session" | "session_authorization")
                .then(|| role("RESET"))
        }
        ("DISCARD", _) => Some("`DISCARD` undoes what manybox sets for the session: remove it".to_owned()),
        ("CREATE" | "ALTER" | "DROP", "DATABASE") => Some(if first == "ALTER" {
            "`ALTER DATABASE` is not copied from the template to new tenants: use `ALTER FUNCTION … SET`, or the \
             tenant's settings in the catalog"
                .to_owned()
        } else {
            format!("`{first} DATABASE` can't run in a migration: databases are made and dropped by manybox")
        }),
        ("CREATE" | "ALTER" | "DROP", "ROLE" | "USER" | "GROUP") if at(2) != "MAPPING" => Some(format!(
            "`{first} {second}` reaches every tenant of the server, roles belong to all of it: make roles outside of \
             migrations"
        )),
        ("CREATE" | "ALTER" | "DROP", "TABLESPACE") | ("ALTER", "SYSTEM") => {
            Some(format!("`{first} {second}` reaches every tenant of the server: do it as its administrator"))
        }
        ("DROP" | "REASSIGN", "OWNED") => Some(format!(
            "`{first} OWNED` also touches rights on databases, and so other tenants: name the objects instead"
        )),
        ("COPY", _) if part.has_pair("FROM", "STDIN") || part.has_pair("TO", "STDOUT") => {
            Some("`COPY` from or to the client has no client here: use INSERT".to_owned())
        }
        _ => None,
    }
}

fn role(verb: &str) -> String {
    format!(
        "`{verb}` changes the role or undoes what manybox sets for the session; migrations run as the owner: remove it"
    )
}

/// What runs, but seldom as meant.
fn warn(statement: &Statement<'_>) -> Option<&'static str> {
    let first = statement.keyword(0).unwrap_or_default();
    let volatile =
        |word: &str| matches!(word, "gen_random_uuid" | "uuid_generate_v4" | "random" | "gen_random_bytes");
    if matches!(first.as_str(), "INSERT" | "UPDATE") && statement.names().any(|name| volatile(&name)) {
        return Some(
            "makes random values once, in the template: all tenants copied from it get the same ones; make them \
             when the tenant is created, or don't rely on them",
        );
    }
    if resumable::adds_enum_value(statement) {
        return Some("adds a value to an enum that later statements of the same file can't use yet");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(sql: &str) -> Vec<String> {
        lint("V1__x.sql", sql, true).into_iter().filter(|f| !f.warning).map(|f| f.to_string()).collect()
    }

    #[test]
    fn what_escapes_is_refused_with_its_line() {
        for sql in [
            "BEGIN",
            "begin work",
            "START TRANSACTION",
            "COMMIT",
            "END",
            "ROLLBACK TO a",
            "ABORT",
            "SAVEPOINT a",
            "RELEASE a",
            "PREPARE TRANSACTION 'x'",
            "COMMIT PREPARED 'x'",
            "SET ROLE x",
            "SET LOCAL ROLE x",
            "SET SESSION ROLE x",
            "SET \"Role\" = 'x'",
            "set role to x",
            "SET U&\"rol\\0065\" = 'x'",
            "SET SESSION AUTHORIZATION x",
            "SET LOCAL SESSION AUTHORIZATION x",
            "SET session_authorization = x",
            "RESET ROLE",
            "RESET ALL",
            "RESET SESSION AUTHORIZATION",
            "DISCARD ALL",
            "ALTER DATABASE a SET b = 1",
            "CREATE DATABASE a",
            "DROP DATABASE a",
            "CREATE ROLE a",
            "ALTER USER a SET b = 1",
            "ALTER SYSTEM SET a = 1",
            "\\i x.sql",
            "SELECT 1 \\gexec",
            "COPY t FROM STDIN",
            "copy t (a) from stdin with (format csv)",
            "DROP OWNED BY a",
            "VACUUM t",
            "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)",
            "REINDEX INDEX CONCURRENTLY i",
            "DROP INDEX CONCURRENTLY i",
        ] {
            let findings = refused(&format!("-- c\nSELECT 1;\n /* ; */ {sql};"));
            assert_eq!(findings.len(), 1, "{sql}: {findings:?}");
            assert!(findings[0].starts_with("V1__x.sql:3: "), "{findings:?}");
        }
    }

    #[test]
    fn what_only_looks_alike_passes() {
        for sql in [
            "SELECT 'COMMIT; ROLLBACK'",
            "SELECT $$; COMMIT; $$, $a$; END; $a$",
            "-- ; COMMIT;\nSELECT 1",
            "SELECT E'it\\'s; ', '\\'; SELECT \"a;b\" FROM t",
            "DO $$ BEGIN PERFORM 1; END $$",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END; SELECT 1",
            "CREATE OR REPLACE PROCEDURE f() BEGIN ATOMIC END",
            "SET search_path TO a; SET LOCAL statement_timeout = 0",
            "CREATE USER MAPPING FOR a SERVER b",
            "ALTER DEFAULT PRIVILEGES FOR ROLE a GRANT SELECT ON TABLES TO b",
            "CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO a VALUES (1); INSERT INTO b VALUES (2))",
            "PREPARE transactions AS SELECT 1",
            "RESET search_path",
            "COPY t TO '/x'",
            "SELECT U&'d\\0061t'",
            "CREATE TABLE \"begin\" (\"commit\" int)",
            "SELECT a AS end FROM t; SELECT 1 @> 2",
            "ANALYZE t",
            "/* a /* nested; COMMIT; */ ; */ SELECT 1",
        ] {
            assert_eq!(refused(&format!("{sql};")), [""; 0], "{sql}");
        }
    }

    #[test]
    fn a_function_body_hides_nothing() {
        let open = "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END;";
        assert_eq!(refused(&format!("{open}\nEND;")).len(), 1);
        assert_eq!(refused(&format!("{open}\nCOMMIT;")).len(), 1);
        // An argument named `begin` of a type named `atomic` opens no body.
        assert_eq!(refused("CREATE FUNCTION f(begin atomic) RETURNS int AS '' LANGUAGE sql;\nEND;").len(), 1);
        assert_eq!(refused("CREATE FUNCTION f() BEGIN ATOMIC SELECT 1;\nCOMMIT; END;").len(), 1);
    }

    #[test]
    fn a_file_outside_transactions_holds_one_known_statement() {
        let mark = |sql: &str| format!("-- manybox: no-transaction\n{sql}");
        let lint = |sql: &str| lint("V1__x.sql", &mark(sql), false);
        for sql in [
            "CREATE INDEX CONCURRENTLY i ON t (a)",
            "CREATE UNIQUE INDEX CONCURRENTLY \"I\" ON ONLY s.t (a);",
            "DROP INDEX CONCURRENTLY IF EXISTS i;",
            "VACUUM (ANALYZE) t;",
            "REINDEX TABLE CONCURRENTLY t",
            "ALTER TYPE e ADD VALUE IF NOT EXISTS 'x'",
        ] {
            assert_eq!(lint(sql), [], "{sql}");
        }
        for (sql, hint) in [
            ("VACUUM a; VACUUM b;", "second statement"),
            ("VACUUM FULL t", "FULL"),
            ("VACUUM (FULL) t", "FULL"),
            ("CREATE INDEX CONCURRENTLY ON t (a)", "name"),
            ("CREATE TABLE t ()", "without the mark"),
            ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)", "IF NOT EXISTS"),
            ("DROP INDEX CONCURRENTLY i", "IF EXISTS"),
            ("ALTER TYPE e ADD VALUE 'x'", "IF NOT EXISTS"),
            ("COMMIT", "controls the transaction"),
            ("", "no statement"),
        ] {
            let findings = lint(sql);
            assert!(findings.len() == 1 && findings[0].reason.contains(hint), "{sql}: {findings:?}");
        }
    }

    #[test]
    fn unreadable_files_and_near_misses_are_refused() {
        assert!(refused("\u{feff}SELECT 1;")[0].contains("byte order mark"));
        assert!(refused("SELECT 1;\nSELECT 'a")[0].starts_with("V1__x.sql:2: "));
        assert!(refused("-- manybox: notransaction\nVACUUM t;")[0].contains("no-transaction"));
        assert!(refused("-- just a thought\n;;")[0].contains("no statement"));
        assert!(refused("SELECT 1;\n-- a\rCOMMIT;")[0].starts_with("V1__x.sql:2: "));
    }

    #[test]
    fn random_values_in_data_are_mentioned() {
        let found = lint("V1__x.sql", "INSERT INTO t VALUES (gen_random_uuid());", true);
        assert!(found.len() == 1 && found[0].warning && found[0].reason.contains("template"));
        assert_eq!(lint("V1__x.sql", "CREATE TABLE t (id uuid DEFAULT gen_random_uuid());", true), []);
        assert!(lint("V1__x.sql", "ALTER TYPE e ADD VALUE 'x';", true)[0].warning);
    }
}
