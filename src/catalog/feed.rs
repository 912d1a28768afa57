//! Feed: how a router hears of the catalog, with a login that may only read it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Notification, Row};

use super::made::made;
use super::tenants::{SELECT, record};
use super::{CatalogError, Made};
use crate::pg::{self, Connection, Endpoint, Ident, Sessions, Waits};
use crate::tenant::{Record, TenantId};
use crate::vault::KeyRing;

/// Sessions for questions that a router may have, beside the two that listen: it asks one thing after the other.
const SESSIONS: usize = 1;

/// How to open a [`Feed`]. Clone it freely.
///
/// What listens has a session of its own, because a notice comes to the session that asked for it, and is lost with it.
/// Questions go to another, which is replaced when it breaks.
#[derive(Clone)]
pub struct Reader {
    endpoint: Endpoint,
    pub(super) keys: Arc<KeyRing>,
    database: String,
    pub(super) sessions: Sessions,
    /// Keys that a warning was logged for.
    told: Arc<Mutex<HashSet<String>>>,
    /// Told of every change of the fleet's master keys.
    pub(super) keys_told: Arc<Notify>,
}

/// The notice of a change of the fleet's master keys, where another's is a tenant's id.
const KEYS_CHANGED: &str = "master-key";

/// Most keys that are warned of, so that a catalog full of unknown keys can't fill the log.
const MAX_WARNINGS: usize = 100;

impl Reader {
    /// A reader of the catalog in this database.
    pub fn new(endpoint: Endpoint, keys: Arc<KeyRing>, database: impl Into<String>) -> Self {
        let (database, ring) = (database.into(), Arc::clone(&keys));
        let catalog = database.clone();
        let logins = move || ring.router_logins(&catalog);
        let sessions = Sessions::new(endpoint.clone(), database.as_str(), SESSIONS, Waits::default(), logins);
        Self { endpoint, keys, database, sessions, told: Arc::default(), keys_told: Arc::default() }
    }

    /// Connects and listens. What is loaded after this misses nothing: the notices of later changes are kept.
    ///
    /// # Errors
    /// When the server can't be reached, or refuses the router's login under every master key.
    pub async fn open(&self) -> Result<Feed, CatalogError> {
        let (connection, notices) = self.listen("directory").await?;
        // What was told before is not known.
        self.keys_told.notify_one();
        Ok(Feed {
            connection,
            notices,
            sessions: self.sessions.clone(),
            told: Arc::clone(&self.told),
            keys_told: Arc::clone(&self.keys_told),
        })
    }

    pub(super) async fn listen(
        &self,
        channel: &str,
    ) -> Result<(Connection, Receiver<Notification>), CatalogError> {
        let logins = self.keys.router_logins(&self.database);
        let opened = pg::connect_listening(&self.endpoint, &logins, &self.database).await;
        if opened.as_ref().is_err_and(|error| error.code() == Some(&SqlState::INVALID_PASSWORD)) {
            self.keys.hear_refusal();
        }
        let (connection, notices) = opened?;
        connection.batch_execute(&format!("LISTEN {}", Ident::new(channel))).await?;
        Ok((connection, notices))
    }
}

/// One listening session, and the sessions for questions.
pub struct Feed {
    connection: Connection,
    notices: Receiver<Notification>,
    sessions: Sessions,
    told: Arc<Mutex<HashSet<String>>>,
    keys_told: Arc<Notify>,
}

impl Feed {
    /// Every tenant that may be routed to, or that a client must be told of.
    ///
    /// # Errors
    /// When the connection is lost, or a row can't be understood.
    pub async fn load_all(&self) -> Result<Vec<Record>, CatalogError> {
        let sql = format!("{SELECT} WHERE t.state IN ('active', 'suspended') ORDER BY t.id");
        self.sessions.query(&sql, &[]).await?.iter().map(|row| self.record(row)).collect()
    }

    /// One tenant, whatever its state; `None` when there never was one of this id.
    ///
    /// # Errors
    /// When the connection is lost, or the row can't be understood.
    pub async fn load(&self, id: &TenantId) -> Result<Option<Record>, CatalogError> {
        let sql = format!("{SELECT} WHERE t.id = $1");
        let row = self.sessions.query_opt(&sql, &[&id.as_str()]).await?;
        row.as_ref().map(|row| self.record(row)).transpose()
    }

    /// Warns of a setting that is left out once, however many tenants have it and however often they are read.
    fn record(&self, row: &Row) -> Result<Record, CatalogError> {
        let record = record(row)?;
        for (key, why) in record.overrides.left_out() {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() < MAX_WARNINGS && told.insert(key.to_owned()) {
                tracing::warn!(
                    setting = key,
                    tenant.slug = %record.slug,
                    "a tenant's setting is left out, here and wherever else it is stored: {why}; was it set by a newer \
                     manybox? then upgrade this one"
                );
            }
        }
        Ok(record)
    }

    /// The count of changes so far. Asked in the session that listens, because an answer also tells that notices would
    /// still arrive.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn version(&self) -> Result<i64, CatalogError> {
        Ok(self.connection.query_one("SELECT version FROM catalog.clock", &[]).await?.try_get(0)?)
    }

    /// By which version of manybox the catalog was made last; `None` where that was before versions were kept.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn made(&self) -> Result<Option<Made>, CatalogError> {
        made(&self.sessions).await
    }

    /// Waits for the next change; `None` when the connection is lost. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<TenantId> {
        loop {
            let notice = self.notices.recv().await?;
            if notice.payload() == KEYS_CHANGED {
                self.keys_told.notify_one();
            }
            // Anybody who may connect to the catalog can send a notice whose payload is no id.
            if let Ok(id) = notice.payload().parse() {
                return Some(id);
            }
        }
    }
}
