//! Catalog: the control database, the truth about the fleet.

mod accounts;
mod act;
mod base_urls;
mod baseline;
mod copies;
mod declared;
mod feed;
mod fingerprints;
mod idempotency;
mod jobs;
mod journal;
mod journal_chain;
mod labels;
mod leases;
mod listing;
mod made;
mod marks;
mod master_keys;
mod operators;
mod overview;
mod rehearsals;
mod rollouts;
mod routers;
mod schemas;
mod sizes;
mod step_field;
mod steps;
mod templates;
mod tenant_settings;
mod tenants;
mod traffic;
mod traffic_history;
mod webhooks;

pub use accounts::Account;
pub use act::Act;
pub use copies::Exchange;
pub use declared::DeclaredBefore;
pub use feed::{Feed, Reader};
pub use fingerprints::AcceptedDrift;
pub use idempotency::{Keyed, StoredAnswer};
pub use jobs::{JobRow, JobSeat, JobState, NewJob};
pub use journal::{Entry, JournalQuery, Told};
pub use journal_chain::{ChainReport, JournalHead, Link};
pub use leases::{Demand, Holder, Lease, Leases, RENEWAL as LEASE_RENEWAL};
pub use listing::{Cursor, Listing, MAX_PAGE, Order, Page, Trouble};
pub use made::{Made, NEWEST_MIGRATION};
pub use marks::Recovered;
pub use master_keys::{KEY_REPORT, KeyUse};
pub use operators::{Credential, NewToken, OperatorRole, OperatorRow, Scopes, TokenRow};
pub use overview::{Group, Share};
pub use rollouts::{NewStep, PlannedGaps, RolloutRow, RolloutState};
pub use routers::{KnownBudget, Named, RouterRow, Use};
pub use step_field::WaveField;
pub use steps::{Claim, Room, Seat, StepOutcome, StepRow, StepState, WaveCounts};
pub use templates::Template;
pub use tenants::{Filter, Migrated, NewTenant, TenantRow};
pub use traffic::{FleetTraffic, RouterReport, TRAFFIC_REPORT};
pub use traffic_history::{Busy, Minute};
pub use webhooks::{Happened, WebhookRow};

use crate::pg::{self, Endpoint, Login, Logins, Sessions, Waits};

/// The catalog's own migrations, applied as those of any other database.
pub const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__catalog.sql", include_str!("catalog/migrations/V1__catalog.sql")),
    ("V2__lease.sql", include_str!("catalog/migrations/V2__lease.sql")),
    ("V3__adopted.sql", include_str!("catalog/migrations/V3__adopted.sql")),
    ("V4__schema.sql", include_str!("catalog/migrations/V4__schema.sql")),
    ("V5__version.sql", include_str!("catalog/migrations/V5__version.sql")),
    ("V6__traffic.sql", include_str!("catalog/migrations/V6__traffic.sql")),
    ("V7__rollout.sql", include_str!("catalog/migrations/V7__rollout.sql")),
    ("V8__fingerprint.sql", include_str!("catalog/migrations/V8__fingerprint.sql")),
    ("V9__router.sql", include_str!("catalog/migrations/V9__router.sql")),
    ("V10__master_key.sql", include_str!("catalog/migrations/V10__master_key.sql")),
    ("V11__fleet.sql", include_str!("catalog/migrations/V11__fleet.sql")),
    ("V12__copies.sql", include_str!("catalog/migrations/V12__copies.sql")),
    ("V13__baseline.sql", include_str!("catalog/migrations/V13__baseline.sql")),
    ("V14__rehearsal.sql", include_str!("catalog/migrations/V14__rehearsal.sql")),
    ("V15__control.sql", include_str!("catalog/migrations/V15__control.sql")),
    ("V16__console.sql", include_str!("catalog/migrations/V16__console.sql")),
    ("V17__job.sql", include_str!("catalog/migrations/V17__job.sql")),
    ("V18__journal_chain.sql", include_str!("catalog/migrations/V18__journal_chain.sql")),
    ("V19__webhook.sql", include_str!("catalog/migrations/V19__webhook.sql")),
    ("V20__database_size.sql", include_str!("catalog/migrations/V20__database_size.sql")),
    ("V21__mark.sql", include_str!("catalog/migrations/V21__mark.sql")),
    ("V22__journal_owner.sql", include_str!("catalog/migrations/V22__journal_owner.sql")),
    ("V23__oidc.sql", include_str!("catalog/migrations/V23__oidc.sql")),
    ("V24__verify_job.sql", include_str!("catalog/migrations/V24__verify_job.sql")),
    ("V25__replaces.sql", include_str!("catalog/migrations/V25__replaces.sql")),
];

/// The numbers of those of [`MIGRATIONS`] that alter the journal's tables or functions. For these `init` takes back what belongs to
/// a role that no migration can become.
pub const OF_JOURNAL: &[i32] = &[22];

/// Why the catalog could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The server's answer, or that there was none.
    #[error("catalog: {0}")]
    Server(#[from] pg::Error),
    /// A row that this program does not understand: it was written by a newer one, or by hand.
    #[error("catalog: {0}; was it written by a newer manybox?")]
    Row(String),
    /// It was made by an earlier version.
    #[error("the catalog was made by an older manybox; run `manybox init`, which upgrades it")]
    Outdated,
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

/// Sessions that a command may have: one for what waits for the disk, as all changes do, and for each other, because
/// every change moves the catalog's one clock; and one for what is read meanwhile. They come out of what
/// `reserved_connections` keeps for commands, and more would only stand in line inside PostgreSQL.
const SESSIONS: usize = 2;

/// The catalog as the control plane has it, which may change it.
///
/// Every change is one statement, so that calls may run side by side, in one command and in several; its notice to
/// routers and its line in the journal are part of that statement. A session that broke between two calls is replaced
/// before the next.
#[derive(Clone)]
pub struct Catalog {
    sessions: Sessions,
}

impl Catalog {
    /// Opens a session as the admin.
    ///
    /// # Errors
    /// When the server can't be reached or the catalog isn't there; `manybox init` makes it.
    pub async fn open(
        endpoint: &Endpoint,
        admin: &Login,
        database: &str,
        waits: Waits,
    ) -> Result<Self, CatalogError> {
        let logins = Logins::from(admin.clone());
        let sessions = Sessions::new(endpoint.clone(), database, SESSIONS, waits, move || logins.clone());
        sessions.check().await?;
        Ok(Self { sessions })
    }

    /// The same catalog, for changes by somebody's order: their lines in the journal say whose.
    #[must_use]
    pub fn acting(&self, act: &Act) -> Self {
        Self { sessions: self.sessions.saying(act::SETTING, act.as_json()) }
    }
}
