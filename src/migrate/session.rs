//! The session that migrations run in: its role and settings are set before each file, and checked after it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio_postgres::error::{ErrorPosition, SqlState};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::place::{Piece, Place};
use super::reply::ServerError;
use crate::pg::{Error, Ident, literal};

/// The advisory lock that a migrator of a database holds. Advisory locks are apart for each database.
pub(super) const LOCK: i64 = i64::from_be_bytes(*b"mb:migra");

/// The roles of a database that is migrated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// Owns everything that files make. The login must be able to become it.
    pub owner: String,
    /// Owns the schema `manybox` with the history. The login must not be able to become it: whoever owns a table can
    /// have code of its own run by those who write to it.
    pub history: String,
    /// May read and write the history. The login must be able to become it.
    pub writer: String,
    /// Further roles that own something in the database, which no file makes or alters.
    pub others: Vec<String>,
}

impl Default for Roles {
    /// Those of tenants' databases.
    fn default() -> Self {
        let (owner, history, writer) = ("mb_owner".into(), "mb_history".into(), "mb_migrator".into());
        Self { owner, history, writer, others: Vec::new() }
    }
}

impl Roles {
    /// The same role for all: of a database in which no stranger's code runs.
    pub fn all(role: &str) -> Self {
        let role = || role.to_owned();
        Self { owner: role(), history: role(), writer: role(), others: Vec::new() }
    }

    /// The statement that makes the session the owner's.
    pub(super) fn set_owner(&self) -> String {
        format!("SET ROLE {}", Ident::new(&self.owner))
    }

    /// The statement that lets the session at the history.
    pub(super) fn set_writer(&self) -> String {
        format!("SET ROLE {}", Ident::new(&self.writer))
    }

    /// Those that may own something in the database, as literals for `::regrole`.
    fn owners(&self) -> Vec<String> {
        let all = [&self.owner, &self.history].into_iter().chain(&self.others);
        all.map(|role| Ident::new(role).to_string()).collect()
    }
}

/// Why a statement failed, or one of our own checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StatementError {
    /// `None` when the server did not answer, and in our own words.
    pub(super) code: Option<SqlState>,
    pub(super) text: String,
    /// The character of the statement's text, from 1.
    pub(super) position: Option<usize>,
    /// The connection is of no more use.
    pub(super) lost: bool,
    /// The server's own words.
    pub(super) server: Option<Box<ServerError>>,
    /// Where in a file; `None` for a statement of our own.
    pub(super) place: Option<Box<Place>>,
}

impl StatementError {
    pub(super) fn ours(text: String) -> Self {
        Self { code: None, text, position: None, lost: false, server: None, place: None }
    }

    /// The same, of a statement of a file.
    pub(super) fn of(self, piece: &Piece<'_>) -> Self {
        Self { place: Some(Box::new(piece.place(self.position))), ..self }
    }
}

impl From<&tokio_postgres::Error> for StatementError {
    fn from(error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let source = std::error::Error::source(error).map(|s| format!(": {s}")).unwrap_or_default();
            return Self { lost: true, ..Self::ours(format!("{error}{source}")) };
        };
        let server = ServerError::from(db);
        Self {
            code: Some(db.code().clone()),
            text: server.to_string(),
            position: match db.position() {
                Some(ErrorPosition::Original(position)) => usize::try_from(*position).ok(),
                _ => None,
            },
            // 57P01 to 57P05: the server ends the session after the message.
            lost: db.code().code().starts_with("57P"),
            server: Some(Box::new(server)),
            place: None,
        }
    }
}

impl From<tokio_postgres::Error> for StatementError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::from(&error)
    }
}

impl From<Error> for StatementError {
    fn from(error: Error) -> Self {
        match error {
            Error::Connect { source, .. } | Error::Statement(source) => source.into(),
            other => Self::ours(other.to_string()),
        }
    }
}

impl fmt::Display for StatementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The statements that make the session what each file expects, whatever the one before left: the owner's role,
/// objects made in `public`, strings read as the linter read them.
pub(super) fn pinned(roles: &Roles, lock_timeout: Duration, statement_timeout: Option<Duration>) -> String {
    // 0 would mean no timeout at all.
    let lock = lock_timeout.as_millis().max(1);
    let statement = statement_timeout.map_or(0, |timeout| timeout.as_millis().max(1));
    // DISCARD TEMP too: otherwise it would depend on the number of calls whether a file sees the temporary tables of
    // the one before.
    format!(
        "RESET ALL; DISCARD TEMP; {}; SET search_path TO public; SET standard_conforming_strings = on; \
         SET client_min_messages = notice; SET lock_timeout = {}; SET statement_timeout = {}",
        roles.set_owner(),
        literal(&lock.to_string()),
        literal(&statement.to_string()),
    )
}

/// What sets an edition's own settings, to stand behind [`pinned`]. `set_config` reads lists as they are written in
/// `postgresql.conf`.
pub(super) fn settings(settings: &BTreeMap<String, String>) -> String {
    let set = settings.iter().map(|(name, value)| {
        format!("; SELECT pg_catalog.set_config({}, {}, false)", literal(name), literal(value))
    });
    set.collect()
}

/// The statement that takes back what a file's statement, or a function that it called, raised of these timeouts. A file
/// may lower them.
pub(super) fn clamped(lock_timeout: Duration, statement_timeout: Option<Duration>) -> String {
    let longest = |name: &str, timeout: Duration| {
        let most = timeout.as_millis().max(1);
        let (interval, most, name) =
            (literal(&format!("{most} ms")), literal(&most.to_string()), literal(name));
        // As a number of milliseconds, which pg_settings has, it would cost a thousand times as much.
        format!(
            "SELECT CASE WHEN now OPERATOR(pg_catalog.=) '0'
                           OR now::pg_catalog.interval OPERATOR(pg_catalog.>) {interval}::pg_catalog.interval
                         THEN pg_catalog.set_config({name}, {most}, false) END
             FROM pg_catalog.current_setting({name}) AS now"
        )
    };
    let lock = longest("lock_timeout", lock_timeout);
    match statement_timeout {
        Some(timeout) => format!("{lock}; {}", longest("statement_timeout", timeout)),
        None => lock,
    }
}

/// The rows that each statement of a message gave.
pub(super) fn answers(messages: Vec<SimpleQueryMessage>) -> Vec<Vec<SimpleQueryRow>> {
    let (mut answers, mut rows) = (Vec::new(), Vec::new());
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => rows.push(row),
            SimpleQueryMessage::CommandComplete(_) => answers.push(std::mem::take(&mut rows)),
            _ => {}
        }
    }
    answers
}

/// The one row of a question that always has one.
pub(super) fn first_row(rows: Option<&Vec<SimpleQueryRow>>) -> Result<&SimpleQueryRow, StatementError> {
    rows.and_then(|rows| rows.first())
        .ok_or_else(|| StatementError::ours("a question that always has an answer got none".into()))
}

/// A column that is never null, as text.
fn text(row: &SimpleQueryRow, column: usize) -> Result<String, StatementError> {
    Ok(row.try_get(column)?.unwrap_or_default().to_owned())
}

/// What a file must leave alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) current_user: String,
    pub(super) session_user: String,
    /// Whether the migration lock is ours.
    pub(super) locked: bool,
    /// Whether a transaction was open before the question.
    pub(super) in_transaction: bool,
    /// Whether some object belongs neither to the owner nor to the history's; [`foreign_object`] says which.
    pub(super) has_foreign_objects: bool,
}

impl State {
    /// Asks who we are, whether the lock is ours, and whether anything in this database has another owner.
    ///
    /// Owners are in pg_shdepend, but for the bootstrap superuser, as whom no migration can make anything. The question
    /// is asked after every file, in sessions with empty caches, so it is kept cheap to plan: the database's oid is
    /// taken from a file's path, which is cheaper than reading pg_database.
    ///
    /// The lock is taken once more rather than looked up in pg_locks; a session may hold it many times. If a file
    /// released it, it is ours again, or another migrator has it and we stop. What a migrator applied in between shows
    /// in the history.
    pub(super) fn question(roles: &Roles) -> String {
        let owners = roles
            .owners()
            .iter()
            .map(|role| format!("{}::pg_catalog.regrole", literal(role)))
            .collect::<Vec<_>>();
        let owners = owners.join(", ");
        format!(
            "SELECT current_user, session_user,
                    pg_catalog.pg_try_advisory_lock({LOCK}),
                    pg_catalog.now() <> pg_catalog.statement_timestamp(),
                    EXISTS (SELECT FROM pg_catalog.pg_shdepend d
                            WHERE d.dbid = pg_catalog.split_part(pg_catalog.pg_relation_filepath('pg_catalog.pg_class'), '/', -2)::oid
                              AND d.deptype = 'o' AND d.refobjid NOT IN ({owners}))"
        )
    }

    /// Reads the answer.
    pub(super) fn read(row: &SimpleQueryRow) -> Result<Self, StatementError> {
        Ok(Self {
            current_user: text(row, 0)?,
            session_user: text(row, 1)?,
            locked: row.try_get(2)? == Some("t"),
            in_transaction: row.try_get(3)? == Some("t"),
            has_foreign_objects: row.try_get(4)? == Some("t"),
        })
    }
}

/// The first object of another owner, but for what belongs to an extension or is a part of something else (indexes,
/// array and row types), which an extension's script doesn't mark as its own. Below 16384 are the server's own objects
/// (FirstNormalObjectId), thousands.
const FOREIGN: &str = "
WITH object AS (
    SELECT 'pg_catalog.pg_namespace'::regclass::oid AS class, oid, nspowner AS owner, oid AS schema FROM pg_catalog.pg_namespace WHERE oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, oid, relowner, relnamespace FROM pg_catalog.pg_class WHERE oid >= 16384 AND relkind NOT IN ('i', 'I')
    UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, oid, proowner, pronamespace FROM pg_catalog.pg_proc WHERE oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_type'::regclass, oid, typowner, typnamespace FROM pg_catalog.pg_type WHERE oid >= 16384
)
SELECT pg_catalog.pg_describe_object(o.class, o.oid, 0), pg_catalog.pg_get_userbyid(o.owner)::text
FROM object o JOIN pg_catalog.pg_namespace n ON n.oid = o.schema
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND o.owner <> ALL ($1::text[]::pg_catalog.regrole[])
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype IN ('e', 'i'))
ORDER BY o.class, o.oid LIMIT 1";

/// Asks for the [`State`].
pub(super) async fn state(client: &Client, roles: &Roles) -> Result<State, StatementError> {
    let answers = answers(client.simple_query(&State::question(roles)).await?);
    State::read(first_row(answers.first())?)
}

/// An object that doesn't belong to the owner and is nobody's part, with whom it belongs to.
pub(super) async fn foreign_object(
    client: &Client,
    roles: &Roles,
) -> Result<Option<(String, String)>, StatementError> {
    let owners = roles.owners();
    let rows = client.query_typed(FOREIGN, &[(&owners.as_slice(), Type::TEXT_ARRAY)]).await?;
    Ok(rows
        .first()
        .map(|row| Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?)))
        .transpose()?)
}
