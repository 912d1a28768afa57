//! Session advisory locks, taken by polling.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::Error;

/// How often a lock that somebody else holds is tried.
const POLL: Duration = Duration::from_millis(50);

/// A session advisory lock. The session holds it, not this token: it ends with [`AdvisoryLock::release`] or with the
/// connection, so a killed process lets go as soon as its backend exits.
#[derive(Debug)]
#[must_use = "release it, or close the connection"]
pub struct AdvisoryLock {
    key: i64,
}

impl AdvisoryLock {
    /// Takes the lock, trying for at most `wait`; `None` when somebody else held it all that time.
    ///
    /// Polls `pg_try_advisory_lock`, because a session *waiting* for a lock holds a snapshot that
    /// `CREATE INDEX CONCURRENTLY` in the session that has the lock waits for: a deadlock.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn acquire(client: &Client, key: i64, wait: Duration) -> Result<Option<Self>, Error> {
        let deadline = Instant::now() + wait;
        loop {
            let sql = "SELECT pg_catalog.pg_try_advisory_lock($1)";
            let rows = client.query_typed(sql, &[(&key, Type::INT8)]).await?;
            if rows.first().map_or(Ok(false), |row| row.try_get(0))? {
                return Ok(Some(Self { key }));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(POLL).await;
        }
    }

    /// Gives the lock back, on the connection that took it.
    ///
    /// # Errors
    /// When the connection fails; the lock is gone with it.
    pub async fn release(self, client: &Client) -> Result<(), Error> {
        client.query_typed("SELECT pg_catalog.pg_advisory_unlock($1)", &[(&self.key, Type::INT8)]).await?;
        Ok(())
    }
}
