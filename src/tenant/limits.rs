//! `Limits`: what a tenant may use, from its tier.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of one tier. Every wait and every size a tenant can cause is bounded by one of these.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most connections one router opens to the tenant's database. The login role's CONNECTION LIMIT on the
    /// server is twice this, so that a router and its successor fit beside each other during a deploy.
    pub max_connections: u32,
    /// Longest wait for a free connection before 503.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// PostgreSQL's `statement_timeout` for each statement of a request.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// PostgreSQL's `idle_in_transaction_session_timeout`: what a stuck router can hold locks for.
    #[serde(with = "humantime_serde")]
    pub transaction_idle_timeout: Duration,
    /// Longest time from a request's head to its answer.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Time without use after which a tenant's connections are closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Largest request body, in bytes; 413 above it.
    pub max_body: usize,
    /// Most rows a read returns; `None` for no limit of ours. [`Api::db_max_rows`](super::Api::db_max_rows) can only
    /// lower it.
    pub max_rows: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(15),
            transaction_idle_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            max_body: 10 * 1024 * 1024,
            max_rows: None,
        }
    }
}
