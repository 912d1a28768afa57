//! Scale: asks a server how large databases are, by the router's own login and one question for many.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::timeout;

use super::super::terminator::Keys;
use crate::pg::{self, Endpoint, Sessions, Waits};

/// Sessions that it has on a server, of those that `reserved_connections` leaves.
const SESSIONS: usize = 1;
/// How long the server goes on with further databases.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for the answer: the last database may take longer than the others.
const ANSWER: Duration = Duration::from_secs(60);

/// The function that `manybox init` made for it.
const QUESTION: &str =
    "SELECT database, bytes, took FROM public.database_sizes($1, make_interval(secs => $2))";

/// What a server said of some databases, by name. Those that are missing were not come to, or are not there.
pub type Measured = HashMap<String, (u64, Duration)>;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    /// The server can't be asked, or refused.
    #[error("{0}; was the server prepared by `manybox init`?")]
    Server(#[from] pg::Error),
    /// It did not answer.
    #[error("no answer within {} seconds", ANSWER.as_secs())]
    Silent,
}

/// The router's way to ask one server. Not the terminator's session, which must never wait.
pub(in crate::pool) struct Scale(Sessions);

impl Scale {
    pub(in crate::pool) fn new(endpoint: &Endpoint, catalog: &str, keys: &Keys) -> Self {
        let (database, catalog) = (format!("{catalog}_router"), catalog.to_owned());
        let keys = Keys::clone(keys);
        let logins =
            move || keys.read().unwrap_or_else(PoisonError::into_inner).clone().router_logins(&catalog);
        Self(Sessions::new(endpoint.clone(), database, SESSIONS, Waits::default(), logins))
    }

    /// Measures these databases, in their order.
    pub(in crate::pool) async fn measure(&self, databases: &[String]) -> Result<Measured, ScaleError> {
        let patience = PATIENCE.as_secs_f64();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&databases, &patience];
        let asked = self.0.query(QUESTION, &parameters);
        let rows = timeout(ANSWER, asked).await.map_err(|_| ScaleError::Silent)??;
        let read = |row: &tokio_postgres::Row| {
            let (bytes, took): (i64, f64) = (row.try_get(1)?, row.try_get(2)?);
            let took = Duration::try_from_secs_f64(took).unwrap_or_default();
            Ok((row.try_get(0)?, (u64::try_from(bytes).unwrap_or(0), took)))
        };
        rows.iter()
            .map(read)
            .collect::<Result<_, tokio_postgres::Error>>()
            .map_err(|error| pg::Error::from(error).into())
    }
}
