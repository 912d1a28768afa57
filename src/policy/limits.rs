//! `Limits`: what a tenant may use, from its tier.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::quantity::{self, MAX_BYTES, MAX_COUNT, MAX_TIME, MIN_DATABASE};

/// Limits of one tier. Every wait and every size a tenant can cause is bounded by one of these.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most connections one router opens to the tenant's database. The login role's CONNECTION LIMIT on the
    /// server is twice this, so that a router and its successor fit beside each other during a deploy.
    pub max_connections: u32,
    /// Most requests that wait for a connection at once; 429 above it. Each holds its body in memory meanwhile.
    pub max_waiting: u32,
    /// Turns at opening connections when many tenants wait for them: twice the weight, twice the turns.
    pub weight: u32,
    /// Longest wait for a free connection before 503.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// PostgreSQL's `statement_timeout` for each statement of a request.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// PostgreSQL's `idle_in_transaction_session_timeout`: what a stuck router can hold locks for.
    #[serde(with = "humantime_serde")]
    pub transaction_idle_timeout: Duration,
    /// Longest time from a request's head to its answer; up to a thirty-second part more (`backoff::spread`).
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Time without use after which a tenant's connections are closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Largest request body, in bytes; 413 above it.
    #[serde(deserialize_with = "quantity::deserialize")]
    pub max_body: usize,
    /// Longest answer, in bytes. A read that has more is refused when its length arrives, a change or a call before its
    /// COMMIT.
    #[serde(deserialize_with = "quantity::deserialize")]
    pub max_answer: usize,
    /// Most rows a read returns; `None` for no limit of ours. [`Api::db_max_rows`](super::Api::db_max_rows) can only
    /// lower it.
    pub max_rows: Option<u64>,
    /// Largest database, in bytes on the server's disk, as `pg_database_size` counts them; `None` for no limit. Above it a
    /// database takes deletes and answers reads.
    #[serde(deserialize_with = "quantity::optional")]
    pub max_database_size: Option<u64>,
    /// Most requests a second on one router, and as many at once after a pause; 429 above it. `None` for no limit.
    pub max_requests_per_second: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10,
            max_waiting: 1000,
            weight: 1,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(15),
            transaction_idle_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            max_body: 10 * 1024 * 1024,
            max_answer: 64 * 1024 * 1024,
            max_rows: None,
            max_database_size: None,
            max_requests_per_second: None,
        }
    }
}

impl Limits {
    /// The name of a limit that can't be meant, and what would be right: one that is 0, by which no request could be served
    /// or which PostgreSQL would take for no limit at all, or one that is larger than PostgreSQL has.
    pub fn wrong(&self) -> Option<(&'static str, String)> {
        let counts = [
            ("max_connections", Some(self.max_connections)),
            ("max_waiting", Some(self.max_waiting)),
            ("weight", Some(self.weight)),
            ("max_requests_per_second", self.max_requests_per_second),
        ];
        let times = [
            ("statement_timeout", self.statement_timeout, true),
            ("transaction_idle_timeout", self.transaction_idle_timeout, true),
            ("request_timeout", self.request_timeout, true),
            ("acquire_timeout", self.acquire_timeout, false),
            ("idle_timeout", self.idle_timeout, false),
        ];
        let sizes = [("max_body", self.max_body), ("max_answer", self.max_answer)];
        let counts = counts.into_iter().filter_map(|(name, count)| {
            let expected = match count? {
                0 => "expected 1 or more".to_owned(),
                count if count > MAX_COUNT => format!("expected {MAX_COUNT} at most"),
                _ => return None,
            };
            Some((name, expected))
        });
        let times = times.into_iter().filter_map(|(name, time, must)| {
            if must && time.as_millis() == 0 {
                return Some((name, "expected 1ms or more".to_owned()));
            }
            (time > MAX_TIME).then(|| (name, "expected 24 days at most".to_owned()))
        });
        let sizes = sizes.into_iter().filter(|(_, size)| *size > MAX_BYTES);
        let sizes = sizes.map(|(name, _)| (name, format!("expected {MAX_BYTES} bytes (1GB) at most")));
        let database = self.max_database_size.filter(|size| *size < MIN_DATABASE);
        let database = database.map(|_| ("max_database_size", "expected 1MB or more".to_owned()));
        counts.chain(times).chain(sizes).chain(database).next()
    }
}
