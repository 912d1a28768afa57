//! Why a checkout failed, and whose turn it is then.

use std::sync::Arc;
use std::time::Duration;

use super::lease::Lease;
use crate::pg;
use crate::tenant::TenantId;

/// Why there is no connection for a request. Cheap to clone: one refusal of a server may answer many requests.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Back-pressure (503): the tier's `acquire_timeout` ran out.
    #[error("tenant {tenant} waited {waited:?} for a connection: {wait}{}", holders(.lease.as_deref()))]
    Wait {
        /// The tenant.
        tenant: TenantId,
        /// How long the request waited.
        waited: Duration,
        /// What it waited for.
        wait: Wait,
        /// Who has the server's connections, where it waited for one of these and several routers share them.
        lease: Option<Arc<Lease>>,
    },
    /// Back-pressure (429): so many requests of the tenant wait already that this one didn't begin to.
    #[error(
        "tenant {tenant}: {max} requests wait for a connection already; try again later, or raise max_waiting"
    )]
    Queue {
        /// The tenant.
        tenant: TenantId,
        /// The tier's `max_waiting`.
        max: u32,
    },
    /// The server doesn't answer, starts up or shuts down (503).
    #[error("server `{server}` is not available: {reason}; try again later")]
    Server {
        /// The server's name in the settings.
        server: String,
        /// What it said, or how long it was silent.
        reason: String,
    },
    /// The server refuses the tenant's login: it was suspended, retired, moved or rekeyed and this router has not
    /// heard of it yet. [`Pools::refused`](super::Pools::refused) has told whoever listens.
    #[error("tenant {tenant} was fenced: {source}; its record must be read again")]
    Fenced {
        /// The tenant.
        tenant: TenantId,
        /// The server's words.
        source: Arc<pg::Error>,
    },
    /// The router's master keys are not those of which the tenant's password was made.
    #[error(
        "tenant {tenant}: its password derives from master key {number}, which this router does not have: {source}"
    )]
    WrongKey {
        /// The tenant.
        tenant: TenantId,
        /// The key's number.
        number: i32,
        /// The server's words.
        source: Arc<pg::Error>,
    },
    /// Anything else that keeps a connection from being made, such as a server that the settings don't name.
    #[error(transparent)]
    Connect(#[from] Arc<pg::Error>),
}

fn holders(lease: Option<&Lease>) -> String {
    lease.map(|lease| format!(": {lease}")).unwrap_or_default()
}

/// Which wait ran out; each has another remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// All connections of the server's budget are in use, by all tenants together.
    #[error("the server's budget is in use; raise its max_connections, or give tenants another server")]
    Budget,
    /// All connections that the tenant may have stayed in use.
    #[error("all of its own stayed in use; make its requests shorter, or raise its tier's max_connections")]
    Tenant,
    /// There is room, but the server was slow to open a connection.
    #[error("the server was slow to open one; see how busy it is")]
    Connect,
    /// The server, or the tenant's login on it, has no more connections to give (53300): others use it besides.
    #[error("the server has none left (53300); lower its budget, or end what else uses it")]
    Full,
}
