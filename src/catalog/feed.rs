//! Feed: how a router hears of the catalog, with a login that may only read it.

use std::sync::Arc;

use tokio::sync::mpsc::Receiver;
use tokio_postgres::Notification;

use super::Error;
use super::tenants::{SELECT, record};
use crate::pg::{self, Connection, Endpoint, Ident, KeyRing};
use crate::tenant::{Record, TenantId};

/// How to open a [`Feed`]. Clone it freely.
#[derive(Clone)]
pub struct Reader {
    endpoint: Endpoint,
    keys: Arc<KeyRing>,
    database: String,
}

impl Reader {
    /// A reader of the catalog in this database.
    pub fn new(endpoint: Endpoint, keys: Arc<KeyRing>, database: impl Into<String>) -> Self {
        Self { endpoint, keys, database: database.into() }
    }

    /// Connects and listens. What is loaded after this misses nothing: the notices of later changes are kept.
    ///
    /// # Errors
    /// When the server can't be reached, or refuses the router's login under every master key.
    pub async fn open(&self) -> Result<Feed, Error> {
        let (connection, notices) = self.listen("directory").await?;
        Ok(Feed { connection, notices })
    }

    pub(super) async fn listen(&self, channel: &str) -> Result<(Connection, Receiver<Notification>), Error> {
        let mut refused = None;
        for login in self.keys.router_logins(&self.database) {
            match pg::connect_listening(&self.endpoint, &login, &self.database).await {
                Ok((connection, notices)) => {
                    connection.batch_execute(&format!("LISTEN {}", Ident::new(channel))).await?;
                    return Ok((connection, notices));
                }
                Err(error) if pg::is_refused_login(error.code()) => refused = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(refused.map_or_else(|| Error::Row("there is no master key".into()), Error::from))
    }
}

/// One listening session.
pub struct Feed {
    connection: Connection,
    notices: Receiver<Notification>,
}

impl Feed {
    /// Every tenant that may be routed to, or that a client must be told of.
    ///
    /// # Errors
    /// When the connection is lost, or a row can't be understood.
    pub async fn load_all(&self) -> Result<Vec<Record>, Error> {
        let sql = format!("{SELECT} WHERE t.state IN ('active', 'suspended') ORDER BY t.id");
        self.connection.query(&sql, &[]).await?.iter().map(record).collect()
    }

    /// One tenant, whatever its state; `None` when there never was one of this id.
    ///
    /// # Errors
    /// When the connection is lost, or the row can't be understood.
    pub async fn load(&self, id: &TenantId) -> Result<Option<Record>, Error> {
        let sql = format!("{SELECT} WHERE t.id = $1");
        self.connection.query_opt(&sql, &[&id.as_str()]).await?.as_ref().map(record).transpose()
    }

    /// The count of changes so far.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn version(&self) -> Result<i64, Error> {
        Ok(self.connection.query_one("SELECT version FROM catalog.clock", &[]).await?.try_get(0)?)
    }

    /// Waits for the next change; `None` when the connection is lost. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<TenantId> {
        loop {
            // A payload that is no id was sent by somebody who may connect to the catalog, but is not us.
            if let Ok(id) = self.notices.recv().await?.payload().parse() {
                return Some(id);
            }
        }
    }
}
