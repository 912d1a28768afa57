//! Migrator: a login for one database, open for as long as one session of ours needs it.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use ring::digest::{SHA256, digest};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use super::roles::migrator_of;
use super::{Doing, Fleet, FleetError, FleetServer, database, holder};
use crate::migrate::{self, Activity, Edition, FailureKind, MigrationFailure, MigrationOutcome, Options};
use crate::pg::{self, AdvisoryLock, Connection, Endpoint, Ident, Login, Notices, literal};
use crate::vault::random_login;

/// How long to wait for another command that migrates the same database.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// How long the session may take to exit when it has been told to. A tenant's code may run in it, so it is not trusted
/// to go: its backend is ended then.
const LEAVE: Duration = Duration::from_secs(1);
/// How often a lock that another command holds is tried.
const POLL: Duration = Duration::from_millis(50);
/// How long a statement may take to end when it has been cancelled. Its backend is ended then.
const CANCEL: Duration = Duration::from_secs(5);
/// How often it is cancelled: a request that comes between two statements is lost.
const CANCEL_AGAIN: Duration = Duration::from_millis(250);
/// What RESET ALL goes back to. A statement ends within seconds of its client, and a client whose machine is gone is one
/// that has gone.
const KEEP_ALIVE: [(&str, &str); 4] = [
    ("client_connection_check_interval", "2000"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];

/// A session as the migrator of one database.
///
/// Code of the database's tenant may run in it, and may become the login itself: so the login can connect to this
/// database only, its password is new for each use and dies with it, and what the code made of its settings or its
/// password is undone before the next. Two commands never have the same migrator: the admin's session holds a lock in
/// the maintenance database, where no tenant gets.
///
/// [`Migrator::close`] it. Dropped, the session and the lock go all the same, but the login stays open, with a password
/// that nobody knows, until the next use.
pub struct Migrator {
    login: String,
    endpoint: Endpoint,
    session: Connection,
    notices: Notices,
    admin: Connection,
    lock: AdvisoryLock,
}

impl Deref for Migrator {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.session
    }
}

impl DerefMut for Migrator {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.session
    }
}

impl Migrator {
    /// Opens `login` for this database, and logs in. `admin` is a session on the maintenance database. While another
    /// command has it, `waiting` is told which, and it is waited for until `stop` is cancelled.
    ///
    /// # Errors
    /// When the login isn't there, another command has it for a minute, or the server refuses.
    pub(super) async fn open(
        server: &FleetServer,
        admin: Connection,
        database: &str,
        login: String,
        waiting: Waiting<'_>,
    ) -> Result<Self, FleetError> {
        let lock = waiting.lock(&admin, database).await?;
        // Of a command that was killed, or of whoever learnt a password that was left open.
        database::terminate(&admin, &login).await?;
        let fresh = random_login(&login)?;
        let (role, name) = (Ident::new(&login), Ident::new(database));
        // Lost in a crash of the server, it is done again by the next use: no need to wait for the disk.
        let open = format!(
            "BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '5s';
             {}; {}
             ALTER ROLE {role} RESET ALL; ALTER ROLE {role} IN DATABASE {name} RESET ALL;
             ALTER ROLE {role} LOGIN NOINHERIT CONNECTION LIMIT 1 PASSWORD {}; COMMIT",
            holder::named(&format!("migrates {database}")),
            kept_alive(),
            literal(&fresh.verifier()?)
        );
        batch(&admin, &open, || format!("opening the migrator of database `{database}`"))
            .await
            .map_err(|error| missing(error, &login))?;
        let (session, notices) = Self::log_in(server, &fresh, database).await?;
        Ok(Self { login, endpoint: server.endpoint.clone(), session, notices, admin, lock })
    }

    async fn log_in(
        server: &FleetServer,
        fresh: &Login,
        database: &str,
    ) -> Result<(Connection, Notices), FleetError> {
        let name = holder::name(&format!("migrates {database}"));
        pg::connect_noticing(&server.endpoint, fresh, database, &name, &KEEP_ALIVE)
            .await
            .doing(|| "connecting as the migrator".into())
    }

    /// Applies what the database lacks of an edition. What runs when `stop` is cancelled is cancelled and waited for, for
    /// some seconds: then [`Migrator::close`] ends its backend.
    ///
    /// # Errors
    /// As [`migrate::migrate`].
    pub(super) async fn migrate(
        &mut self,
        edition: &Edition,
        options: &Options,
        stop: &CancellationToken,
    ) -> Result<MigrationOutcome, MigrationFailure> {
        let Self { login, endpoint, session, notices, admin, .. } = self;
        let canceller = session.canceller(endpoint);
        let cancel = async {
            stop.cancelled().await;
            let deadline = Instant::now() + CANCEL;
            while Instant::now() < deadline {
                // What it does now is to undo what it did.
                if *options.activity.borrow() != Activity::CleaningUp {
                    let _ = timeout(CANCEL, canceller.cancel()).await;
                }
                sleep(CANCEL_AGAIN).await;
            }
        };
        let blockers = Mutex::default();
        let follow = holder::follow(admin, login, options.activity.subscribe(), &blockers);
        let outcome = tokio::select! {
            outcome = migrate::migrate(session, notices, edition, options, stop) => outcome,
            () = cancel => Err(MigrationFailure::stopped(format!(
                "was stopped at {}, which did not end within {} of being cancelled: its session is ended, and what is \
                 applied shows at the next run",
                *options.activity.borrow(),
                humantime::format_duration(CANCEL)
            ))),
            never = follow => match never {},
        };
        let blockers = blockers.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcome.map_err(|mut failure| {
            if failure.kind == FailureKind::Lock && !blockers.is_empty() {
                failure.message.push_str(&format!("; it was held by {}", blockers.join("; ")));
            }
            failure
        })
    }

    /// Ends the session, closes the login, and gives the admin's session back.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn end(self) -> Result<Connection, FleetError> {
        let Self { login, session, admin, lock, .. } = self;
        let left = timeout(LEAVE, session.close()).await.is_ok();
        // In one write.
        let (closed, ended) = join(close(&admin, &login), database::terminate(&admin, &login)).await;
        if !left || closed.is_err() || ended.is_err() {
            // Somebody else's session holds the role's row, or ours does not go.
            database::terminate(&admin, &login).await?;
            close(&admin, &login).await?;
            database::terminate(&admin, &login).await?;
        }
        lock.release(&admin).await.doing(|| "releasing the migrator's lock".into())?;
        Ok(admin)
    }

    /// Ends the session and closes the login.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn close(self) -> Result<(), FleetError> {
        self.end().await.map(drop)
    }
}

impl FleetServer {
    /// A session as the migrator of one of our databases: a tenant's, a template, a scratch copy.
    ///
    /// # Errors
    /// When the database has none (`manybox init` makes it), another command has it for a minute, or the server refuses.
    pub async fn migrator(&self, database: &str) -> Result<Migrator, FleetError> {
        let stop = CancellationToken::new();
        let waiting = Waiting { stop: &stop, activity: &watch::Sender::default() };
        Migrator::open(self, self.connect_admin().await?, database, migrator_of(database), waiting).await
    }
}

impl Fleet {
    /// The same by a session of the admin that is kept.
    ///
    /// # Errors
    /// As [`FleetServer::migrator`].
    pub async fn migrator(&self, server: &str, database: &str) -> Result<Migrator, FleetError> {
        let stop = CancellationToken::new();
        self.migrator_for(server, database, Waiting { stop: &stop, activity: &watch::Sender::default() })
            .await
    }

    pub(super) async fn migrator_for(
        &self,
        server: &str,
        database: &str,
        waiting: Waiting<'_>,
    ) -> Result<Migrator, FleetError> {
        let (server, admin) = self.admin(server).await?;
        Migrator::open(server, admin, database, migrator_of(database), waiting).await
    }

    /// Closes a migrator, and keeps the admin's session for the next.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn close_migrator(&self, server: &str, migrator: Migrator) -> Result<(), FleetError> {
        self.keep(server, migrator.end().await?);
        Ok(())
    }
}

/// Who waits for a migrator.
#[derive(Clone, Copy)]
pub(super) struct Waiting<'a> {
    /// Ends the waiting.
    pub(super) stop: &'a CancellationToken,
    /// Told what is waited for.
    pub(super) activity: &'a watch::Sender<Activity>,
}

impl Waiting<'_> {
    async fn lock(self, admin: &Client, database: &str) -> Result<AdvisoryLock, FleetError> {
        let (key, deadline) = (lock_key(database), Instant::now() + LOCK_WAIT);
        let locking = || format!("locking the migrator of database `{database}`");
        let mut told = None;
        loop {
            if let Some(lock) = AdvisoryLock::acquire(admin, key, Duration::ZERO).await.doing(locking)? {
                return Ok(lock);
            }
            if told.is_none() {
                told = holder::of_lock(admin, key).await?;
                if let Some(holder) = &told {
                    tracing::warn!("database {database} has another migrator, which is waited for: {holder}");
                    self.activity.send_replace(Activity::Waiting { holder: holder.clone() });
                }
            }
            if Instant::now() >= deadline || self.stop.is_cancelled() {
                // As it is by now.
                let holder = holder::of_lock(admin, key).await?.or(told);
                let who = holder.map(|holder| format!(" ({holder})")).unwrap_or_default();
                return Err(FleetError::Busy(format!("database `{database}`{who}")));
            }
            tokio::select! {
                () = sleep(POLL) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }
}

/// The statements by which the server notices that the machine of the session's client is gone.
fn kept_alive() -> String {
    KEEP_ALIVE.iter().map(|(name, value)| format!("SET {name} = {value};")).collect()
}

async fn close(admin: &Client, login: &str) -> Result<(), FleetError> {
    let role = Ident::new(login);
    let sql = format!(
        "BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '5s';
         ALTER ROLE {role} NOLOGIN PASSWORD NULL; RESET application_name; COMMIT"
    );
    batch(admin, &sql, || format!("closing `{login}`")).await
}

/// Runs a transaction, and leaves none open behind a failure.
async fn batch(admin: &Client, sql: &str, doing: impl FnOnce() -> String) -> Result<(), FleetError> {
    let outcome = admin.batch_execute(sql).await.doing(doing);
    if outcome.is_err() {
        // Its own outcome adds nothing: where it fails the session is over.
        let _ = admin.batch_execute("ROLLBACK").await;
    }
    outcome
}

fn missing(error: FleetError, login: &str) -> FleetError {
    match error {
        FleetError::Server { source, .. } if source.code() == Some(&SqlState::UNDEFINED_OBJECT) => {
            FleetError::Settings(format!(
                "there is no role `{login}`: run `manybox init`, which gives each database its migrator"
            ))
        }
        other => other,
    }
}

/// The key of the lock that whoever uses a database's migrator holds, in the maintenance database.
fn lock_key(database: &str) -> i64 {
    let digest = digest(&SHA256, format!("migrator {database}").as_bytes());
    let mut key = [0_u8; 8];
    key.copy_from_slice(&digest.as_ref()[..8]);
    i64::from_be_bytes(key)
}
