//! Why a checkout failed, and whose turn it is then.

use std::time::Duration;

use crate::pg;
use crate::tenant::TenantId;

/// Why there is no connection for a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Back-pressure (503): every connection the tenant may have stayed in use.
    #[error(
        "tenant {tenant}: all {max} connections stayed in use for {waited:?}; try again later, or raise max_connections"
    )]
    Wait {
        /// The tenant.
        tenant: TenantId,
        /// How long the request waited for one to be free: the tier's `acquire_timeout`.
        waited: Duration,
        /// The tier's `max_connections`.
        max: u32,
    },
    /// Back-pressure (503): the server, or the tenant's login on it, has no more connections to give (53300).
    #[error("tenant {tenant}: {source}; try again later")]
    Full {
        /// The tenant.
        tenant: TenantId,
        /// The server's words.
        source: pg::Error,
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
        source: pg::Error,
    },
    /// Anything else that keeps a connection from being made, such as a server that the settings don't name.
    #[error(transparent)]
    Connect(#[from] pg::Error),
}
