//! A server's URL: libpq's parameters, of which tokio-postgres knows some.

use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio_postgres::Config;

use super::super::error::cause;
use super::super::hosts::Target;
use super::super::socket::{Host, Keepalive, Liveness};
use super::tls::{Encryption, Identity, Roots, TlsSettings};

/// What a URL's parts have to be written in escapes.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Parameters that psql gets as they stand, beside those that were understood here.
const HANDED_ON: [&str; 4] = ["connect_timeout", "channel_binding", "sslnegotiation", "load_balance_hosts"];

/// What a URL says besides hosts and login.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) target: Target,
    pub(super) tls: TlsSettings,
    pub(super) liveness: Liveness,
    pub(super) connect_timeout: Option<Duration>,
    /// Parameters for other programs, in the order of the URL.
    handed_on: Vec<(String, String)>,
}

impl Given {
    /// Reads the URL, and gives the rest as tokio-postgres has it.
    pub(super) fn parse(url: &str, root_cert: Option<&Path>) -> Result<(Self, Config), String> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let mut given = Self {
            target: Target::default(),
            tls: TlsSettings::default(),
            liveness: Liveness::default(),
            connect_timeout: None,
            handed_on: Vec::new(),
        };
        let (mut ssl_mode, mut roots, mut certificate, mut key) = (None, None, None, None);
        let mut rest: Vec<String> = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, raw) = parameter.split_once('=').ok_or("a parameter of its url has no value")?;
            let value = decoded(raw)?;
            let mut own = true;
            match name {
                "target_session_attrs" => given.target = Target::named(&value)?,
                "sslmode" => ssl_mode = Some(Encryption::named(&value)?),
                "sslrootcert" => roots = Some(Roots::named(&value)),
                "sslcert" => certificate = Some(PathBuf::from(&value)),
                "sslkey" => key = Some(PathBuf::from(&value)),
                "connect_timeout" => given.connect_timeout = connect_timeout(&value)?,
                "keepalives"
                | "keepalives_idle"
                | "keepalives_interval"
                | "keepalives_count"
                | "keepalives_retries"
                | "tcp_user_timeout" => given.liveness = liveness(given.liveness, name, &value)?,
                _ => own = false,
            }
            if !own {
                // As libpq, which splits them at commas; tokio-postgres takes one at a time.
                match name {
                    "host" | "port" => {
                        rest.extend(value.split(',').map(|one| format!("{name}={}", encoded(one))))
                    }
                    _ => rest.push(parameter.to_owned()),
                }
            }
            if own && name != "connect_timeout" || HANDED_ON.contains(&name) {
                given.handed_on.push((name.to_owned(), value));
            }
        }
        if let Some(path) = root_cert {
            if roots.is_some() {
                return Err("its url has sslrootcert, and its root_cert is set as well: leave one out".into());
            }
            let named = path.to_string_lossy().into_owned();
            roots = Some(Roots::named(&named));
            given.handed_on.push(("sslrootcert".into(), named));
        }
        let rest = if rest.is_empty() { place.to_owned() } else { format!("{place}?{}", rest.join("&")) };
        let config: Config = rest.parse().map_err(|e| {
            let expected = "expected one such as postgres://USER:PASSWORD@host:5432/postgres";
            format!("its url is not usable: {}; {expected}", cause(&e))
        })?;
        if config.get_hosts().is_empty() {
            return Err("its url names no host".into());
        }
        let ports = config.get_ports().len();
        if ports > 1 && ports != config.get_hosts().len() {
            return Err("its url has another number of ports than of hosts".into());
        }
        let identity = Identity::of(certificate, key)?;
        let only_sockets =
            config.get_hosts().iter().all(|host| matches!(host, tokio_postgres::config::Host::Unix(_)));
        given.tls = TlsSettings::new(ssl_mode, roots, identity, only_sockets)?;
        Ok((given, config))
    }

    /// The URL for other programs, with this login and database, and without a password.
    pub(super) fn libpq(&self, hosts: &[Host], user: &str, database: &str) -> String {
        let hosts: Vec<_> = hosts
            .iter()
            .map(|host| match host {
                Host::Tcp(name, port) if name.contains(':') => format!("[{name}]:{port}"),
                Host::Tcp(name, port) => format!("{}:{port}", encoded(name)),
                Host::Unix(folder, port) => format!("{}:{port}", encoded(&folder.to_string_lossy())),
            })
            .collect();
        let parameters: Vec<_> =
            self.handed_on.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
        format!("postgresql://{}@{}/{}{query}", encoded(user), hosts.join(","), encoded(database))
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(String::from).map_err(|_| "a parameter of its url is not UTF-8".to_owned())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

fn number(name: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("{name}={value}: expected a number"))
}

/// In seconds. As in libpq, 0 and less mean no limit, which is the default here, and 1 means 2.
fn connect_timeout(value: &str) -> Result<Option<Duration>, String> {
    let seconds: i64 =
        value.parse().map_err(|_| format!("connect_timeout={value}: expected a number of seconds"))?;
    Ok(u64::try_from(seconds).ok().filter(|s| *s > 0).map(|s| Duration::from_secs(s.clamp(2, 3600))))
}

fn liveness(mut liveness: Liveness, name: &str, value: &str) -> Result<Liveness, String> {
    let number = number(name, value)?;
    // 0 keeps the default.
    let seconds = (number > 0).then(|| Duration::from_secs(number.min(32_767)));
    if name == "keepalives" {
        liveness.keepalive = if number == 0 { None } else { liveness.keepalive };
        return Ok(liveness);
    }
    if name == "tcp_user_timeout" {
        // libpq's milliseconds; 0 is the system's default.
        liveness.user_timeout = (number > 0).then(|| Duration::from_millis(number.min(86_400_000)));
        return Ok(liveness);
    }
    if let Some(Keepalive { idle, interval, count }) = &mut liveness.keepalive {
        match (name, seconds) {
            ("keepalives_idle", Some(seconds)) => *idle = seconds,
            ("keepalives_interval", Some(seconds)) => *interval = seconds,
            ("keepalives_count" | "keepalives_retries", Some(_)) => {
                *count = u32::try_from(number.min(127)).unwrap_or(127);
            }
            _ => {}
        }
    }
    Ok(liveness)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_libpqs() {
        let of = |query: &str| Given::parse(&format!("postgres://db/postgres?{query}"), None).unwrap().0;
        assert_eq!(of("connect_timeout=1").connect_timeout, Some(Duration::from_secs(2)));
        assert_eq!(of("connect_timeout=0").connect_timeout, None);
        assert_eq!(of("connect_timeout=-3").connect_timeout, None);
        let quick =
            of("keepalives_idle=2&keepalives_interval=1&keepalives_count=5&tcp_user_timeout=1500").liveness;
        let keepalive = quick.keepalive.unwrap();
        assert_eq!((keepalive.idle.as_secs(), keepalive.interval.as_secs(), keepalive.count), (2, 1, 5));
        assert_eq!(quick.user_timeout, Some(Duration::from_millis(1500)));
        assert!(of("keepalives=0").liveness.keepalive.is_none());
    }
}
