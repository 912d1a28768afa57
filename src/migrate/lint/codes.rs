//! `Code`: what a finding is called, so that a file can allow it and a program can tell it.

/// A kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// As it stands in messages and in `-- manybox: allow`. Never changes.
    pub name: &'static str,
    /// Whether a file with it may run.
    pub weight: Weight,
    /// What it stands for, in a few words.
    pub about: &'static str,
}

/// What a finding means for its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// The edition is not used.
    Refused,
    /// The same, unless the file says why it is right there.
    RefusedUnlessAllowed,
    /// Said, and no more.
    Warning,
}

impl Code {
    /// Whether `-- manybox: allow` can silence it.
    pub fn can_be_allowed(&self) -> bool {
        self.weight != Weight::Refused
    }
}

const fn refused(name: &'static str, about: &'static str) -> Code {
    Code { name, weight: Weight::Refused, about }
}

const fn warning(name: &'static str, about: &'static str) -> Code {
    Code { name, weight: Weight::Warning, about }
}

pub(super) const ENCODING: Code = refused("encoding", "bytes that the server would not read as written");
pub(super) const SYNTAX: Code = refused("syntax", "a string, name or comment that is not closed");
pub(super) const EMPTY: Code = refused("empty-file", "a file without a statement");
pub(super) const MARK: Code = refused("mark", "a `-- manybox:` line that is none of the known ones");
pub(super) const OTHER_TOOL: Code =
    refused("other-tool", "a file written for another tool, with its way back in it");
pub(super) const TRANSACTION: Code = refused("transaction-control", "COMMIT and the like");
pub(super) const SESSION: Code = refused("session", "what changes the role or undoes the session's settings");
pub(super) const DATABASE: Code = refused("database", "what makes, changes or drops databases");
pub(super) const SERVER: Code = refused("server-wide", "what reaches every tenant of the server");
pub(super) const CLIENT: Code = refused("client", "psql's commands, and COPY from or to a client");
pub(super) const NEEDS_NO_TRANSACTION: Code =
    refused("needs-no-transaction", "what can't run in a transaction, in a file that does");
pub(super) const NOT_RESUMABLE: Code =
    refused("not-resumable", "what could not be continued after a crash, outside a transaction");
pub(super) const PER_TENANT: Code = refused("per-tenant", "definitions that only tenants would get");
pub(super) const RAISES_TIMEOUT: Code = Code {
    name: "raises-timeout",
    weight: Weight::RefusedUnlessAllowed,
    about: "a file that sets `lock_timeout` or `statement_timeout` above the settings",
};
pub(super) const FROZEN_VALUE: Code =
    warning("frozen-value", "random values that all tenants copied from a template would share");
pub(super) const FROZEN_ROW: Code =
    warning("frozen-row", "rows of the template that two builds make differently, and all tenants share");
pub(super) const ENUM_VALUE: Code =
    warning("enum-value", "a value added to an enum and used by the same file");
pub(super) const UNUSED_ALLOW: Code = warning("unused-allow", "an allowance for what is not there");
pub(super) const HAZARDS_UNREAD: Code =
    warning("hazards-unread", "a statement in which hazards could not be looked for");
pub(super) const WHOLE_TABLE: Code =
    warning("whole-table", "UPDATE or DELETE of every row in one transaction");
pub(super) const LOCK_TABLE: Code = warning("lock-table", "LOCK TABLE, which requests wait for");
pub(super) const BLOCKING_REFRESH: Code =
    warning("blocking-refresh", "REFRESH MATERIALIZED VIEW without CONCURRENTLY");
pub(super) const REWRITES_TABLE: Code = warning(
    "rewrites-table",
    "VACUUM FULL, CLUSTER, and ALTER TABLE … SET LOGGED, TABLESPACE or ACCESS METHOD",
);

/// Ours.
const OWN: &[Code] = &[
    ENCODING,
    SYNTAX,
    EMPTY,
    MARK,
    OTHER_TOOL,
    TRANSACTION,
    SESSION,
    DATABASE,
    SERVER,
    CLIENT,
    NEEDS_NO_TRANSACTION,
    NOT_RESUMABLE,
    PER_TENANT,
    RAISES_TIMEOUT,
    FROZEN_VALUE,
    FROZEN_ROW,
    ENUM_VALUE,
    UNUSED_ALLOW,
    HAZARDS_UNREAD,
    WHOLE_TABLE,
    LOCK_TABLE,
    BLOCKING_REFRESH,
    REWRITES_TABLE,
];

/// squawk's rules that are about tables with rows and with requests, by the names that squawk has for them, and what to
/// do instead.
pub(super) const SQUAWK: &[(Code, &str)] = &[
    (warning("adding-field-with-default", "ADD COLUMN with a volatile default rewrites the table"), BACKFILL),
    (warning("adding-foreign-key-constraint", "ADD FOREIGN KEY without NOT VALID"), VALIDATE),
    (warning("adding-not-nullable-field", "SET NOT NULL reads the whole table"), NOT_NULL),
    (
        warning(
            "adding-required-field",
            "ADD COLUMN … NOT NULL without a default fails where there are rows",
        ),
        BACKFILL,
    ),
    (
        warning("adding-serial-primary-key-field", "ADD PRIMARY KEY builds its index under the lock"),
        USING_INDEX,
    ),
    (
        warning(
            "ban-alter-domain-with-add-constraint",
            "a domain's constraint reads every table that has it",
        ),
        VALIDATE,
    ),
    (warning("ban-drop-column", "DROP COLUMN breaks requests that name it"), CONTRACT),
    (warning("ban-drop-function", "DROP FUNCTION breaks requests that call it"), CONTRACT),
    (warning("ban-drop-schema", "DROP SCHEMA breaks requests that use it"), CONTRACT),
    (warning("ban-drop-table", "DROP TABLE breaks requests that name it"), CONTRACT),
    (warning("ban-drop-view", "DROP VIEW breaks requests that name it"), CONTRACT),
    (warning("ban-set-schema", "SET SCHEMA takes it away from the API"), CONTRACT),
    (warning("ban-truncate-cascade", "TRUNCATE … CASCADE empties more than it names"), "name every table"),
    (warning("changing-column-type", "ALTER COLUMN … TYPE may rewrite the table"), NEW_COLUMN),
    (
        warning("constraint-missing-not-valid", "a constraint added without NOT VALID reads the whole table"),
        VALIDATE,
    ),
    (warning("disallowed-unique-constraint", "ADD UNIQUE builds its index under the lock"), USING_INDEX),
    (warning("identifier-too-long", "a name that the server cuts at 63 bytes"), "choose a shorter one"),
    (warning("renaming-column", "RENAME COLUMN breaks requests that name it"), CONTRACT),
    (warning("renaming-table", "RENAME TO breaks requests that name it"), CONTRACT),
    (
        warning("require-concurrent-index-creation", "CREATE INDEX without CONCURRENTLY stops writes"),
        CONCURRENTLY,
    ),
    (
        warning(
            "require-concurrent-index-deletion",
            "DROP INDEX without CONCURRENTLY stops its table's requests",
        ),
        CONCURRENTLY,
    ),
    (warning("require-concurrent-partition-detach", "DETACH PARTITION without CONCURRENTLY"), CONCURRENTLY),
    (warning("require-concurrent-reindex", "REINDEX without CONCURRENTLY"), CONCURRENTLY),
];

const BACKFILL: &str =
    "add the column without it, fill it in batches by a file marked no-transaction, and require it then";
const VALIDATE: &str = "add it `NOT VALID`, and write `VALIDATE CONSTRAINT` into the next file";
const NOT_NULL: &str =
    "add `CHECK (… IS NOT NULL) NOT VALID`, validate it in the next file, and only then write `SET NOT NULL`";
const USING_INDEX: &str = "build a unique index by `CREATE UNIQUE INDEX CONCURRENTLY` in a file marked no-transaction, and \
                           write `ADD CONSTRAINT … USING INDEX` into the next";
const CONTRACT: &str = "do it by a later rollout, when no request uses it any more";
const NEW_COLUMN: &str =
    "add a column of the new type, fill it in batches, and drop the old one by a later rollout";
const CONCURRENTLY: &str =
    "write it `CONCURRENTLY`, in a file whose first line is `-- manybox: no-transaction`";

/// Every code that there is.
pub fn codes() -> impl Iterator<Item = &'static Code> {
    OWN.iter().chain(SQUAWK.iter().map(|(code, _)| code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_code() {
        let page = include_str!("../../../docs/migrations.md");
        for code in codes() {
            let weight = match code.weight {
                Weight::Refused => "refused",
                Weight::RefusedUnlessAllowed => "refused unless allowed",
                Weight::Warning => "warning",
            };
            let row = format!("| `{}` | {weight} | {} |", code.name, code.about);
            assert!(page.contains(&row), "docs/migrations.md lacks\n{row}");
        }
        let mut names: Vec<_> = codes().map(|code| code.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), codes().count(), "a code stands for one thing");
    }
}
