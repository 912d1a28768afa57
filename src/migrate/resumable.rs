//! Statements outside transactions: which must be there, and how each of them goes on after a crash.

use std::borrow::Cow;

use super::statements::{Statement, split};

/// A table or index as a file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RelationName {
    /// `None` when the search path finds it.
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

/// How a statement of a file outside transactions is run, and run again when it was interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StepKind {
    /// `SET`, `RESET` and `SELECT set_config(…)`: holds for the steps behind it, so it is run in front of each and never
    /// recorded.
    Setting,
    /// Runs in a transaction with its record: it has been applied or it has not.
    Atomic,
    /// Can be run twice: because the server says so (`VACUUM`, `IF EXISTS`), or because its author must see to it
    /// (`DO` and `CALL` that commit).
    Repeatable,
    /// `CREATE INDEX CONCURRENTLY`. Interrupted, it leaves an invalid index, which is dropped and built again. It is
    /// made in its table's schema.
    CreateIndex {
        index: String,
        table: RelationName,
        /// A valid index of that name is right too.
        if_not_exists: bool,
    },
    /// `DROP INDEX CONCURRENTLY` without `IF EXISTS`: begun before, an index that is gone is right.
    DropIndex(RelationName),
    /// `REINDEX … CONCURRENTLY`. Interrupted, it leaves invalid indexes that end in `_ccnew` or `_ccold`, which are
    /// dropped first.
    Reindex(ReindexTarget),
    /// `ALTER TABLE … DETACH PARTITION … CONCURRENTLY`. Interrupted, it is ended by `FINALIZE`.
    DetachPartition { parent: RelationName, partition: RelationName },
}

/// What `REINDEX` is told to rebuild.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReindexTarget {
    Index(RelationName),
    Table(RelationName),
    Schema(String),
    /// The whole database, or its system catalogs.
    Database,
}

/// Why a statement is refused, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) fix: String,
}

/// Why a statement can't be in a file that runs in a transaction, if so.
pub(super) fn required_by(statement: &Statement<'_>) -> Option<Refusal> {
    let at = |i| statement.keyword(i).unwrap_or_default();
    let what = match (at(0).as_str(), at(1).as_str()) {
        ("VACUUM", _) => "VACUUM",
        ("CREATE" | "DROP" | "REINDEX" | "ALTER", _) if is_concurrent(statement) => "CONCURRENTLY",
        ("REINDEX", _) if reindex_target(statement).is_some_and(|(t, _)| is_wide(&t)) => "REINDEX",
        ("CLUSTER", _) if cluster_is_wide(statement) => "CLUSTER",
        ("DO", _) if commits(statement) => "COMMIT",
        _ => return None,
    };
    Some(Refusal {
        reason: format!("`{what}` can't run in a transaction"),
        fix: "move the statement into a file whose first line is `-- manybox: no-transaction`".into(),
    })
}

fn is_wide(target: &ReindexTarget) -> bool {
    matches!(target, ReindexTarget::Schema(_) | ReindexTarget::Database)
}

/// Whether it is `CLUSTER` of all tables.
fn cluster_is_wide(statement: &Statement<'_>) -> bool {
    statement.len() == 1 || (statement.len() == 2 && statement.has_at(1, &["VERBOSE"]))
}

/// Whether a `DO` block ends transactions: `COMMIT` or `ROLLBACK` where a statement begins.
fn commits(statement: &Statement<'_>) -> bool {
    statement.strings().any(|(body, _)| {
        split(&body).is_ok_and(|statements| statements.iter().any(|inner| ends_transaction(&inner)))
    })
}

fn ends_transaction(inner: &Statement<'_>) -> bool {
    (0..inner.len()).any(|at| {
        let ends = inner.has_at(at, &["COMMIT"]) || inner.has_at(at, &["ROLLBACK"]);
        ends && inner.begins_at(at) && (at + 1 == inner.len() || inner.has_at(at + 1, &["AND"]))
    })
}

fn is_concurrent(statement: &Statement<'_>) -> bool {
    let at_object = |i| statement.has_at(i, &["INDEX", "CONCURRENTLY"]);
    match statement.keyword(0).as_deref() {
        Some("CREATE") => at_object(1) || at_object(2),
        Some("DROP") => at_object(1),
        Some("REINDEX") => reindex_target(statement).is_some_and(|(_, concurrently)| concurrently),
        _ => detached(statement).is_some_and(|(.., concurrently)| concurrently),
    }
}

/// The value that `ALTER TYPE … ADD VALUE` adds, and its line.
pub(super) fn added_enum_value<'t>(statement: &Statement<'t>) -> Option<(Cow<'t, str>, u64)> {
    let at = statement.find(2, &["ADD", "VALUE"]).filter(|_| statement.has_at(0, &["ALTER", "TYPE"]))? + 2;
    statement.string(if statement.has_at(at, &["IF", "NOT", "EXISTS"]) { at + 3 } else { at })
}

/// Whether no request stands behind a statement while it waits for a lock: what is done CONCURRENTLY, and VACUUM.
pub(super) fn waits_alone(statement: &Statement<'_>) -> bool {
    is_concurrent(statement) || (statement.has_at(0, &["VACUUM"]) && !statement.has("FULL"))
}

/// Whether it sets something that the statements behind it rely on: `SET`, `RESET`, or `SELECT set_config(…)` with constants
/// and nothing besides, which the head of a dump has.
pub(super) fn is_setting(statement: &Statement<'_>) -> bool {
    if statement.has_at(0, &["SET"]) || statement.has_at(0, &["RESET"]) {
        return !statement.has_at(1, &["CONSTRAINTS"]);
    }
    let Some((schema, name, at)) = statement.qualified_name(1).filter(|_| statement.has_at(0, &["SELECT"]))
    else {
        return false;
    };
    name == "set_config"
        && schema.is_none_or(|schema| schema == "pg_catalog")
        && statement.opens_at(at)
        && statement.string(at + 1).is_some()
        && statement.string(at + 3).is_some()
        && statement.len() == at + 7
}

/// How a marked file's statement is run.
///
/// # Errors
/// When it is none that could be continued after a crash.
pub(super) fn step(statement: &Statement<'_>) -> Result<StepKind, Refusal> {
    Ok(match statement.keyword(0).unwrap_or_default().as_str() {
        _ if is_setting(statement) => StepKind::Setting,
        "CREATE" if is_concurrent(statement) => index(statement)?,
        "DROP" if is_concurrent(statement) => dropped_index(statement)?,
        "REINDEX" => match reindex_target(statement) {
            Some((target, true)) => StepKind::Reindex(target),
            Some((target, false)) if !is_wide(&target) => StepKind::Atomic,
            _ => StepKind::Repeatable,
        },
        "ALTER" if is_concurrent(statement) => match detached(statement) {
            Some((parent, partition, _)) => StepKind::DetachPartition { parent, partition },
            None => StepKind::Atomic,
        },
        "VACUUM" | "CALL" => StepKind::Repeatable,
        "DO" if commits(statement) => StepKind::Repeatable,
        "CLUSTER" if cluster_is_wide(statement) => StepKind::Repeatable,
        "SAVEPOINT" | "RELEASE" => {
            return Err(Refusal {
                reason: "there is no transaction for a savepoint in a file marked no-transaction".into(),
                fix: "remove it".into(),
            });
        }
        _ => StepKind::Atomic,
    })
}

fn relation(statement: &Statement<'_>, at: usize) -> Option<(RelationName, usize)> {
    let (schema, name, next) = statement.qualified_name(at)?;
    Some((RelationName { schema, name }, next))
}

/// Reads `CREATE [UNIQUE] INDEX CONCURRENTLY [IF NOT EXISTS] <name> ON [ONLY] [<schema>.]<table>`.
fn index(statement: &Statement<'_>) -> Result<StepKind, Refusal> {
    let at = if statement.has_at(1, &["UNIQUE"]) { 4 } else { 3 };
    let if_not_exists = statement.has_at(at, &["IF", "NOT", "EXISTS"]);
    let at = if if_not_exists { at + 3 } else { at };
    let only = usize::from(statement.has_at(at + 2, &["ONLY"]));
    let (Some(index), true, Some((table, _))) =
        (statement.name(at), statement.has_at(at + 1, &["ON"]), relation(statement, at + 2 + only))
    else {
        return Err(Refusal {
            reason: "gives the index no plain name, by which an interrupted build could be found again"
                .into(),
            fix: "write `CREATE INDEX CONCURRENTLY name ON table …`".into(),
        });
    };
    // PostgreSQL cuts longer names, and the index would be looked for in vain.
    if index.len() > 63 {
        return Err(Refusal {
            reason: format!("gives the index a name of {} bytes, of which the server keeps 63", index.len()),
            fix: "choose a shorter one".into(),
        });
    }
    Ok(StepKind::CreateIndex { index, table, if_not_exists })
}

/// Reads `DROP INDEX CONCURRENTLY [IF EXISTS] <name>`.
fn dropped_index(statement: &Statement<'_>) -> Result<StepKind, Refusal> {
    if statement.has_at(3, &["IF", "EXISTS"]) {
        return Ok(StepKind::Repeatable);
    }
    let index = relation(statement, 3).map(|(index, _)| StepKind::DropIndex(index));
    index.ok_or_else(|| Refusal {
        reason: "names the index in a way that manybox can't look for".into(),
        fix: "write `DROP INDEX CONCURRENTLY IF EXISTS name`".into(),
    })
}

/// Reads `REINDEX [(options)] {INDEX|TABLE|SCHEMA|DATABASE|SYSTEM} [CONCURRENTLY] [name]`, and whether it is
/// concurrent.
fn reindex_target(statement: &Statement<'_>) -> Option<(ReindexTarget, bool)> {
    if !statement.has_at(0, &["REINDEX"]) {
        return None;
    }
    let kinds = ["INDEX", "TABLE", "SCHEMA", "DATABASE", "SYSTEM"];
    let at = if statement.opens_at(1) {
        (2..statement.len()).find(|at| statement.written(*at) == ")")? + 1
    } else {
        1
    };
    let kind = statement.keyword(at)?;
    if !kinds.contains(&kind.as_str()) {
        return None;
    }
    let option = (2..at).find(|i| statement.has_at(*i, &["CONCURRENTLY"]));
    let off = |i: usize| {
        ["false", "off", "0", "'off'", "'false'"]
            .contains(&statement.written(i + 1).to_ascii_lowercase().as_str())
    };
    let word = statement.has_at(at + 1, &["CONCURRENTLY"]);
    let name = at + 1 + usize::from(word);
    let target = match kind.as_str() {
        "INDEX" => ReindexTarget::Index(relation(statement, name)?.0),
        "TABLE" => ReindexTarget::Table(relation(statement, name)?.0),
        "SCHEMA" => ReindexTarget::Schema(statement.name(name)?),
        _ => ReindexTarget::Database,
    };
    Some((target, word || option.is_some_and(|i| !off(i))))
}

/// Reads `ALTER TABLE [IF EXISTS] [ONLY] <parent> DETACH PARTITION <partition> [CONCURRENTLY]`.
fn detached(statement: &Statement<'_>) -> Option<(RelationName, RelationName, bool)> {
    if !statement.has_at(0, &["ALTER", "TABLE"]) {
        return None;
    }
    let at = if statement.has_at(2, &["IF", "EXISTS"]) { 4 } else { 2 };
    let at = at + usize::from(statement.has_at(at, &["ONLY"]));
    let (parent, at) = relation(statement, at)?;
    if !statement.has_at(at, &["DETACH", "PARTITION"]) {
        return None;
    }
    let (partition, at) = relation(statement, at + 2)?;
    Some((parent, partition, statement.has_at(at, &["CONCURRENTLY"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(sql: &str) -> Result<StepKind, Refusal> {
        step(&split(sql).unwrap().iter().next().unwrap())
    }

    fn name(text: &str) -> RelationName {
        let (schema, name) = text.split_once('.').map_or((None, text), |(s, n)| (Some(s.to_owned()), n));
        RelationName { schema, name: name.to_owned() }
    }

    #[test]
    fn each_statement_has_its_way_to_go_on() {
        let index = |index: &str, table: &str, if_not_exists| StepKind::CreateIndex {
            index: index.to_owned(),
            table: name(table),
            if_not_exists,
        };
        let detach = |parent: &str, partition: &str| StepKind::DetachPartition {
            parent: name(parent),
            partition: name(partition),
        };
        for (sql, expected) in [
            ("CREATE INDEX CONCURRENTLY i ON t (a)", index("i", "t", false)),
            ("create unique index concurrently \"I\" on only s.t (a)", index("I", "s.t", false)),
            ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)", index("i", "t", true)),
            ("DROP INDEX CONCURRENTLY IF EXISTS i", StepKind::Repeatable),
            ("DROP INDEX CONCURRENTLY s.i CASCADE", StepKind::DropIndex(name("s.i"))),
            ("REINDEX TABLE CONCURRENTLY t", StepKind::Reindex(ReindexTarget::Table(name("t")))),
            (
                "REINDEX (VERBOSE) INDEX CONCURRENTLY s.i",
                StepKind::Reindex(ReindexTarget::Index(name("s.i"))),
            ),
            ("REINDEX (CONCURRENTLY) SCHEMA s", StepKind::Reindex(ReindexTarget::Schema("s".into()))),
            ("REINDEX (CONCURRENTLY OFF) TABLE t", StepKind::Atomic),
            ("REINDEX DATABASE CONCURRENTLY", StepKind::Reindex(ReindexTarget::Database)),
            ("REINDEX DATABASE d", StepKind::Repeatable),
            ("ALTER TABLE s.p DETACH PARTITION q CONCURRENTLY", detach("s.p", "q")),
            ("ALTER TABLE IF EXISTS ONLY p DETACH PARTITION s.q CONCURRENTLY", detach("p", "s.q")),
            ("ALTER TABLE p DETACH PARTITION q FINALIZE", StepKind::Atomic),
            ("VACUUM (ANALYZE) t", StepKind::Repeatable),
            ("ALTER TYPE e ADD VALUE 'x'", StepKind::Atomic),
            ("CREATE TABLE t ()", StepKind::Atomic),
            ("SET search_path TO s", StepKind::Setting),
            ("SELECT pg_catalog.set_config('search_path', '', false)", StepKind::Setting),
            ("select set_config('a.b', 'c', true)", StepKind::Setting),
            ("SELECT set_config('a.b', c, false) FROM t", StepKind::Atomic),
            ("SELECT s.set_config('a.b', 'c', false)", StepKind::Atomic),
            ("SELECT set_config('a.b', 'c', f())", StepKind::Atomic),
            ("SET CONSTRAINTS ALL DEFERRED", StepKind::Atomic),
            ("DO $$ BEGIN PERFORM 1; END $$", StepKind::Atomic),
            ("DO $$ BEGIN LOOP UPDATE t SET a = 1; COMMIT; END LOOP; END $$", StepKind::Repeatable),
            ("DO 'BEGIN IF true THEN ROLLBACK AND CHAIN; END IF; END'", StepKind::Repeatable),
            ("CALL p()", StepKind::Repeatable),
        ] {
            assert_eq!(kind(sql), Ok(expected), "{sql}");
        }
        for (sql, hint) in [
            ("CREATE INDEX CONCURRENTLY ON t (a)", "no plain name"),
            ("CREATE INDEX CONCURRENTLY U&\"i\" ON t (a)", "no plain name"),
            (&format!("CREATE INDEX CONCURRENTLY {} ON t (a)", "i".repeat(64)), "64 bytes"),
            ("SAVEPOINT a", "no transaction"),
        ] {
            assert!(kind(sql).unwrap_err().reason.contains(hint), "{sql}");
        }
    }

    #[test]
    fn what_holds_requests_up_does_not_wait_for_long() {
        let alone = |sql: &str| waits_alone(&split(sql).unwrap().iter().next().unwrap());
        for sql in [
            "VACUUM t",
            "VACUUM (ANALYZE) t",
            "CREATE INDEX CONCURRENTLY i ON t (a)",
            "REINDEX TABLE CONCURRENTLY t",
        ] {
            assert!(alone(sql), "{sql}");
        }
        for sql in [
            "VACUUM FULL t",
            "VACUUM (full, analyze) t",
            "CLUSTER",
            "ALTER TABLE t ADD a int",
            "REINDEX SCHEMA s",
        ] {
            assert!(!alone(sql), "{sql}");
        }
    }

    #[test]
    fn what_needs_to_be_outside_is_known() {
        let required = |sql: &str| required_by(&split(sql).unwrap().iter().next().unwrap()).is_some();
        for sql in [
            "VACUUM t",
            "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)",
            "REINDEX INDEX CONCURRENTLY i",
            "REINDEX (CONCURRENTLY TRUE) TABLE t",
            "REINDEX SCHEMA s",
            "DROP INDEX CONCURRENTLY i",
            "ALTER TABLE p DETACH PARTITION q CONCURRENTLY",
            "CLUSTER",
            "DO $$ BEGIN <<a>> COMMIT; END $$",
        ] {
            assert!(required(sql), "{sql}");
        }
        for sql in [
            "REINDEX TABLE t",
            "ALTER TABLE p DETACH PARTITION q",
            "CLUSTER t USING i",
            "DO $$ BEGIN RAISE 'COMMIT;'; RETURN; END $$",
            "DO $$ BEGIN PERFORM count(commit) FROM t; PERFORM t.commit; END $$",
            "CALL p()",
        ] {
            assert!(!required(sql), "{sql}");
        }
    }
}
