//! `migrate`: applies an edition to one database, file by file, and says how far it came.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::{join, join3};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::edition::Edition;
use super::engine::FileEffects;
use super::file::File;
use super::history::{self, Applied, Disagreement, HistoryError, digest_of};
use super::outcome::{FailureKind, MigrationFailure, MigrationOutcome};
use super::session::{self, Roles, State, StatementError};
use super::{engine, guard, outside};
use crate::backoff::Backoff;
use crate::pg::AdvisoryLock;

/// How often a lock that another migrator holds is tried.
const POLL: Duration = Duration::from_millis(50);

/// Pauses between two tries of a file, after a lock could not be had.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// How a database is migrated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whose what is in the database.
    pub roles: Roles,
    /// How long a statement of a file waits for a lock. Keep it short: all requests for the same table wait behind
    /// it. Files outside transactions hold nobody up, and wait for `lock_wait` instead.
    pub lock_timeout: Duration,
    /// How often a file is tried again after it could not have a lock or was the victim of a deadlock.
    pub retries: u32,
    /// How long to wait for another migrator of the same database.
    pub lock_wait: Duration,
    /// The longest time for one statement of a file; `None` for no limit.
    pub statement_timeout: Option<Duration>,
    /// Settings of PostgreSQL that files run with, by name; those of the edition are taken besides.
    pub settings: BTreeMap<String, String>,
    /// The newest version to apply; `None` for all.
    pub target: Option<i64>,
    /// Whether everything in the database is known to belong to its owners; see
    /// [`databases_with_foreign_objects`](super::databases_with_foreign_objects). Then the database is not asked
    /// again after files that can't have changed it.
    pub all_owned: bool,
}

impl Default for Options {
    /// The usual waits, in a tenant's database.
    fn default() -> Self {
        Self {
            roles: Roles::default(),
            lock_timeout: Duration::from_secs(2),
            retries: 5,
            lock_wait: Duration::from_secs(60),
            statement_timeout: None,
            settings: BTreeMap::new(),
            target: None,
            all_owned: false,
        }
    }
}

/// What is known of the database while files are applied.
#[derive(Default)]
struct Progress {
    before: i64,
    rows: Vec<Applied>,
    applied: Vec<i64>,
    lock_retries: u32,
}

impl Progress {
    fn reached(&self) -> i64 {
        self.rows.last().map_or(0, |row| row.version)
    }

    fn done(&mut self, file: &File) {
        self.rows.push(history::row_of(file));
        self.applied.push(file.version);
    }
}

/// A failure, before it is told which version was reached.
struct Stop(FailureKind, String);

impl From<StatementError> for Stop {
    fn from(error: StatementError) -> Self {
        Self(if error.lost { FailureKind::Connection } else { FailureKind::Sql }, error.text)
    }
}

/// Applies the files that the database lacks, up to the target, each in its own transaction with its history row.
///
/// Safe to call again after anything: a file is applied with its history row or not at all, and what runs outside
/// transactions is continued. Close the connection afterwards: the session is left as the last file left it, with the
/// migration's lock, which the next migrator waits for.
///
/// # Errors
/// The failure says how far the database came.
pub async fn migrate(
    client: &mut Client,
    edition: &Edition,
    options: &Options,
) -> Result<MigrationOutcome, MigrationFailure> {
    let mut progress = Progress::default();
    let mut options = options.clone();
    options.settings.extend(edition.settings.clone());
    let result = files(client, edition, &options, &mut progress).await;
    if result.is_err() || progress.applied.is_empty() {
        // Only so that nobody waits for what a transaction holds until the session is closed.
        let _ = client.batch_execute("ROLLBACK").await;
    }
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
            Ok(MigrationOutcome { before, after: reached, history, applied, lock_retries })
        }
        Err(Stop(kind, message)) => {
            tracing::warn!(
                edition = edition.name, version.before = before, version.after = reached,
                files.applied = applied.len(), lock.retries = lock_retries, failure.kind = ?kind, failure = message,
                "database not migrated"
            );
            Err(MigrationFailure { kind, message, reached, history, applied, lock_retries })
        }
    }
}

/// The session, holding the migration lock, before the first file.
struct LockedSession {
    /// Who logged in.
    session: String,
    /// Whether a transaction is open.
    open: bool,
    history: Vec<Applied>,
}

fn pinned(options: &Options, lock_timeout: Duration) -> String {
    let pinned = session::pinned(&options.roles, lock_timeout, options.statement_timeout);
    pinned + &session::settings(&options.settings)
}

/// Waits for the database's migration lock. Leaves a transaction open for the first file, so that usually this is one
/// message.
async fn lock_session(client: &Client, options: &Options) -> Result<LockedSession, Stop> {
    let pin = pinned(options, options.lock_timeout);
    let deadline = Instant::now() + options.lock_wait;
    loop {
        match engine::begin(client, &options.roles, &pin).await {
            Ok(engine::OpenTransaction { locked: true, session_user, sound, history }) => {
                if !sound {
                    refuse_strangers(client, &options.roles).await?;
                }
                return Ok(LockedSession { session: session_user, open: true, history });
            }
            Ok(_) => client.batch_execute("ROLLBACK").await.map_err(StatementError::from)?,
            Err(HistoryError::Tampered(error)) => return Err(Stop(FailureKind::Divergent, error)),
            Err(HistoryError::Database(_)) => return lock_step_by_step(client, options, deadline).await,
        }
        if Instant::now() >= deadline {
            return Err(busy(options));
        }
        sleep(POLL).await;
    }
}

/// The same, one step at a time, so that the step that fails can be named. For a database that has no history yet,
/// and for every other reason why [`lock_session`]'s one message failed.
async fn lock_step_by_step(
    client: &Client,
    options: &Options,
    deadline: Instant,
) -> Result<LockedSession, Stop> {
    client.batch_execute("ROLLBACK").await.map_err(StatementError::from)?;
    let pin = session::pinned(&options.roles, options.lock_timeout, options.statement_timeout);
    if let Err(error) = client.batch_execute(&pin).await {
        let error = StatementError::from(error);
        let message = format!(
            "the login can't become `{}`: {error}; run `manybox init`, which gives each database its migrator",
            options.roles.owner
        );
        return Err(if error.lost { error.into() } else { Stop(FailureKind::Owner, message) });
    }
    if let Err(error) = client.batch_execute(&session::settings(&options.settings)).await {
        let error = StatementError::from(error);
        let message =
            format!("the server refuses the edition's settings: {error}; see [editions.NAME.settings]");
        return Err(if error.lost { error.into() } else { Stop(FailureKind::Sql, message) });
    }
    let wait = deadline.saturating_duration_since(Instant::now());
    // Not released: it ends with the session.
    let lock = AdvisoryLock::acquire(client, session::LOCK, wait).await.map_err(StatementError::from)?;
    if lock.is_none() {
        return Err(busy(options));
    }
    let session = session::state(client, &options.roles).await?.session_user;
    refuse_strangers(client, &options.roles).await?;
    client.batch_execute(&options.roles.set_writer()).await.map_err(StatementError::from)?;
    let history = history::read(client).await.map_err(unread)?;
    client.batch_execute(&options.roles.set_owner()).await.map_err(StatementError::from)?;
    Ok(LockedSession { session, open: false, history })
}

/// Refuses a history whose tables have something of a stranger's, which may be there to run when they are written to.
async fn refuse_strangers(client: &Client, roles: &Roles) -> Result<(), Stop> {
    let strangers = guard::strangers(client, roles).await.map_err(StatementError::from)?;
    if strangers.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the schema `manybox` has what manybox did not make, so nothing was written: {}; run `manybox init`",
        strangers.join("; ")
    );
    Err(Stop(FailureKind::Divergent, message))
}

fn busy(options: &Options) -> Stop {
    let message =
        format!("another migrator has held the database for {:?}: try again later", options.lock_wait);
    Stop(FailureKind::Busy, message)
}

/// Reads the history, compares it, applies what is pending.
async fn files(
    client: &mut Client,
    edition: &Edition,
    options: &Options,
    progress: &mut Progress,
) -> Result<(), Stop> {
    let LockedSession { session, mut open, history } = lock_session(client, options).await?;
    progress.rows = history;
    progress.before = progress.reached();
    let pending = history::pending(edition, &progress.rows).map_err(|disagreement| match disagreement {
        Disagreement::Divergent(error) => Stop(FailureKind::Divergent, error),
        Disagreement::Ahead(error) => Stop(FailureKind::Ahead, error),
        Disagreement::OutOfOrder(error) => Stop(FailureKind::OutOfOrder, error),
    })?;
    let target = options.target.unwrap_or(i64::MAX);
    let pending = &pending[..pending.partition_point(|file| file.version <= target)];
    if open && pending.iter().any(|file| !file.transactional) {
        open = false;
        client.batch_execute("COMMIT").await.map_err(StatementError::from)?;
    }
    for file in pending {
        apply(client, file, options, progress, &session, std::mem::take(&mut open)).await?;
    }
    Ok(())
}

fn unread(why: HistoryError) -> Stop {
    match why {
        HistoryError::Database(error) => StatementError::from(error).into(),
        HistoryError::Tampered(error) => Stop(FailureKind::Divergent, error),
    }
}

/// Applies one file, trying again when the traffic holds a lock. `open` when a transaction is open for it already.
async fn apply(
    client: &mut Client,
    file: &File,
    options: &Options,
    progress: &mut Progress,
    session: &str,
    mut open: bool,
) -> Result<(), Stop> {
    let (mut tries, mut backoff) = (0, BACKOFF);
    loop {
        let result = if file.transactional {
            apply_in_transaction(client, file, options, progress, session, std::mem::take(&mut open)).await?
        } else {
            apply_outside_transaction(client, file, options, progress, session).await?
        };
        let Err(error) = result else { return Ok(()) };
        if !error.lost {
            client.batch_execute("ROLLBACK").await.map_err(StatementError::from)?;
        }
        let locked = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
        if !error.code.as_ref().is_some_and(|code| locked.contains(code)) {
            return Err(failed(file, error));
        }
        if tries == options.retries {
            let file = file.file_name();
            return Err(Stop(
                FailureKind::Lock,
                format!(
                    "{file}: {error}, in each of {} tries: try again when there is less traffic",
                    tries + 1
                ),
            ));
        }
        sleep(backoff.next_wait()).await;
        tries += 1;
        progress.lock_retries += 1;
    }
}

/// Applies a file in a transaction, which is committed when nothing is wrong with what the file left. The inner error
/// is the file's own; whatever the error, the transaction is still to be rolled back.
async fn apply_in_transaction(
    client: &Client,
    file: &File,
    options: &Options,
    progress: &mut Progress,
    session: &str,
    open: bool,
) -> Result<Result<(), StatementError>, Stop> {
    let roles = &options.roles;
    if file.inert && options.all_owned {
        if !open {
            let begun = engine::begin(client, roles, &pinned(options, options.lock_timeout)).await;
            if !begun.map_err(unread)?.locked {
                return Err(busy(options));
            }
        }
        return Ok(engine::apply_inert(client, file, roles).await.map(|()| progress.done(file)));
    }
    let applying = if open {
        engine::apply(client, file, roles).await
    } else {
        let pin = pinned(options, options.lock_timeout);
        let (begun, applying) =
            join(engine::begin(client, roles, &pin), engine::apply(client, file, roles)).await;
        if !begun.map_err(unread)?.locked {
            return Err(busy(options));
        }
        applying
    };
    let FileEffects { state, history } = match applying {
        Ok(applying) => applying,
        Err(error) => return Ok(Err(error)),
    };
    let mut expected = progress.rows.clone();
    expected.push(history::row_of(file));
    let when = format!("after {}", file.file_name());
    if !state.in_transaction {
        let message = format!("{when} its transaction was over: what it did before that stands");
        return Err(Stop(FailureKind::Session, message));
    }
    if state.has_foreign_objects
        && let Some(object) = session::foreign_object(client, roles).await?
    {
        // Whose is it? Rolled back, what the file made is gone.
        client.batch_execute("ROLLBACK").await.map_err(StatementError::from)?;
        let before = session::foreign_object(client, roles).await?;
        let when = if before.is_some() { "before any file was applied" } else { when.as_str() };
        return Err(not_the_owners(before.as_ref().unwrap_or(&object), when, &roles.owner));
    }
    check_state(&state, options, session, &when)?;
    if history.map_err(unread)? != expected {
        return Err(tampered(file));
    }
    if let Err(error) = client.batch_execute("COMMIT").await {
        return Ok(Err(error.into()));
    }
    progress.rows = expected;
    progress.applied.push(file.version);
    Ok(Ok(()))
}

/// Applies a file outside transactions, and looks at what it left. The inner error is the file's own.
async fn apply_outside_transaction(
    client: &mut Client,
    file: &File,
    options: &Options,
    progress: &mut Progress,
    session: &str,
) -> Result<Result<(), StatementError>, Stop> {
    // First, so that the file is not blamed for what others left.
    check(client, options, session, &format!("before {}", file.file_name())).await?;
    // Nobody waits behind it, so it may wait for long.
    client.batch_execute(&pinned(options, options.lock_wait)).await.map_err(StatementError::from)?;
    if let Err(error) = outside::run(client, file, &options.roles).await {
        return Ok(Err(error));
    }
    // In one round trip, and in this order: the check sees the session as the file left it; the history can be read
    // only under our own role again.
    let when = format!("after {}", file.file_name());
    let checked = check(client, options, session, &when);
    let pin = format!("{}; {}", pinned(options, options.lock_timeout), options.roles.set_writer());
    let (checked, pinned, rows) =
        join3(checked, client.batch_execute(&pin), history::read_known(client)).await;
    pinned.map_err(StatementError::from)?;
    client.batch_execute(&options.roles.set_owner()).await.map_err(StatementError::from)?;
    let mut expected = progress.rows.clone();
    expected.push(history::row_of(file));
    progress.rows = rows.map_err(unread)?;
    progress.applied.push(file.version);
    if progress.rows != expected {
        return Err(tampered(file));
    }
    checked.map(Ok)
}

fn tampered(file: &File) -> Stop {
    let message =
        format!("{} changed the history of migrations: restore {}", file.file_name(), history::HISTORY);
    Stop(FailureKind::Session, message)
}

/// Words a file's error, with the line that the server points at.
fn failed(file: &File, error: StatementError) -> Stop {
    let name = file.file_name();
    if error.lost {
        return Stop(
            FailureKind::Connection,
            format!("{name}: {error}; whether it was applied shows at the next run"),
        );
    }
    if error.code == Some(SqlState::INSUFFICIENT_PRIVILEGE)
        && (error.text.contains("schema_history") || error.text.contains("schema manybox"))
    {
        return Stop(
            FailureKind::Owner,
            format!("{name} would have changed the history of migrations, which is not the owner's: {error}"),
        );
    }
    let line = error.position.map(|position| {
        let before = file.sql.chars().take(position.saturating_sub(1));
        format!(":{}", before.filter(|c| *c == '\n').count() + 1)
    });
    Stop(FailureKind::Sql, format!("{name}{}: {error}", line.unwrap_or_default()))
}

/// Checks that we are still who we were, under our lock, and that everything belongs to the owner.
async fn check(client: &Client, options: &Options, session: &str, when: &str) -> Result<(), Stop> {
    let state = session::state(client, &options.roles).await?;
    check_state(&state, options, session, when)?;
    if state.has_foreign_objects
        && let Some(object) = session::foreign_object(client, &options.roles).await?
    {
        return Err(not_the_owners(&object, when, &options.roles.owner));
    }
    Ok(())
}

fn check_state(state: &State, options: &Options, session: &str, when: &str) -> Result<(), Stop> {
    let owner = &options.roles.owner;
    if state.current_user != *owner {
        let message = format!(
            "{when} the role is `{}` instead of `{owner}`; what leaves the owner's role is rolled back",
            state.current_user
        );
        return Err(Stop(FailureKind::Owner, message));
    }
    if session != state.session_user {
        return Err(Stop(
            FailureKind::Session,
            format!("{when} the session belongs to `{}`", state.session_user),
        ));
    }
    if !state.locked {
        let message =
            format!("{when} another migrator has this database: remove what releases advisory locks");
        return Err(Stop(FailureKind::Session, message));
    }
    Ok(())
}

fn not_the_owners((object, whose): &(String, String), when: &str, owner: &str) -> Stop {
    let message = format!(
        "{when} {object} belongs to `{whose}`: all of a tenant's objects belong to `{owner}`, alter its owner or \
         drop it"
    );
    Stop(FailureKind::Owner, message)
}
