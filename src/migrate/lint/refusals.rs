//! What a migration must not contain, because it would escape its transaction, its role or its database.
//!
//! It guards against mistakes; what SQL hides in `EXECUTE` strings is caught by the checks after each file (`session`).

use super::codes::{self, Code};
use super::finding::Finding;
use crate::migrate::statements::Statement;

/// Why a statement, or a part of one between two semicolons, must not be in a migration.
pub(super) fn refuse(part: &Statement<'_>) -> Option<Finding> {
    let found = |code: &Code, reason: &str, fix: &str| Some(Finding::new(code, part.line(), reason, fix));
    if part.has_backslash() {
        return found(
            &codes::CLIENT,
            "is a psql command (`\\…`), which the server doesn't know",
            "write it in SQL",
        );
    }
    let at = |i| part.keyword(i).unwrap_or_default();
    let (first, second) = (at(0), at(1));
    match (first.as_str(), second.as_str()) {
        ("ROLLBACK", _) if is_to_savepoint(part) => None,
        ("BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "ABORT", _) | ("START" | "PREPARE", "TRANSACTION") => {
            found(
                &codes::TRANSACTION,
                &format!(
                    "`{first}` controls the transaction, which is manybox's, so that a file is applied with its history \
                 row or not at all"
                ),
                "remove it, or split the file",
            )
        }
        ("SET", _) => {
            let at = setting_at(part);
            // A setting's name may be quoted, and then still has no case.
            let name = part.name(at).unwrap_or_default().to_ascii_lowercase();
            let session = |n: String| n.eq_ignore_ascii_case("authorization");
            let escapes = matches!(name.as_str(), "role" | "session_authorization")
                // Unicode escapes could spell any of them.
                || part.is_escaped_name(at)
                || (at == 2 && name == "authorization")
                || (name == "session" && part.name(at + 1).is_some_and(session));
            if name == "standard_conforming_strings"
                && !part.written(at + 2).trim_matches('\'').eq_ignore_ascii_case("on")
            {
                return found(
                    &codes::SESSION,
                    "`standard_conforming_strings` other than on makes the server read strings otherwise than the linter",
                    "remove it, and write escapes as `E'…'`",
                );
            }
            if escapes { role(part, "SET") } else { None }
        }
        ("RESET", _) => {
            let name = part.name(1).unwrap_or_default().to_ascii_lowercase();
            let escapes = matches!(name.as_str(), "role" | "all" | "session" | "session_authorization")
                || part.is_escaped_name(1);
            if escapes { role(part, "RESET") } else { None }
        }
        ("DISCARD", _) => {
            found(&codes::SESSION, "`DISCARD` undoes what manybox sets for the session", "remove it")
        }
        ("ALTER", "DATABASE") => found(
            &codes::DATABASE,
            "`ALTER DATABASE` is not copied from the template to new tenants",
            "use `ALTER FUNCTION … SET`, or the tenant's settings in the catalog",
        ),
        ("CREATE" | "DROP", "DATABASE") => found(
            &codes::DATABASE,
            &format!("`{first} DATABASE` can't run in a migration"),
            "leave making and dropping databases to manybox",
        ),
        ("CREATE" | "ALTER" | "DROP", "ROLE" | "USER" | "GROUP") if at(2) != "MAPPING" => found(
            &codes::SERVER,
            &format!("`{first} {second}` reaches every tenant of the server, roles belong to all of it"),
            "make roles outside of migrations",
        ),
        ("CREATE" | "ALTER" | "DROP", "TABLESPACE") | ("ALTER", "SYSTEM") => found(
            &codes::SERVER,
            &format!("`{first} {second}` reaches every tenant of the server"),
            "do it as its administrator",
        ),
        ("DROP" | "REASSIGN", "OWNED") => found(
            &codes::SERVER,
            &format!("`{first} OWNED` also touches rights on databases, and so other tenants"),
            "name the objects instead",
        ),
        ("COPY", _) if part.has_pair("FROM", "STDIN") || part.has_pair("TO", "STDOUT") => {
            found(&codes::CLIENT, "`COPY` from or to the client has no client here", "use INSERT")
        }
        _ => None,
    }
}

/// Where a `SET` statement names its setting.
fn setting_at(set: &Statement<'_>) -> usize {
    let scoped = set.has_at(1, &["SESSION"]) || set.has_at(1, &["LOCAL"]);
    if scoped { 2 } else { 1 }
}

/// Whether it is `ROLLBACK [WORK|TRANSACTION] TO …`, which stays inside the transaction.
fn is_to_savepoint(part: &Statement<'_>) -> bool {
    let skip = usize::from(part.has_at(1, &["WORK"]) || part.has_at(1, &["TRANSACTION"]));
    part.has_at(1 + skip, &["TO"])
}

fn role(part: &Statement<'_>, verb: &str) -> Option<Finding> {
    let reason = format!(
        "`{verb}` changes the role or undoes what manybox sets for the session; migrations run as the owner"
    );
    Some(Finding::new(&codes::SESSION, part.line(), reason, "remove it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::statements::split;

    fn refused(sql: &str) -> Vec<(u64, &'static str)> {
        let statements = split(sql).unwrap();
        let parts: Vec<_> = statements.iter().flat_map(|s| s.parts().collect::<Vec<_>>()).collect();
        parts.iter().filter_map(refuse).map(|finding| (finding.line, finding.code)).collect()
    }

    #[test]
    fn what_escapes_is_refused_with_its_line() {
        for (sql, code) in [
            ("BEGIN", "transaction-control"),
            ("begin work", "transaction-control"),
            ("START TRANSACTION", "transaction-control"),
            ("COMMIT", "transaction-control"),
            ("COMMIT AND CHAIN", "transaction-control"),
            ("END", "transaction-control"),
            ("ROLLBACK", "transaction-control"),
            ("ROLLBACK WORK", "transaction-control"),
            ("ROLLBACK PREPARED 'x'", "transaction-control"),
            ("ABORT", "transaction-control"),
            ("PREPARE TRANSACTION 'x'", "transaction-control"),
            ("COMMIT PREPARED 'x'", "transaction-control"),
            ("SET ROLE x", "session"),
            ("SET LOCAL ROLE x", "session"),
            ("SET SESSION ROLE x", "session"),
            ("SET \"Role\" = 'x'", "session"),
            ("set role to x", "session"),
            ("SET U&\"rol\\0065\" = 'x'", "session"),
            ("SET SESSION AUTHORIZATION x", "session"),
            ("SET LOCAL SESSION AUTHORIZATION x", "session"),
            ("SET session_authorization = x", "session"),
            ("SET standard_conforming_strings = off", "session"),
            ("SET standard_conforming_strings TO 'false'", "session"),
            ("RESET ROLE", "session"),
            ("RESET U&\"rol\\0065\"", "session"),
            ("RESET ALL", "session"),
            ("RESET SESSION AUTHORIZATION", "session"),
            ("DISCARD ALL", "session"),
            ("ALTER DATABASE a SET b = 1", "database"),
            ("CREATE DATABASE a", "database"),
            ("DROP DATABASE a", "database"),
            ("CREATE ROLE a", "server-wide"),
            ("ALTER USER a SET b = 1", "server-wide"),
            ("ALTER SYSTEM SET a = 1", "server-wide"),
            ("DROP OWNED BY a", "server-wide"),
            ("\\i x.sql", "client"),
            ("SELECT 1 \\gexec", "client"),
            ("COPY t FROM STDIN", "client"),
            ("copy t (a) from stdin with (format csv)", "client"),
        ] {
            assert_eq!(refused(&format!("-- c\nSELECT 1;\n /* ; */ {sql};")), [(3, code)], "{sql}");
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
            "SET standard_conforming_strings = on",
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
            "SAVEPOINT a; ROLLBACK TO a; ROLLBACK WORK TO SAVEPOINT a; ROLLBACK TRANSACTION TO a; RELEASE a; RELEASE SAVEPOINT b",
        ] {
            assert_eq!(refused(&format!("{sql};")), [], "{sql}");
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
}
