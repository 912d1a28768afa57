//! `migrate`: applies an edition to one database, file by file, and says how far it came.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join3;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::check::{check, check_state};
use super::edition::Edition;
use super::engine::{self, FileEffects};
use super::file::File;
use super::guard;
use super::history::{self, Disagreement, HistoryError, REPEATED, Rows};
use super::outcome::{FailureKind, MigrationFailure, MigrationOutcome};
use super::outside::OutsideWork;
use super::place::Place;
use super::reply::Collected;
use super::script::Company;
use super::session::{self, Roles, StatementError};
use super::stop::{Stop, busy, failed, not_the_owners, stopped, tampered, unread};
use crate::backoff::Backoff;
use crate::pg::{AdvisoryLock, Notices, literal};

/// How often a lock that another migrator holds is tried.
const POLL: Duration = Duration::from_millis(50);

/// Why nothing is applied where the history's tables are those of an older manybox.
const OUTDATED: &str = "the tables of the schema `manybox` are those of an older version: run `manybox init`";

/// Pauses between two tries of a file, after a lock could not be had.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// How a database is migrated.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose what is in the database.
    pub roles: Roles,
    /// How long a statement of a file waits for a lock, at most; each try waits up to a quarter less. Keep it short: all
    /// requests for the same table wait behind it. What builds indexes outside transactions holds nobody up, and waits for
    /// `lock_wait` instead.
    pub lock_timeout: Duration,
    /// How long a file is tried again after it could not have a lock or was the victim of a deadlock.
    pub lock_patience: Duration,
    /// How long to wait for another migrator of the same database.
    pub lock_wait: Duration,
    /// The longest time for one statement of a file; `None` for no limit.
    pub statement_timeout: Option<Duration>,
    /// Settings of PostgreSQL that files run with, by name; those of the edition are taken besides.
    pub settings: BTreeMap<String, String>,
    /// The newest version to apply; `None` for all.
    pub target: Option<i64>,
    /// Whether files below a version that was applied are applied too, instead of being refused.
    pub allow_out_of_order: bool,
    /// Told what the migration is doing. A clone of these options tells the same receivers.
    pub activity: watch::Sender<Activity>,
}

impl Default for Options {
    /// The usual waits, in a tenant's database.
    fn default() -> Self {
        Self {
            roles: Roles::default(),
            lock_timeout: Duration::from_millis(500),
            lock_patience: Duration::from_secs(60),
            lock_wait: Duration::from_secs(60),
            statement_timeout: None,
            settings: BTreeMap::new(),
            target: None,
            allow_out_of_order: false,
            activity: watch::Sender::default(),
        }
    }
}

/// What is known of the database while files are applied.
#[derive(Default)]
struct Progress {
    before: i64,
    rows: Rows,
    applied: Vec<i64>,
    repeated: Vec<String>,
    lock_retries: u32,
}

impl Progress {
    /// Takes in that a file was applied.
    fn took(&mut self, file: &File, rows: Rows) {
        self.rows = rows;
        if file.is_repeatable() {
            self.repeated.push(file.name.clone());
        } else {
            self.applied.extend(history::rows_of(file).iter().map(|row| row.version));
        }
    }
}

/// Applies the files that the database lacks, up to the target, each in its own transaction with its history row.
///
/// Safe to call again after anything: a file is applied with its history row or not at all, and what runs outside
/// transactions is continued. Close the connection afterwards: the session is left as the last file left it, with the
/// migration's lock, which the next migrator waits for.
///
/// Nothing further is begun once `stop` is cancelled. What runs then is for the caller to cancel, by a request to the
/// server; an error that comes of it is [`FailureKind::Stopped`].
///
/// # Errors
/// The failure says how far the database came.
pub async fn migrate(
    client: &mut Client,
    notices: &mut Notices,
    edition: &Edition,
    options: &Options,
    stop: &CancellationToken,
) -> Result<MigrationOutcome, MigrationFailure> {
    let mut progress = Progress::default();
    let mut options = options.clone();
    options.settings.extend(edition.settings.clone());
    let options = &options;
    let activity = &options.activity;
    let mut company = Company { stop, activity, said: Collected::new(notices), tries: 0 };
    let result = files(client, edition, options, &mut progress, &mut company).await;
    if result.is_err() || (progress.applied.is_empty() && progress.repeated.is_empty()) {
        // Only so that nobody waits for what a transaction holds until the session is closed.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    let notices = company.said.notices;
    let (reached, history) = (progress.rows.newest(), progress.rows.digest());
    let Progress { before, applied, repeated, lock_retries, .. } = progress;
    match result {
        Ok(()) => {
            tracing::info!(
                edition = edition.name,
                version.before = before,
                version.after = reached,
                files.applied = applied.len(),
                files.repeated = repeated.len(),
                lock.retries = lock_retries,
                "database migrated"
            );
            Ok(MigrationOutcome { before, after: reached, history, applied, repeated, lock_retries, notices })
        }
        Err(Stop { mut kind, mut message, place, server }) => {
            if stop.is_cancelled() && matches!(kind, FailureKind::Sql | FailureKind::Lock | FailureKind::Busy)
            {
                (kind, message) = (FailureKind::Stopped, stopped(place.as_deref()));
            }
            tracing::warn!(
                edition = edition.name, version.before = before, version.after = reached,
                files.applied = applied.len(), lock.retries = lock_retries, failure.kind = ?kind, failure = message,
                "database not migrated"
            );
            let (place, server) = (place.map(|place| *place), server.map(|server| *server));
            Err(MigrationFailure {
                kind,
                message,
                place,
                server,
                notices,
                reached,
                history,
                applied,
                repeated,
                lock_retries,
            })
        }
    }
}

/// The session, holding the migration lock, before the first file.
struct LockedSession {
    /// Who logged in.
    session: String,
    /// Whether a transaction is open.
    open: bool,
    history: Rows,
}

fn pinned(options: &Options, lock_timeout: Duration) -> String {
    let pinned = session::pinned(&options.roles, lock_timeout, options.statement_timeout);
    pinned + &session::settings(&options.settings)
}

/// The lock timeout of one try: those who lost the same lock must not come back for it together.
fn jittered(lock_timeout: Duration) -> Duration {
    let quarter = lock_timeout / 4;
    lock_timeout - Backoff::new(quarter, quarter).next_wait()
}

/// Waits for the database's migration lock. Leaves a transaction open for the first file, so that usually this is one
/// message.
async fn lock_session(
    client: &Client,
    options: &Options,
    stop: &CancellationToken,
) -> Result<LockedSession, Stop> {
    let pin = pinned(options, jittered(options.lock_timeout));
    let deadline = Instant::now() + options.lock_wait;
    loop {
        match engine::begin(client, &options.roles, &pin).await {
            Ok(engine::OpenTransaction { locked: true, session_user, taken_over, history }) => {
                if !taken_over {
                    refuse_strangers(client, &options.roles).await?;
                }
                return Ok(LockedSession { session: session_user, open: true, history });
            }
            Ok(_) => client.batch_execute("ROLLBACK").await.map_err(StatementError::from)?,
            Err(HistoryError::Tampered(error)) => return Err(Stop::new(FailureKind::Divergent, error)),
            Err(HistoryError::Database(_)) => return lock_step_by_step(client, options, deadline).await,
        }
        if Instant::now() >= deadline || stop.is_cancelled() {
            return Err(busy(options.lock_wait));
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
        return Err(if error.lost {
            error.into()
        } else {
            Stop::because(FailureKind::Owner, message, error)
        });
    }
    if let Err(error) = client.batch_execute(&session::settings(&options.settings)).await {
        let error = StatementError::from(error);
        let message =
            format!("the server refuses the edition's settings: {error}; see [editions.NAME.settings]");
        return Err(if error.lost { error.into() } else { Stop::because(FailureKind::Sql, message, error) });
    }
    let wait = deadline.saturating_duration_since(Instant::now());
    // Not released: it ends with the session.
    let lock = AdvisoryLock::acquire(client, session::LOCK, wait).await.map_err(StatementError::from)?;
    if lock.is_none() {
        return Err(busy(options.lock_wait));
    }
    let session = session::state(client, &options.roles).await?.session_user;
    refuse_strangers(client, &options.roles).await?;
    client.batch_execute(&options.roles.set_writer()).await.map_err(StatementError::from)?;
    let (history, outdated) = history::read(client).await.map_err(unread)?;
    if outdated {
        return Err(Stop::new(FailureKind::Outdated, OUTDATED.into()));
    }
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
    Err(Stop::new(FailureKind::Divergent, message))
}

/// Reads the history, compares it, applies what is pending.
async fn files(
    client: &mut Client,
    edition: &Edition,
    options: &Options,
    progress: &mut Progress,
    company: &mut Company<'_, '_>,
) -> Result<(), Stop> {
    let LockedSession { session, mut open, history } = lock_session(client, options, company.stop).await?;
    progress.rows = history;
    progress.before = progress.rows.newest();
    let pending = history::pending(edition, &progress.rows.versions, options.allow_out_of_order);
    let mut pending = pending.map_err(|disagreement| match disagreement {
        Disagreement::Divergent(error) => Stop::new(FailureKind::Divergent, error),
        Disagreement::Ahead(error) => Stop::new(FailureKind::Ahead, error),
        Disagreement::OutOfOrder(error) => Stop::new(FailureKind::OutOfOrder, error),
    })?;
    let target = options.target.unwrap_or(i64::MAX);
    pending.truncate(pending.partition_point(|file| file.version <= target));
    if progress.rows.versions.is_empty()
        && let Some(squashed) = edition.squashed_for_new(target)
    {
        pending.retain(|file| file.version > squashed.version);
        pending.insert(0, squashed);
    }
    if let Some(needed) = edition.needed(pending.iter().copied()) {
        return Err(Stop::new(FailureKind::Replaced, needed));
    }
    if pending.iter().any(|file| !file.transactional) {
        if std::mem::take(&mut open) {
            client.batch_execute("COMMIT").await.map_err(StatementError::from)?;
        }
        if guard::are_outdated(client).await.map_err(StatementError::from)? {
            return Err(Stop::new(FailureKind::Outdated, OUTDATED.into()));
        }
    }
    if edition.repeats(options.target) {
        pending.extend(history::to_repeat(edition, &progress.rows.repeatables));
    }
    for file in pending {
        apply(client, file, options, progress, &session, std::mem::take(&mut open), company).await?;
    }
    if edition.repeats(options.target) {
        forget(client, edition, options, progress, open).await?;
    }
    Ok(())
}

/// Forgets the repeatable files that the edition does not have any more. What they made stays: a file with a version drops it.
async fn forget(
    client: &Client,
    edition: &Edition,
    options: &Options,
    progress: &mut Progress,
    open: bool,
) -> Result<(), Stop> {
    let is_gone = |row: &history::Applied| edition.repeatables.iter().all(|file| file.name != row.name);
    let gone: Vec<_> =
        progress.rows.repeatables.iter().filter(|row| is_gone(row)).map(|row| literal(&row.name)).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let begin = if open { "" } else { "BEGIN; " };
    let sql = format!(
        "{begin}{}; DELETE FROM {REPEATED} WHERE name OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.text[]); {}; COMMIT",
        options.roles.set_writer(),
        gone.join(", "),
        options.roles.set_owner()
    );
    client.batch_execute(&sql).await.map_err(StatementError::from)?;
    progress.rows.repeatables.retain(|row| !is_gone(row));
    Ok(())
}

/// Applies one file, trying again when the traffic holds a lock. `open` when a transaction is open for it already.
async fn apply(
    client: &mut Client,
    file: &File,
    options: &Options,
    progress: &mut Progress,
    session: &str,
    mut open: bool,
    company: &mut Company<'_, '_>,
) -> Result<(), Stop> {
    let (mut backoff, mut since) = (BACKOFF, None);
    company.tries = 0;
    loop {
        let result = if file.transactional {
            apply_in_transaction(client, file, options, progress, session, std::mem::take(&mut open), company)
                .await?
        } else {
            apply_outside_transaction(client, file, options, progress, session, company).await?
        };
        let Err(error) = result else { return Ok(()) };
        if !error.lost {
            client.batch_execute("ROLLBACK").await.map_err(StatementError::from)?;
        }
        let locked = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
        if !error.code.as_ref().is_some_and(|code| locked.contains(code)) {
            return Err(failed(file, error));
        }
        if company.tries == 0 {
            // Of a file outside transactions the statements before this one are done: it has a patience of its own.
            (backoff, since) = (BACKOFF, None);
        }
        company.tries += 1;
        let now = Instant::now();
        let left = (*since.get_or_insert(now) + options.lock_patience).saturating_duration_since(now);
        if left.is_zero() || company.stop.is_cancelled() {
            let place = error.place.as_deref().map_or_else(|| file.file_name(), Place::to_string);
            let message = format!(
                "{place}: {error}, in each of {} tries within migrate.lock_patience ({}): try again when there is less \
                 traffic",
                company.tries,
                humantime::format_duration(options.lock_patience)
            );
            return Err(Stop::because(FailureKind::Lock, message, error));
        }
        progress.lock_retries += 1;
        tokio::select! {
            () = sleep(backoff.next_wait().min(left)) => {}
            () = company.stop.cancelled() => {}
        }
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
    company: &mut Company<'_, '_>,
) -> Result<Result<(), StatementError>, Stop> {
    let roles = &options.roles;
    if !open {
        let pin = pinned(options, jittered(options.lock_timeout));
        if !engine::begin_next(client, &pin).await? {
            return Err(busy(options.lock_wait));
        }
    }
    let clamp = session::clamped(options.lock_timeout, options.statement_timeout);
    let FileEffects { state, history } = match engine::apply(client, file, roles, &clamp, company).await {
        Ok(effects) => effects,
        Err(error) => return Ok(Err(error)),
    };
    let expected = progress.rows.with(file);
    let when = format!("after {}", file.file_name());
    if !state.in_transaction {
        let message = format!("{when} its transaction was over: what it did before that stands");
        return Err(Stop::at(file, FailureKind::Session, message));
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
    check_state(&state, roles, session, &when)?;
    if history.map_err(unread)? != expected {
        return Err(tampered(file));
    }
    if let Err(error) = client.batch_execute("COMMIT").await {
        return Ok(Err(error.into()));
    }
    progress.took(file, expected);
    Ok(Ok(()))
}

/// Applies a file outside transactions, statement by statement, and looks at what each left. The inner error is the file's
/// own.
async fn apply_outside_transaction(
    client: &mut Client,
    file: &File,
    options: &Options,
    progress: &mut Progress,
    session: &str,
    company: &mut Company<'_, '_>,
) -> Result<Result<(), StatementError>, Stop> {
    let roles = &options.roles;
    // First, so that the file is not blamed for what others left.
    check(client, roles, session, &format!("before {}", file.file_name())).await?;
    let mut work = OutsideWork::begin(client, file, roles, session).await?;
    while let Some(step) = work.next() {
        // Where nobody waits behind it, it may wait for long.
        let wait = if step.waits_alone { options.lock_wait } else { options.lock_timeout };
        let waits = if step.waits_alone { wait } else { jittered(wait) };
        client.batch_execute(&pinned(options, waits)).await.map_err(StatementError::from)?;
        let clamp = session::clamped(wait, options.statement_timeout);
        if let Err(error) = work.run(client, &step, &clamp, company).await? {
            return Ok(Err(error));
        }
        company.tries = 0;
        if work.next().is_some() {
            check(client, roles, session, &format!("after {}", step.place())).await?;
        }
    }
    work.record(client).await?;
    // In one round trip, and in this order: the check sees the session as the file left it; the history can be read
    // only under our own role again.
    let when = format!("after {}", file.file_name());
    let checked = check(client, roles, session, &when);
    let pin = format!("{}; {}", pinned(options, options.lock_timeout), roles.set_writer());
    let (checked, pinned, rows) =
        join3(checked, client.batch_execute(&pin), history::read_known(client)).await;
    pinned.map_err(StatementError::from)?;
    client.batch_execute(&roles.set_owner()).await.map_err(StatementError::from)?;
    let expected = progress.rows.with(file);
    progress.took(file, rows.map_err(unread)?);
    if progress.rows != expected {
        return Err(tampered(file));
    }
    checked.map(Ok)
}
