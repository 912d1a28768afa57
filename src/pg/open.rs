//! Opening sessions of the data plane: the hosts of a server's URL in turn, and requests to cancel.

use std::io;
use std::sync::Arc;

use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use super::connect::{Endpoint, Error, Login};
use super::socket::{Address, Guard};
use super::wire::{self, CancelKey, Startup, TlsRequest, WireError};

impl Endpoint {
    /// Opens one session of the data plane, whose socket holds `guard` until the server has closed its side.
    ///
    /// `options` are the session's defaults, as in `PGOPTIONS`.
    ///
    /// # Errors
    /// [`Error::Login`] with the server's words, [`Error::Unreachable`] when none of its hosts answers.
    pub async fn open(
        &self,
        login: &Login,
        database: &str,
        options: &str,
        guard: &Guard,
    ) -> Result<wire::Connection, Error> {
        let config = self.config(login, database);
        let startup = Startup {
            user: &login.user,
            password: login.password.as_ref().map(|password| password.expose().as_bytes()),
            database,
            application_name: config.get_application_name().unwrap_or_default(),
            options,
            channel_binding: config.get_channel_binding(),
        };
        let mut last = Error::Unreachable {
            server: self.name().to_owned(),
            source: io::Error::new(io::ErrorKind::NotFound, "its url names no host"),
        };
        for address in Address::all(&config) {
            let socket = match address.dial(&config, Some(Arc::clone(guard))).await {
                Ok(socket) => socket,
                Err(source) => {
                    last = Error::Unreachable { server: self.name().to_owned(), source };
                    continue;
                }
            };
            match wire::Connection::open(socket, address.clone(), &self.tls_to(&address, &config), &startup)
                .await
            {
                Ok(connection) if suits(&connection, config.get_target_session_attrs()) => {
                    return Ok(connection);
                }
                Ok(_) => {
                    let reason = "none of its hosts has the state that target_session_attrs asks for";
                    last = Error::Settings { server: self.name().to_owned(), reason: reason.into() };
                }
                // Whoever was answered by PostgreSQL was refused by it; the other hosts are asked only when not.
                Err(source) if source.as_server().is_some() => {
                    return Err(self.refused(login, database, source));
                }
                Err(source) => last = self.refused(login, database, source),
            }
        }
        Err(last)
    }

    /// The error of a session that could not be opened, or was of no use when it was.
    pub(crate) fn refused(&self, login: &Login, database: &str, source: WireError) -> Error {
        Error::Login {
            server: self.name().to_owned(),
            database: database.to_owned(),
            user: login.user.clone(),
            source: Box::new(source),
        }
    }

    /// Asks the server to cancel what the session with this key is doing. Best effort: the server doesn't say whether
    /// it found anything to cancel.
    ///
    /// # Errors
    /// When the server can't be reached.
    pub async fn cancel(&self, key: &CancelKey) -> Result<(), WireError> {
        let config = self.config(&Login { user: String::new(), password: None }, "");
        let socket = key.address.dial(&config, None).await?;
        wire::cancel(socket, &self.tls_to(&key.address, &config), key).await
    }

    fn tls_to<'a>(&'a self, address: &'a Address, config: &Config) -> TlsRequest<'a> {
        TlsRequest { mode: config.get_ssl_mode(), hostname: address.hostname(), config: self.tls_config() }
    }
}

/// Whether the server is in the state that the URL asks for. It says so itself when a session begins.
fn suits(connection: &wire::Connection, wanted: TargetSessionAttrs) -> bool {
    match wanted {
        TargetSessionAttrs::ReadWrite => !connection.is_standby(),
        TargetSessionAttrs::ReadOnly => connection.is_standby(),
        _ => true,
    }
}
