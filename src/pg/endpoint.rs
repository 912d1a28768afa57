//! Endpoint: where a server is and how it is connected to, without any credentials.

mod tls;
mod url;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{LoadBalanceHosts, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::Error;
use super::hosts::{Hosts, Target};
use super::login::Login;
use super::socket::{Host, Keepalive, Liveness};
use crate::policy::Secret;
use tls::Encryption;
use url::Given;

/// Longest wait for a session on a server's only host, from the first byte to the end of the login, unless the URL has a
/// `connect_timeout`.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for each of several hosts. It is shorter because others may answer.
const HOST_TIMEOUT: Duration = Duration::from_secs(3);

/// When a quiet connection is probed, and given up, unless the URL says otherwise: some 20 seconds after its machine went.
const KEEPALIVE: Keepalive =
    Keepalive { idle: Duration::from_secs(10), interval: Duration::from_secs(3), count: 3 };
/// How long what was sent may stay unacknowledged, likewise.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a server is, without any credentials: what the data plane may know. Clones share what was found out about its
/// hosts.
#[derive(Clone)]
pub struct Endpoint {
    name: String,
    config: Config,
    given: Arc<Given>,
    tls: Arc<rustls::ClientConfig>,
    share: Duration,
    pub(super) hosts: Arc<Hosts>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({} at {})", self.name, self.places())
    }
}

impl Endpoint {
    /// Splits a connection URL (libpq's form, several hosts allowed) into the place and the login in it, if any.
    /// `root_cert` is what `sslrootcert` is where the URL has none: a PEM file of certificate authorities, or `system`.
    ///
    /// # Errors
    /// When the URL or a certificate can't be read, or both contradict. The URL, which may hold a password, is not repeated.
    pub fn parse(name: &str, url: &str, root_cert: Option<&Path>) -> Result<(Self, Option<Login>), Error> {
        let settings = |reason: String| Error::Settings { server: name.to_owned(), reason };
        let (given, from) = Given::parse(url, root_cert).map_err(settings)?;
        let login = match (from.get_user(), from.get_password()) {
            (Some(user), Some(password)) => Some(Login {
                user: user.to_owned(),
                password: Some(Secret::new(String::from_utf8_lossy(password).into_owned())),
            }),
            _ => None,
        };
        let all = hosts(&from);
        let tls = tls::client(&given.tls).map_err(settings)?;
        // Taken over piece by piece: a Config can't be told to forget its password.
        let mut config = Config::new();
        config
            .channel_binding(from.get_channel_binding())
            .ssl_negotiation(from.get_ssl_negotiation())
            .application_name("manybox");
        let at_random = from.get_load_balance_hosts() == LoadBalanceHosts::Random;
        let hosts = Arc::new(Hosts::new(name, all, given.target, at_random));
        let default = if hosts.all.len() > 1 { HOST_TIMEOUT } else { CONNECT_TIMEOUT };
        let share = given.connect_timeout.unwrap_or(default);
        Ok((Self { name: name.to_owned(), config, given: Arc::new(given), tls, share, hosts }, login))
    }

    /// The server's name in the settings.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its hosts, with their ports, in the order of the URL.
    pub fn places(&self) -> String {
        let all: Vec<_> = self.hosts.all.iter().map(ToString::to_string).collect();
        all.join(", ")
    }

    /// Whether the server has several hosts, one of which is the primary and is looked for.
    pub fn has_leader(&self) -> bool {
        self.hosts.has_leader()
    }

    /// Each of its hosts by itself, whatever it is, in the order of the URL.
    pub fn hosts_apart(&self) -> Vec<(String, Self)> {
        let apart = |host: &Host| {
            let hosts = Arc::new(Hosts::new(&self.name, vec![host.clone()], Target::Any, false));
            (host.to_string(), Self { hosts, ..self.clone() })
        };
        self.hosts.all.iter().map(apart).collect()
    }

    /// How long all its hosts together may take for one session: each has its own share.
    pub fn patience(&self) -> Duration {
        // A name may have two addresses, and each is tried.
        let shares =
            self.hosts.all.iter().map(|host| if matches!(host, Host::Unix(..)) { 1 } else { 2 }).sum();
        self.share() * shares
    }

    /// How long one address may take, from the first byte to the end of the login.
    pub(super) fn share(&self) -> Duration {
        self.share
    }

    /// The same server, each of whose hosts has this time.
    pub fn hurried(&self, share: Duration) -> Self {
        Self { share, ..self.clone() }
    }

    /// What to log in with.
    pub(super) fn config(&self, login: &Login, database: &str) -> Config {
        let mut config = self.config.clone();
        config.user(&login.user).dbname(database);
        if let Some(password) = &login.password {
            config.password(password.expose());
        }
        config
    }

    pub(super) fn liveness(&self) -> Liveness {
        self.given.liveness
    }

    /// The ways to encrypt a connection, in the order in which `sslmode` tries them.
    pub(super) fn encryptions(&self) -> &'static [SslMode] {
        match self.given.tls.encryption {
            Encryption::Disable => &[SslMode::Disable],
            Encryption::Allow => &[SslMode::Disable, SslMode::Require],
            Encryption::Prefer => &[SslMode::Prefer, SslMode::Disable],
            Encryption::Require | Encryption::VerifyCa | Encryption::VerifyFull => &[SslMode::Require],
        }
    }

    /// The TLS side of a connection of tokio-postgres.
    pub(super) fn tls(&self) -> MakeRustlsConnect {
        MakeRustlsConnect::new(rustls::ClientConfig::clone(&self.tls))
    }

    pub(super) fn tls_config(&self) -> &Arc<rustls::ClientConfig> {
        &self.tls
    }

    /// What psql, pg_dump and their like are to be called with, so that they find the same host in the same way. The password
    /// goes by `PGPASSWORD`, where `ps` doesn't show it.
    pub fn psql_arguments(&self, user: &str, database: &str) -> Vec<String> {
        vec![format!("--dbname={}", self.given.libpq(&self.hosts.all, user, database))]
    }
}

/// The hosts of a URL. Ports that are fewer than hosts are those of the first.
fn hosts(config: &Config) -> Vec<Host> {
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate();
    hosts
        .map(|(i, host)| {
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
            match host {
                tokio_postgres::config::Host::Tcp(name) => Host::Tcp(name.clone(), port),
                tokio_postgres::config::Host::Unix(folder) => Host::Unix(folder.clone(), port),
            }
        })
        .collect()
}

impl Default for Liveness {
    fn default() -> Self {
        Self { keepalive: Some(KEEPALIVE), user_timeout: Some(USER_TIMEOUT) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Endpoint {
        Endpoint::parse("main", url, None).unwrap().0
    }

    fn refused(url: &str) -> String {
        Endpoint::parse("main", url, None).unwrap_err().to_string()
    }

    #[test]
    fn hosts_stand_in_their_order() {
        let several = "postgres://a:b@db1,[::1]:5433,%2Frun%2Fpg:7/postgres?target_session_attrs=primary";
        let (endpoint, login) = Endpoint::parse("main", several, None).unwrap();
        assert_eq!(endpoint.places(), "db1:5432, [::1]:5433, /run/pg:7");
        assert!(endpoint.has_leader());
        assert_eq!(login.unwrap().user, "a");
        let named = parsed("postgres:///postgres?host=db1,db2&port=1,2");
        assert_eq!(named.places(), "db1:1, db2:2");
        assert!(!named.has_leader());
    }

    #[test]
    fn each_host_has_its_share_of_the_time() {
        assert_eq!(parsed("postgres://db1/postgres").share(), CONNECT_TIMEOUT);
        assert_eq!(parsed("postgres://db1,db2/postgres").share(), HOST_TIMEOUT);
        let given = parsed("postgres://db1,db2/postgres?connect_timeout=7");
        assert_eq!((given.share(), given.patience()), (Duration::from_secs(7), Duration::from_secs(28)));
    }

    #[test]
    fn psql_gets_the_hosts_and_how_to_choose() {
        let url = "postgres://a:secret@db1:1,db2:2/postgres?target_session_attrs=read-write&sslmode=require\
                   &connect_timeout=4&channel_binding=prefer";
        let arguments = parsed(url).psql_arguments("mb acme", "mb_x");
        assert_eq!(
            arguments,
            [
                "--dbname=postgresql://mb%20acme@db1:1,db2:2/mb_x?target_session_attrs=read-write&sslmode=require\
              &connect_timeout=4&channel_binding=prefer"
            ]
        );
        let socket = parsed("postgres://%2Frun%2Fpg:7/postgres").psql_arguments("a", "b");
        assert_eq!(socket, ["--dbname=postgresql://a@%2Frun%2Fpg:7/b"]);
    }

    #[test]
    fn what_libpq_does_not_know_is_named() {
        for (query, words) in [
            ("target_session_attrs=master", "expected one of any, read-write"),
            ("sslmode=on", "expected one of disable, allow, prefer, require, verify-ca, verify-full"),
            ("sslmode=verify-ca", "sslrootcert"),
            ("sslrootcert=system&sslmode=require", "verify-full"),
            ("sslrootcert=/nowhere/ca.pem", "/nowhere/ca.pem"),
            ("sslcert=/nowhere/cert.pem", "sslkey"),
            ("connect_timeout=soon", "connect_timeout"),
            ("colour=blue", "colour"),
        ] {
            let reason = refused(&format!("postgres://db1/postgres?{query}"));
            assert!(reason.contains(words) && reason.contains("`main`"), "{query}: {reason}");
        }
        assert!(refused("postgres:///postgres").contains("names no host"));
        let secret = refused("postgres://a:hunter2@db1/postgres?colour=blue");
        assert!(!secret.contains("hunter2"), "{secret}");
    }
}
