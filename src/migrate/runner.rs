//! `bring`: applies an edition to one database, file by file, and says how far it came.

use std::time::Duration;

use futures_util::future::{join, join3};
use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::edition::{Edition, File};
use super::history::{self, Applied, Disagreement, Unread, digest_of};
use super::session::{self, Said};
use super::{engine, outside};
use crate::pg::AdvisoryLock;

/// The first pause after a lock could not be had; it doubles each time, up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries of a file.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How a database is brought along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The role that owns the tenants' objects. The login must be a member of it.
    pub owner: String,
    /// How long a statement of a file waits for a lock. All requests that want the same table wait behind it, so
    /// keep it short. Files outside transactions, which hold nobody up, wait for `lock_wait` instead.
    pub lock_timeout: Duration,
    /// How often a file is tried again after it could not have a lock or was the victim of a deadlock.
    pub retries: u32,
    /// How long to wait for another migrator of the same database.
    pub lock_wait: Duration,
    /// The longest time for one statement of a file; `None` for no limit.
    pub statement_timeout: Option<Duration>,
    /// The newest version to apply; `None` for all.
    pub target: Option<i32>,
}

impl Default for Options {
    /// The usual waits, for objects owned by `mb_owner`.
    fn default() -> Self {
        Self {
            owner: "mb_owner".to_owned(),
            lock_timeout: Duration::from_secs(2),
            retries: 5,
            lock_wait: Duration::from_secs(60),
            statement_timeout: None,
            target: None,
        }
    }
}

/// A database that was brought along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The version found; 0 when nothing had been applied.
    pub before: i32,
    /// The version left.
    pub after: i32,
    /// The digest of the history that was left, as [`Edition::history_digest`] has it.
    pub history: String,
    /// The versions applied by this call.
    pub applied: Vec<i32>,
    /// How often a file was tried again for want of a lock.
    pub lock_retries: u32,
}

/// Why a database was not brought all the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Other files were applied than the edition holds, or the history was tampered with.
    Divergent,
    /// The database is newer than the edition.
    Ahead,
    /// The edition has a new file below a version that was applied.
    OutOfOrder,
    /// Another migrator had the database all the time.
    Busy,
    /// The database's traffic kept a lock in every try; trying later may help.
    Lock,
    /// A file's statement failed; the file was rolled back.
    Sql,
    /// Something doesn't belong to the owner, or the login can't become it.
    Owner,
    /// A file changed the session or the history behind our back. It was applied.
    Session,
    /// The connection broke. The file at hand may have been applied: the next call finds out.
    Connection,
}

/// A database that was not brought all the way. What was applied before stays applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure, for decisions.
    pub kind: Kind,
    /// What was wrong, where, what to do next.
    pub message: String,
    /// The newest version known to be applied; 0 when none, or when the history could not be read.
    pub reached: i32,
    /// The digest of the history up to `reached`.
    pub history: String,
    /// The versions applied by this call.
    pub applied: Vec<i32>,
    /// How often a file was tried again for want of a lock.
    pub lock_retries: u32,
}

/// What is known of the database while it is being brought along.
#[derive(Default)]
struct Progress {
    before: i32,
    rows: Vec<Applied>,
    applied: Vec<i32>,
    lock_retries: u32,
}

impl Progress {
    fn reached(&self) -> i32 {
        self.rows.last().map_or(0, |row| row.version)
    }
}

/// A failure before it is told how far we came.
struct Stop(Kind, String);

impl From<Said> for Stop {
    fn from(said: Said) -> Self {
        Self(if said.lost { Kind::Connection } else { Kind::Sql }, said.text)
    }
}

/// Applies the files that the database lacks, up to the target, each in its own transaction with its history row.
///
/// Safe to call again after anything: a file is applied with its history row or not at all, and what runs outside
/// transactions is continued. The session is given back with its own role and settings. Dropping the future leaves
/// the session as it is: close the connection then.
///
/// # Errors
/// The failure says how far the database came.
pub async fn bring(client: &mut Client, edition: &Edition, options: &Options) -> Result<Outcome, Failure> {
    let mut progress = Progress::default();
    let result = locked(client, edition, options, &mut progress).await;
    let (reached, history) = (progress.reached(), digest_of(&progress.rows));
    let Progress { before, applied, lock_retries, .. } = progress;
    match result {
        Ok(()) => {
            tracing::info!(
                edition = edition.name,
                version.before = before,
                version.after = reached,
                files.applied = applied.len(),
                lock.retries = lock_retries,
                "database migrated"
            );
            Ok(Outcome { before, after: reached, history, applied, lock_retries })
        }
        Err(Stop(kind, message)) => {
            tracing::warn!(
                edition = edition.name, version.before = before, version.after = reached,
                files.applied = applied.len(), lock.retries = lock_retries, failure.kind = ?kind, failure = message,
                "database not migrated"
            );
            Err(Failure { kind, message, reached, history, applied, lock_retries })
        }
    }
}

/// Runs everything under the owner's role and the database's migration lock, and gives both back.
async fn locked(
    client: &mut Client,
    edition: &Edition,
    options: &Options,
    progress: &mut Progress,
) -> Result<(), Stop> {
    if let Err(said) = pin(client, options, options.lock_timeout).await {
        let lost = said.lost;
        let message = format!(
            "the login can't become `{0}`: {said}; run `GRANT {0} TO` it as the server's administrator",
            options.owner
        );
        return Err(if lost { said.into() } else { Stop(Kind::Owner, message) });
    }
    let lock = AdvisoryLock::acquire(client, session::LOCK, options.lock_wait).await.map_err(Said::from);
    let result = match &lock {
        Ok(Some(_)) => files(client, edition, options, progress).await,
        Ok(None) => Err(Stop(
            Kind::Busy,
            format!("another migrator has held the database for {:?}: try again later", options.lock_wait),
        )),
        Err(said) => Err(said.clone().into()),
    };
    // Whatever these two say, the result is what counts: where they fail the session is over, and with it the lock.
    let release = async {
        if let Ok(Some(lock)) = lock {
            let _ = lock.release(client).await;
        }
    };
    let _ = join(session::restore(client), release).await;
    result
}

async fn pin(client: &Client, options: &Options, lock_timeout: Duration) -> Result<(), Said> {
    session::pin(client, &options.owner, lock_timeout, options.statement_timeout).await
}

/// Reads the history, compares it, applies what is pending.
async fn files(
    client: &mut Client,
    edition: &Edition,
    options: &Options,
    progress: &mut Progress,
) -> Result<(), Stop> {
    progress.rows = history::read(client).await.map_err(unread)?;
    progress.before = progress.reached();
    let pending = history::pending(edition, &progress.rows).map_err(|disagreement| match disagreement {
        Disagreement::Divergent(said) => Stop(Kind::Divergent, said),
        Disagreement::Ahead(said) => Stop(Kind::Ahead, said),
        Disagreement::OutOfOrder(said) => Stop(Kind::OutOfOrder, said),
    })?;
    let target = options.target.unwrap_or(i32::MAX);
    let pending = &pending[..pending.partition_point(|file| file.version <= target)];
    if pending.is_empty() {
        return Ok(());
    }
    // Before anything is applied, so that what others left is not laid at a file's door.
    let checked = check(client, options, None, "before any file was applied");
    let (session, made) = join(checked, session::ensure_history(client)).await;
    let session = session?;
    made?;
    for file in pending {
        apply(client, edition, file, options, progress).await?;
        settle(client, file, options, progress, &session).await?;
    }
    Ok(())
}

fn unread(why: Unread) -> Stop {
    match why {
        Unread::Database(error) => Said::from(error).into(),
        Unread::Tampered(said) => Stop(Kind::Divergent, said),
    }
}

/// Applies one file, trying again when the traffic holds a lock.
async fn apply(
    client: &mut Client,
    edition: &Edition,
    file: &File,
    options: &Options,
    progress: &mut Progress,
) -> Result<(), Stop> {
    // What runs outside transactions waits in nobody's way.
    let lock_timeout = if file.transactional { options.lock_timeout } else { options.lock_wait };
    let mut tries = 0;
    loop {
        // The first time the session is pinned already, by `locked` or after the file before.
        if tries > 0 || !file.transactional {
            pin(client, options, lock_timeout).await?;
        }
        let result = if file.transactional {
            engine::apply(client, edition.up_to(file.version)).await
        } else {
            outside::run(client, file).await
        };
        let Err(said) = result else { return Ok(()) };
        let locked = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
        if !said.code.as_ref().is_some_and(|code| locked.contains(code)) {
            return Err(failed(file, said));
        }
        if tries == options.retries {
            let file = file.file_name();
            return Err(Stop(
                Kind::Lock,
                format!(
                    "{file}: {said}, in each of {} tries: try again when there is less traffic",
                    tries + 1
                ),
            ));
        }
        sleep(PAUSE.saturating_mul(1 << tries.min(16)).min(MAX_PAUSE)).await;
        tries += 1;
        progress.lock_retries += 1;
    }
}

/// Looks at what an applied file left behind, and takes over what the history now says.
async fn settle(
    client: &Client,
    file: &File,
    options: &Options,
    progress: &mut Progress,
    session: &str,
) -> Result<(), Stop> {
    // First what the file made of the session, then our own role again, without which the history can't be read; in
    // this order, in one round trip.
    let when = format!("after {}", file.file_name());
    let checked = check(client, options, Some(session), &when);
    let pinned = pin(client, options, options.lock_timeout);
    let (checked, pinned, rows) = join3(checked, pinned, history::read_known(client)).await;
    pinned?;
    let mut expected = progress.rows.clone();
    expected.push(history::row_of(file));
    progress.rows = rows.map_err(unread)?;
    progress.applied.push(file.version);
    if progress.rows != expected {
        let message =
            format!("{} changed the history of migrations: restore {}", file.file_name(), history::HISTORY);
        return Err(Stop(Kind::Session, message));
    }
    checked.map(|_| ())
}

/// Words a file's error, with the line that the server points at.
fn failed(file: &File, said: Said) -> Stop {
    let name = file.file_name();
    if said.lost {
        return Stop(
            Kind::Connection,
            format!("{name}: {said}; whether it was applied shows at the next run"),
        );
    }
    // The row is written in the file's own transaction, by whoever the file left us as.
    if said.code == Some(SqlState::INSUFFICIENT_PRIVILEGE)
        && (said.text.contains("schema_history") || said.text.contains("schema manybox"))
    {
        return Stop(Kind::Owner, format!("{name} leaves the owner's role, so it was rolled back: {said}"));
    }
    let line = said.position.map(|position| {
        let before = file.sql.chars().take(position.saturating_sub(1));
        format!(":{}", before.filter(|c| *c == '\n').count() + 1)
    });
    Stop(Kind::Sql, format!("{name}{}: {said}", line.unwrap_or_default()))
}

/// Checks that we are still who we were, under our lock, and that everything belongs to the owner.
async fn check(
    client: &Client,
    options: &Options,
    session: Option<&str>,
    when: &str,
) -> Result<String, Stop> {
    let owner = &options.owner;
    let state = session::state(client, owner).await?;
    if state.current_user != *owner {
        let message = format!("{when} the role is `{}` instead of `{owner}`", state.current_user);
        return Err(Stop(Kind::Owner, message));
    }
    if session.is_some_and(|session| session != state.session_user) {
        return Err(Stop(Kind::Session, format!("{when} the session belongs to `{}`", state.session_user)));
    }
    if !state.locked {
        let message = format!("{when} the migration's advisory lock is gone: remove what releases it");
        return Err(Stop(Kind::Session, message));
    }
    if let Some((object, whose)) = state.foreign {
        let message = format!(
            "{when} {object} belongs to `{whose}`: all of a tenant's objects belong to `{owner}`, alter its owner or \
             drop it"
        );
        return Err(Stop(Kind::Owner, message));
    }
    Ok(state.session_user)
}
