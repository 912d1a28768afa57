//! Leases: each router's share of the servers' connections, with a login that may do no more than ask for it.

use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio_postgres::Notification;
use tokio_postgres::types::Type;

use super::{CatalogError, Reader};
use crate::pg::Connection;

/// How long a share is kept for a router that says nothing.
const LIFETIME: &str = "30 seconds";
/// How often a router must renew its leases at least.
pub const RENEWAL: Duration = Duration::from_secs(10);

/// One router's leases.
pub struct Leases {
    connection: Connection,
    notices: Receiver<Notification>,
    router: String,
}

impl Reader {
    /// Connects as `router`, a name that no other router has.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub async fn open_leases(&self, router: &str) -> Result<Leases, CatalogError> {
        let (connection, notices) = self.listen("lease").await?;
        Ok(Leases { connection, notices, router: router.to_owned() })
    }
}

impl Leases {
    /// The router's share of `total` connections of a server; it holds `held` now. It must close what it holds above its
    /// share. Other routers get those connections after this one has closed them and renewed its lease.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn renew(&self, server: &str, total: u32, held: u32) -> Result<u32, CatalogError> {
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let (total, held) = (number(total), number(held));
        let row = self
            .connection
            .query_typed(
                "SELECT catalog.renew_lease($1, $2, $3, $4, $5::text::interval)",
                &[
                    (&server, Type::TEXT),
                    (&self.router, Type::TEXT),
                    (&total, Type::INT4),
                    (&held, Type::INT4),
                    (&LIFETIME, Type::TEXT),
                ],
            )
            .await?;
        let share: i32 =
            row.first().ok_or_else(|| CatalogError::Row("renew_lease gave no row".into()))?.try_get(0)?;
        Ok(u32::try_from(share).unwrap_or(0))
    }

    /// Leaves this router's shares to the others.
    ///
    /// # Errors
    /// When the connection is lost; the leases then end by themselves.
    pub async fn end(&self) -> Result<(), CatalogError> {
        self.connection.query_typed("SELECT catalog.end_leases($1)", &[(&self.router, Type::TEXT)]).await?;
        Ok(())
    }

    /// Waits until another router asks for leases to be renewed; `None` when the connection is lost.
    pub async fn asked(&mut self) -> Option<()> {
        while self.notices.recv().await?.payload() == self.router {}
        Some(())
    }
}
