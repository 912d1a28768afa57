//! Catalog: the control database, the truth about the fleet.

mod feed;
mod journal;
mod leases;
mod templates;
mod tenants;

pub use feed::{Feed, Reader};
pub use journal::Entry;
pub use leases::{Leases, RENEWAL as LEASE_RENEWAL};
pub use templates::Template;
pub use tenants::{Filter, Migrated, NewTenant, TenantRow};

use tokio::sync::OnceCell;
use tokio_postgres::Statement;

use crate::pg::{self, Connection, Endpoint, Login};

/// The catalog's own migrations, applied as those of any other database.
pub const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__catalog.sql", include_str!("catalog/migrations/V1__catalog.sql")),
    ("V2__lease.sql", include_str!("catalog/migrations/V2__lease.sql")),
    ("V3__adopted.sql", include_str!("catalog/migrations/V3__adopted.sql")),
];

/// Why the catalog could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The server's answer, or that there was none.
    #[error("catalog: {0}")]
    Server(#[from] pg::Error),
    /// A row that this program does not understand: it was written by a newer one, or by hand.
    #[error("catalog: {0}; was it written by a newer manybox?")]
    Row(String),
}

impl From<tokio_postgres::Error> for CatalogError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error.into())
    }
}

impl From<crate::policy::Invalid> for CatalogError {
    fn from(error: crate::policy::Invalid) -> Self {
        Self::Row(error.0)
    }
}

/// A session in the catalog that may change it: the control plane's.
///
/// Every change is one statement, so that calls may share the session and run side by side; its notice to routers
/// and its line in the journal are part of that statement.
pub struct Catalog {
    connection: Connection,
    /// The prepared query for one tenant. Each creation asks it four times, and planning takes longer than answering.
    tenant: OnceCell<Statement>,
}

impl Catalog {
    /// Opens a session as the admin.
    ///
    /// # Errors
    /// When the server can't be reached or the catalog isn't there; `manybox init` makes it.
    pub async fn open(endpoint: &Endpoint, admin: &Login, database: &str) -> Result<Self, CatalogError> {
        Ok(Self { connection: pg::connect(endpoint, admin, database).await?, tenant: OnceCell::new() })
    }
}
