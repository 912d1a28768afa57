//! Statements that can't run in a transaction: which they are, and which of them can be continued after a crash.

use super::file::NO_TRANSACTION;
use super::statements::Statement;

/// A statement that we know how to run again after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ResumableStatement {
    /// `CREATE INDEX CONCURRENTLY`: leaves an invalid index when it fails.
    Index {
        /// The table's schema, where the index will be.
        schema: String,
        name: String,
    },
    /// Has the same effect when run twice.
    Repeatable,
}

/// Why a statement can't be in a file that runs in a transaction, if so.
pub(super) fn required_by(statement: &Statement<'_>) -> Option<String> {
    let first = statement.keyword(0)?;
    let what = match first.as_str() {
        "VACUUM" => "VACUUM",
        "CREATE" | "DROP" | "REINDEX" | "ALTER" if is_concurrent(statement) => "CONCURRENTLY",
        _ => return None,
    };
    Some(format!(
        "`{what}` can't run in a transaction: put the statement alone into a file whose first line is \
         `{NO_TRANSACTION}`"
    ))
}

fn is_concurrent(statement: &Statement<'_>) -> bool {
    let at_object = |i| statement.has_at(i, &["INDEX", "CONCURRENTLY"]);
    match statement.keyword(0).as_deref() {
        Some("CREATE") => at_object(1) || at_object(2),
        Some("DROP") => at_object(1),
        Some("REINDEX") => statement.has("CONCURRENTLY"),
        _ => statement.has_at(1, &["TABLE"]) && statement.has("DETACH") && statement.has("CONCURRENTLY"),
    }
}

/// Whether it is `ALTER TYPE … ADD VALUE`.
pub(super) fn adds_enum_value(statement: &Statement<'_>) -> bool {
    statement.has_at(0, &["ALTER", "TYPE"]) && statement.has_pair("ADD", "VALUE")
}

/// How a marked file's statement is run.
///
/// # Errors
/// A sentence, when it is none that could be continued after a crash.
pub(super) fn step(statement: &Statement<'_>) -> Result<ResumableStatement, String> {
    let refuse = |reason: &str| Err(reason.to_owned());
    match statement.keyword(0).unwrap_or_default().as_str() {
        "CREATE" if is_concurrent(statement) => index(statement),
        "DROP" if is_concurrent(statement) => {
            if statement.has_at(3, &["IF", "EXISTS"]) {
                return Ok(ResumableStatement::Repeatable);
            }
            refuse(
                "must be able to run twice, in case it is interrupted: write `DROP INDEX CONCURRENTLY IF EXISTS`",
            )
        }
        "REINDEX" if is_concurrent(statement) => Ok(ResumableStatement::Repeatable),
        "VACUUM" if statement.has("FULL") => {
            refuse("`VACUUM FULL` shuts out all of the tenant's requests: do it by hand at a quiet hour")
        }
        "VACUUM" => Ok(ResumableStatement::Repeatable),
        "ALTER" if adds_enum_value(statement) => {
            if statement.has_pair("VALUE", "IF") {
                return Ok(ResumableStatement::Repeatable);
            }
            refuse("must be able to run twice, in case it is interrupted: write `ADD VALUE IF NOT EXISTS`")
        }
        _ => refuse(
            "is not among the statements that run outside a transaction (CREATE, DROP INDEX and REINDEX CONCURRENTLY, \
             VACUUM, ALTER TYPE … ADD VALUE), which can be continued when interrupted: run it without the mark",
        ),
    }
}

/// Reads `CREATE [UNIQUE] INDEX CONCURRENTLY <name> ON [ONLY] [<schema>.]<table>`.
fn index(statement: &Statement<'_>) -> Result<ResumableStatement, String> {
    let at = if statement.has_at(1, &["UNIQUE"]) { 4 } else { 3 };
    if statement.has_at(at, &["IF", "NOT", "EXISTS"]) {
        return Err("`IF NOT EXISTS` would take an invalid index that a failed build left for the real one: leave it \
                    out, manybox continues an interrupted build by itself"
            .to_owned());
    }
    let (Some(name), true) = (statement.name(at), statement.has_at(at + 1, &["ON"])) else {
        return Err("must give the index a name, so that an interrupted build can be found again".to_owned());
    };
    // PostgreSQL cuts longer names, and the index would be looked for in vain.
    if name.len() > 63 {
        return Err(format!("gives the index a name of {} bytes; PostgreSQL keeps 63", name.len()));
    }
    let table = if statement.has_at(at + 2, &["ONLY"]) { at + 3 } else { at + 2 };
    let schema = match statement.name(table) {
        Some(schema) if statement.has_dot(table + 1) => schema,
        _ => "public".to_owned(),
    };
    Ok(ResumableStatement::Index { schema, name })
}
