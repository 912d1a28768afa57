//! Migrator: a login for one database, open for as long as one session of ours needs it.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::roles::migrator_of;
use super::{Doing, Fleet, FleetError, FleetServer, database};
use crate::pg::{self, AdvisoryLock, Connection, Ident, Login, literal};
use crate::vault::random_login;

/// How long to wait for another command that migrates the same database.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// How long the session may take to exit when it has been told to. A tenant's code may run in it, so it is not trusted
/// to go: its backend is ended then.
const LEAVE: Duration = Duration::from_secs(1);

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
    session: Connection,
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
    /// Opens `login` for this database, and logs in. `admin` is a session on the maintenance database.
    ///
    /// # Errors
    /// When the login isn't there, another command has it for a minute, or the server refuses.
    pub(super) async fn open(
        server: &FleetServer,
        admin: Connection,
        database: &str,
        login: String,
    ) -> Result<Self, FleetError> {
        let busy = || FleetError::Busy(format!("database `{database}`"));
        let lock = AdvisoryLock::acquire(&admin, lock_key(database), LOCK_WAIT)
            .await
            .doing(|| format!("locking the migrator of database `{database}`"))?
            .ok_or_else(busy)?;
        // Of a command that was killed, or of whoever learnt a password that was left open.
        database::terminate(&admin, &login).await?;
        let fresh = random_login(&login)?;
        let (role, name) = (Ident::new(&login), Ident::new(database));
        // Lost in a crash of the server, it is done again by the next use: no need to wait for the disk.
        let open = format!(
            "BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '5s';
             ALTER ROLE {role} RESET ALL; ALTER ROLE {role} IN DATABASE {name} RESET ALL;
             ALTER ROLE {role} LOGIN NOINHERIT CONNECTION LIMIT 1 PASSWORD {}; COMMIT",
            literal(&fresh.verifier()?)
        );
        batch(&admin, &open, || format!("opening the migrator of database `{database}`"))
            .await
            .map_err(|error| missing(error, &login))?;
        let session = Self::log_in(server, &fresh, database).await?;
        Ok(Self { login, session, admin, lock })
    }

    async fn log_in(server: &FleetServer, fresh: &Login, database: &str) -> Result<Connection, FleetError> {
        pg::connect(&server.endpoint, fresh, database).await.doing(|| "connecting as the migrator".into())
    }

    /// Ends the session, closes the login, and gives the admin's session back.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn end(self) -> Result<Connection, FleetError> {
        let Self { login, session, admin, lock } = self;
        let left = timeout(LEAVE, session.close()).await.is_ok();
        if !left || close(&admin, &login).await.is_err() {
            // Somebody else's session holds the role's row, or ours does not go.
            database::terminate(&admin, &login).await?;
            close(&admin, &login).await?;
        }
        database::terminate(&admin, &login).await?;
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
        Migrator::open(self, self.connect_admin().await?, database, migrator_of(database)).await
    }
}

impl Fleet {
    /// The same by a session of the admin that is kept.
    ///
    /// # Errors
    /// As [`FleetServer::migrator`].
    pub async fn migrator(&self, server: &str, database: &str) -> Result<Migrator, FleetError> {
        let (server, admin) = self.admin(server).await?;
        Migrator::open(server, admin, database, migrator_of(database)).await
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

async fn close(admin: &Client, login: &str) -> Result<(), FleetError> {
    let role = Ident::new(login);
    let sql = format!(
        "BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '5s';
         ALTER ROLE {role} NOLOGIN PASSWORD NULL; COMMIT"
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
