//! SQLSTATE classes that decide what we do next.

use tokio_postgres::error::SqlState;

/// Whether the error says that the server (not the request) is at fault, so that trying again later may help.
///
/// No code at all means that the server didn't answer: a refused or broken connection.
pub fn is_outage(code: Option<&SqlState>) -> bool {
    let Some(code) = code else { return true };
    // 08 connection exception, 53 insufficient resources, 57P operator intervention (shutdown, starting up).
    matches!(&code.code()[..2], "08" | "53")
        || [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::DATABASE_DROPPED,
            SqlState::IDLE_SESSION_TIMEOUT,
        ]
        .contains(code)
}

/// Whether the server refused the login itself: its role may not log in (28000), the password is another one
/// (28P01), the database is gone (3D000), or CONNECT is not granted (42501).
pub fn is_refused_login(code: Option<&SqlState>) -> bool {
    code.is_some_and(|code| {
        [
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_CATALOG_NAME,
            SqlState::INSUFFICIENT_PRIVILEGE,
        ]
        .contains(code)
    })
}
