//! Files that were written for another migration tool: what would be run there and must not be run here is named.

use super::codes;
use super::finding::Finding;
use crate::migrate::statements::Statements;

/// The comments by which tools divide a file, in lower case, and whose they are.
const WAYS_BACK: &[(&str, &str)] = &[
    ("+goose down", "goose"),
    ("migrate:down", "dbmate"),
    ("+migrate down", "sql-migrate"),
    ("+micrate down", "micrate"),
    ("down migration", "node-pg-migrate"),
    ("rambler down", "rambler"),
    ("//@undo", "MyBatis Migrations"),
    ("@undo", "MyBatis Migrations"),
    ("!downs", "Play evolutions"),
    ("create above / drop below", "tern"),
];

/// Comments that change how the other tool runs the file.
const OPTIONS: &[(&str, &str)] = &[
    ("+goose no transaction", "goose"),
    ("migrate:up transaction:false", "dbmate"),
    ("+migrate up notransaction", "sql-migrate"),
    ("disable-tx", "tern"),
    ("+goose envsub on", "goose"),
];

/// Says what a file has of another tool that would be misread here. Its `Up` mark alone is a comment like any other.
pub(super) fn look(statements: &Statements<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for comment in statements.comments.iter().filter(|comment| comment.alone) {
        let text = comment.text.trim_matches('-').trim().to_ascii_lowercase();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let tool = |list: &[(&str, &'static str)]| {
            list.iter()
                .find(|(mark, _)| text == *mark || text.starts_with(&format!("{mark} ")))
                .map(|(_, tool)| *tool)
        };
        let followed = || statements.iter().any(|statement| statement.range().start > comment.at);
        if let Some(tool) = tool(WAYS_BACK).filter(|_| followed()) {
            findings.push(Finding::new(
                &codes::OTHER_TOOL,
                comment.line,
                format!("begins the way back of a file for {tool}, which would be run right after the way there"),
                "remove this line and what follows: manybox goes forward only, what is wrong is mended by a new file",
            ));
        } else if text == "+goose envsub on" {
            findings.push(Finding::new(
                &codes::OTHER_TOOL,
                comment.line,
                "asks goose to fill in variables of the environment, which manybox does not",
                "write the values",
            ));
        } else if let Some(tool) = tool(OPTIONS) {
            findings.push(Finding::new(
                &codes::OTHER_TOOL,
                comment.line,
                format!("tells {tool} to run the file outside a transaction, which manybox does not read"),
                "write `-- manybox: no-transaction` on the first line instead",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::statements::split;

    fn seen(sql: &str) -> Vec<String> {
        look(&split(sql).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_way_back_is_refused_by_the_tools_name() {
        for (up, down, tool) in [
            ("-- +goose Up", "-- +goose Down", "goose"),
            ("-- +goose Up", "--   +goose   down", "goose"),
            ("-- migrate:up", "-- migrate:down transaction:false", "dbmate"),
            ("-- +migrate Up", "-- +migrate Down", "sql-migrate"),
            ("-- Up Migration", "-- Down Migration", "node-pg-migrate"),
            ("-- why", "--//@UNDO", "MyBatis"),
            ("-- !Ups", "--- !Downs", "Play"),
            ("-- why", "---- create above / drop below ----", "tern"),
        ] {
            let sql = format!("{up}\nCREATE TABLE t ();\n\n{down}\nDROP TABLE t;");
            let found = seen(&sql);
            assert!(
                found.len() == 1 && found[0].contains(":4: ") && found[0].contains(tool),
                "{sql}: {found:?}"
            );
            // Nothing there to be run.
            assert_eq!(seen(&format!("{up}\nCREATE TABLE t ();\n{down}\n")), [""; 0]);
        }
        assert_eq!(
            seen("-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n-- +goose StatementEnd"),
            [""; 0]
        );
        assert_eq!(seen("-- scroll down migration notes\nSELECT ' -- +goose Down';"), [""; 0]);
    }

    #[test]
    fn how_the_other_tool_runs_it_is_told_in_our_words() {
        for sql in ["-- +goose NO TRANSACTION\nVACUUM t", "-- migrate:up transaction:false\nVACUUM t"] {
            assert!(seen(sql)[0].contains("-- manybox: no-transaction"), "{sql}");
        }
        assert!(seen("-- +goose ENVSUB ON\nSELECT 1")[0].contains("write the values"));
    }
}
