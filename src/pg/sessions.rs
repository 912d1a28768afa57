//! Sessions: a few connections as one role, shared by calls of one statement each. A broken one is replaced.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{
    self, Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType, Timeouts,
};
use deadpool_postgres::ClientWrapper;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::connect::{self, Opened};
use super::endpoint::{CONNECT_TIMEOUT, Endpoint};
use super::error::Error;
use super::login::Logins;

/// The longest waits for a session.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// For one to come free when all are in use.
    pub free: Duration,
    /// For a new one, from the first byte to the end of the login.
    pub login: Duration,
    /// For a sign of life from one that was idle. Past it, the session is given up for a new one.
    pub alive: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            free: Duration::from_secs(30),
            // Some hosts of one URL, each at the end of its patience.
            login: CONNECT_TIMEOUT * 4,
            alive: Duration::from_secs(5),
        }
    }
}

/// A bounded set of sessions in one database. They are opened when calls need them and kept until the last clone of
/// this is dropped.
///
/// A call is one statement in a transaction of its own, so it leaves nothing in the session to clean up. Before each
/// call the session is asked for a sign of life. That is one round trip, little beside a commit's wait for the disk;
/// without it, the first call after a restart of the server, or after a firewall forgot the connection, would fail. A
/// session that breaks under a statement fails its call, because nobody knows whether a change was made.
#[derive(Clone)]
pub struct Sessions {
    pool: managed::Pool<Access>,
    access: Access,
    most: usize,
    waits: Waits,
    says: Option<Said>,
}

/// A setting that calls are made with, and its value.
type Said = (&'static str, Arc<str>);

impl Sessions {
    /// At most `most` sessions; none is opened yet. `logins` is asked anew for each one.
    pub fn new(
        endpoint: Endpoint,
        database: impl Into<String>,
        most: usize,
        waits: Waits,
        logins: impl Fn() -> Logins + Send + Sync + 'static,
    ) -> Self {
        let access = Access { endpoint, database: database.into(), logins: Arc::new(logins) };
        let timeouts =
            Timeouts { wait: Some(waits.free), create: Some(waits.login), recycle: Some(waits.alive) };
        // The session used last is used next: it has the statements prepared, and a second one is opened only when
        // two calls meet.
        let builder = managed::Pool::builder(access.clone())
            .max_size(most)
            .timeouts(timeouts)
            .queue_mode(QueueMode::Lifo);
        #[allow(clippy::expect_used)]
        let pool =
            builder.runtime(Runtime::Tokio1).build().expect("only timeouts without a runtime are refused");
        Self { pool, access, most, waits, says: None }
    }

    /// The same sessions, for calls in which a setting has this value. It costs a round trip where the call before had
    /// another. There is one such setting for all calls of a pool.
    #[must_use]
    pub fn saying(&self, setting: &'static str, value: impl Into<Arc<str>>) -> Self {
        Self { says: Some((setting, value.into())), ..self.clone() }
    }

    /// Waits for a session, opening one if there may be another, and returns it: to say early that none can be had.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Busy`] or [`Error::Silent`].
    pub async fn check(&self) -> Result<(), Error> {
        self.session().await.map(drop)
    }

    /// The rows that a statement gives. Its text stays prepared in each session that ran it, so there should be few of
    /// them, with all values in `parameters`.
    ///
    /// # Errors
    /// As [`Sessions::check`], and [`Error::Statement`].
    pub async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let (session, statement) = self.prepared(sql).await?;
        Ok(session.query(&statement, parameters).await?)
    }

    /// The one row that a statement gives.
    ///
    /// # Errors
    /// As [`Sessions::query`], and when there is none or more.
    pub async fn query_one(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        let (session, statement) = self.prepared(sql).await?;
        Ok(session.query_one(&statement, parameters).await?)
    }

    /// The one row that a statement gives, if any.
    ///
    /// # Errors
    /// As [`Sessions::query`].
    pub async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Error> {
        let (session, statement) = self.prepared(sql).await?;
        Ok(session.query_opt(&statement, parameters).await?)
    }

    /// Runs a statement, and says how many rows it changed.
    ///
    /// # Errors
    /// As [`Sessions::query`].
    pub async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let (session, statement) = self.prepared(sql).await?;
        Ok(session.execute(&statement, parameters).await?)
    }

    async fn prepared(&self, sql: &str) -> Result<(Object<Access>, Statement), Error> {
        let session = self.session().await?;
        let statement = session.prepare_cached(sql).await?;
        Ok((session, statement))
    }

    async fn session(&self) -> Result<Object<Access>, Error> {
        let mut session = self.free_session().await?;
        if session.says != self.says {
            let (setting, value) =
                self.says.as_ref().or(session.says.as_ref()).map_or(("", ""), |(s, v)| (*s, &**v));
            let value = if self.says.is_some() { value } else { "" };
            let statement = session.prepare_cached("SELECT pg_catalog.set_config($1, $2, false)").await?;
            session.query_one(&statement, &[&setting, &value]).await?;
            session.says.clone_from(&self.says);
        }
        Ok(session)
    }

    async fn free_session(&self) -> Result<Object<Access>, Error> {
        let server = self.access.endpoint.name().to_owned();
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Timeout(TimeoutType::Wait) => {
                let database = self.access.database.clone();
                Error::Busy { server, database, most: self.most, waited: self.waits.free }
            }
            PoolError::Timeout(_) => Error::Silent { server, waited: self.waits.login },
            // This pool is never closed, has a runtime and no hooks.
            other => Error::Settings { server, reason: other.to_string() },
        })
    }
}

/// How a session is opened.
#[derive(Clone)]
struct Access {
    endpoint: Endpoint,
    database: String,
    logins: Arc<dyn Fn() -> Logins + Send + Sync>,
}

/// A session, and what was said in it last.
struct Session {
    client: ClientWrapper,
    says: Option<Said>,
}

impl Deref for Session {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}

impl Manager for Access {
    type Type = Session;
    type Error = Error;

    async fn create(&self) -> Result<Session, Error> {
        let opened = connect::open_any(&self.endpoint, &(self.logins)(), &self.database).await?;
        let Opened { client, driver, .. } = opened;
        Ok(Session { client: ClientWrapper::new(client, connect::drive(driver)), says: None })
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Error> {
        // A broken one is told of by its statement: nobody needs to hear of it twice.
        session.simple_query("").await.map(drop).map_err(|error| RecycleError::Backend(error.into()))
    }
}
