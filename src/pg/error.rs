//! Why a server could not be reached, or a statement of ours failed.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::wire::WireError;

/// A failure to connect or of a statement, with the server's own words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No session could be had.
    #[error("cannot connect to server `{server}`, database `{database}`, as `{user}`: {}", cause(.source))]
    Connect {
        /// The server's name in the settings.
        server: String,
        /// The database.
        database: String,
        /// The role.
        user: String,
        /// What went wrong.
        source: tokio_postgres::Error,
    },
    /// No session of the data plane could be had.
    #[error("cannot connect to server `{server}`, database `{database}`, as `{user}`: {source}")]
    Login {
        /// The server's name in the settings.
        server: String,
        /// The database.
        database: String,
        /// The role.
        user: String,
        /// What went wrong.
        source: Box<WireError>,
    },
    /// The server answered the login, and its session did not begin: it waits for something in the database.
    #[error(
        "server `{server}` answered the login of `{user}`, and did not begin its session in database `{database}` within {}; \
         see on the server in pg_locks who holds what it waits for",
        humantime::format_duration(*waited)
    )]
    Stuck {
        /// The server's name in the settings.
        server: String,
        /// The database.
        database: String,
        /// The role.
        user: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// No host of the server could be reached.
    #[error("cannot reach server `{server}`: {source}; is it running, and is its url right?")]
    Unreachable {
        /// The server's name in the settings.
        server: String,
        /// What the operating system said of the last host.
        source: std::io::Error,
    },
    /// A statement failed, or the connection broke under it.
    #[error("{}", cause(.0))]
    Statement(#[from] tokio_postgres::Error),
    /// All of a bounded number of sessions stayed in use.
    #[error(
        "all {most} sessions in database `{database}` of server `{server}` were in use for {}; see there in \
         pg_stat_activity and pg_locks what they wait for",
        humantime::format_duration(*waited)
    )]
    Busy {
        /// The server's name in the settings.
        server: String,
        /// The database.
        database: String,
        /// How many there may be.
        most: usize,
        /// How long one was waited for.
        waited: Duration,
    },
    /// The server was connected to, and did not finish the login.
    #[error(
        "server `{server}` did not finish a login within {}; is it overloaded, does its session wait for a lock in the database \
         (pg_locks), or does something else listen there?",
        humantime::format_duration(*waited)
    )]
    Silent {
        /// The server's name in the settings.
        server: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// No host of the server is as its URL's `target_session_attrs` asks, or none would have the login.
    #[error("no host of server `{server}` {wanted}: {seen}")]
    NoHost {
        /// The server's name in the settings.
        server: String,
        /// What was looked for.
        wanted: &'static str,
        /// Each host and what it said.
        seen: String,
        /// The first refusal of the login, by a host of which nobody knows whether it is the one that counts.
        refusal: Option<Box<Error>>,
    },
    /// The settings don't name the server of a tenant.
    #[error("server `{server}` is not in the settings, but tenant {tenant} is on it; add [servers.{server}]")]
    UnknownServer {
        /// The server's name in the catalog.
        server: String,
        /// The tenant's id.
        tenant: String,
    },
    /// The server's URL or its certificate is not usable.
    #[error("server `{server}`: {reason}")]
    Settings {
        /// The server's name in the settings.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// The server's SQLSTATE; `None` when the server did not answer.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Connect { source, .. } | Self::Statement(source) => source.code(),
            Self::Login { source, .. } => source.code(),
            Self::NoHost { refusal, .. } => refusal.as_ref().and_then(|refusal| refusal.code()),
            Self::Settings { .. }
            | Self::UnknownServer { .. }
            | Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Stuck { .. }
            | Self::Silent { .. } => None,
        }
    }

    /// Whether the server answered, and a login came to nothing all the same. That may be this login's alone: what the
    /// server asks of it is what the login's own verifier says, which whoever logs in by it can write; what its session waits
    /// for is in its own database; and a trigger there may fail with any code (from PostgreSQL 17 on).
    pub fn is_of_the_login(&self) -> bool {
        match self {
            Self::Stuck { .. } => true,
            Self::Login { source, .. } => match &**source {
                WireError::Login(_) | WireError::Protocol(_) | WireError::TooLong { .. } => true,
                WireError::Server(error) => error.is_of_a_function(),
                _ => false,
            },
            Self::NoHost { refusal, .. } => refusal.as_ref().is_some_and(|refusal| refusal.is_of_the_login()),
            _ => false,
        }
    }

    /// Whether the server answered, and this side had not what it asks of the login: a password, or a method.
    pub fn is_failed_login(&self) -> bool {
        match self {
            Self::Login { source, .. } => matches!(**source, WireError::Login(_)),
            Self::NoHost { refusal, .. } => refusal.as_ref().is_some_and(|refusal| refusal.is_failed_login()),
            _ => false,
        }
    }

    /// Whether a host of PostgreSQL answered this login by a refusal. Not when it starts, stops, or was ended: then it
    /// serves nobody, and another host may.
    pub(super) fn is_refusal(&self) -> bool {
        match self.code().map(SqlState::code) {
            _ if self.is_of_the_login() => true,
            Some(code) => !code.starts_with("57P0") && !code.starts_with("08"),
            None => false,
        }
    }
}

/// tokio-postgres prints only "db error" and leaves the server's sentence to `source()`.
pub(super) fn cause(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let hint = db.hint().map(|h| format!(" ({h})")).unwrap_or_default();
        return format!("{} [{}]{hint}", db.message(), db.code().code());
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::ServerError;
    use super::*;

    #[test]
    fn what_a_trigger_raises_while_a_session_begins_is_not_the_servers_word() {
        let login = |code: &SqlState, context: Option<&str>| Error::Login {
            server: "main".into(),
            database: "mb_a".into(),
            user: "mb_a".into(),
            source: Box::new(WireError::Server(Box::new(ServerError {
                severity: "FATAL".into(),
                code: code.clone(),
                message: "the database system is shutting down".into(),
                detail: None,
                hint: None,
                context: context.map(str::to_owned),
            }))),
        };
        let trigger = Some("PL/pgSQL function public.at_login() line 1 at RAISE");
        for code in [SqlState::CANNOT_CONNECT_NOW, SqlState::ADMIN_SHUTDOWN, SqlState::CONNECTION_FAILURE] {
            let (raised, said) = (login(&code, trigger), login(&code, None));
            assert!(raised.is_of_the_login() && raised.is_refusal(), "{}", code.code());
            assert!(!said.is_of_the_login() && !said.is_refusal(), "{}", code.code());
        }
    }
}
