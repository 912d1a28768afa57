//! Outgoing: requests to addresses that operators gave. None reaches what only this machine's network can, unless the settings
//! allow it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::{HeaderMap, Method, Uri};
use ipnet::IpNet;
use tokio::time::timeout;

pub(super) use crate::outbound::Answer;
use crate::outbound::{Link, Origin, Trust};
use crate::settings::ControlSettings;

/// Longest wait for an answer, from the name's resolution to its head.
const ANSWER: Duration = Duration::from_secs(15);
/// Longest answer that is read, so that the connection ends in order.
const MAX_ANSWER: usize = 256 * 1024;

/// What sends. Its trust in certificates is the system's.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    trust: Trust,
}

/// Networks inside that a request may reach, also by plain http, and the setting that says so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inside<'a> {
    pub(super) networks: &'a [IpNet],
    pub(super) setting: &'static str,
}

impl<'a> Inside<'a> {
    pub(super) fn of_webhooks(settings: &'a ControlSettings) -> Self {
        Self { networks: &settings.webhook_networks, setting: "control.webhook_networks" }
    }

    fn has(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether a request may go there. In the clear only where an operator said that the network is their own.
    fn admits(self, address: IpAddr, is_tls: bool) -> bool {
        self.has(address) || (is_tls && is_public(address.to_canonical()))
    }
}

/// What is wrong with a URL for requests.
pub(super) fn wrong_url(url: &str, inside: Inside<'_>) -> Option<String> {
    let parsed: Uri = match url.parse() {
        Ok(parsed) => parsed,
        Err(_) => return Some("it is not a URL".into()),
    };
    let (Some(scheme), Some(authority)) = (parsed.scheme_str(), parsed.authority()) else {
        return Some("expected https://host/path".into());
    };
    if authority.as_str().contains('@') {
        return Some("credentials in a URL are not sent".into());
    }
    let is_tls = match scheme {
        "https" => true,
        "http" if !inside.networks.is_empty() => false,
        _ => return Some("expected https://".into()),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>().ok()?;
    (!inside.admits(address, is_tls)).then(|| refused(inside, is_tls))
}

fn refused(Inside { setting, .. }: Inside<'_>, is_tls: bool) -> String {
    match is_tls {
        true => format!("its address is inside a network that {setting} does not allow"),
        false => format!("http:// goes to networks of {setting} alone; expected https://"),
    }
}

impl Outgoing {
    /// Posts a body.
    ///
    /// # Errors
    /// As [`Outgoing::send`].
    pub(super) async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Vec<u8>,
        inside: Inside<'_>,
    ) -> Result<Answer, String> {
        self.send(Method::POST, url, headers, body, inside).await
    }

    /// Asks for what is there.
    ///
    /// # Errors
    /// As [`Outgoing::send`].
    pub(super) async fn get(&self, url: &str, inside: Inside<'_>) -> Result<Answer, String> {
        self.send(Method::GET, url, HeaderMap::new(), Vec::new(), inside).await
    }

    /// Sends a request to the one address that its host resolves to and that was looked at. Redirects are not followed.
    ///
    /// # Errors
    /// A sentence.
    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Vec<u8>,
        inside: Inside<'_>,
    ) -> Result<Answer, String> {
        if let Some(wrong) = wrong_url(url, inside) {
            return Err(wrong);
        }
        let uri: Uri = url.parse().map_err(|_| "it is not a URL".to_owned())?;
        let exchange = async {
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            let mut link = self.link(&uri, inside).await?;
            link.ask(method, path, headers, body, MAX_ANSWER).await
        };
        let late = |_| format!("no answer within {} s", ANSWER.as_secs());
        timeout(ANSWER, exchange).await.map_err(late)?
    }

    async fn link(&self, url: &Uri, inside: Inside<'_>) -> Result<Link, String> {
        let origin = Origin::of(url).ok_or("expected https://host/path")?;
        // Not resolved again: a name could lead elsewhere by then.
        let mut found = origin.addresses().await?.into_iter();
        let reachable: Option<SocketAddr> = found.find(|found| inside.admits(found.ip(), origin.is_tls));
        let address =
            reachable.ok_or_else(|| format!("`{}`: {}", origin.host, refused(inside, origin.is_tls)))?;
        Link::open(&origin, address, &self.trust).await
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// By IANA's registry of special addresses.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19)))
}

/// Of IPv6, the part that is given out to networks, but for what stands for an IPv4 address or a tunnel.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // 2000::/3
    a & 0xe000 == 0x2000
        && !(a == 0x2001 && b < 0x0200)
        && !(a == 0x2001 && b == 0x0db8)
        && a != 0x2002
        && !(a == 0x3fff && b < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(networks: &[IpNet]) -> Inside<'_> {
        Inside { networks, setting: "networks" }
    }

    #[test]
    fn addresses_inside_are_none_of_a_webhooks_business() {
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "198.18.0.1",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:0:4136:e378::1",
            "2001:db8::1",
        ] {
            assert!(!within(&[]).admits(inside.parse().unwrap(), true), "{inside}");
        }
        for outside in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2001:4860:4860::8888"] {
            assert!(within(&[]).admits(outside.parse().unwrap(), true), "{outside}");
            assert!(!within(&[]).admits(outside.parse().unwrap(), false), "{outside}");
        }
        let own = ["10.0.0.0/8".parse().unwrap()];
        for is_tls in [true, false] {
            assert!(within(&own).admits("10.1.2.3".parse().unwrap(), is_tls));
            assert!(!within(&own).admits("127.0.0.1".parse().unwrap(), is_tls));
        }
    }

    #[test]
    fn urls_that_messages_may_go_to() {
        for (url, is_good) in [
            ("https://hooks.example/a?b=c", true),
            ("http://hooks.example/", false),
            ("https://127.0.0.1/", false),
            ("https://[::1]/", false),
            ("https://[::ffff:10.0.0.1]/", false),
            ("https://user:secret@hooks.example/", false),
            ("ftp://hooks.example/", false),
            ("file:///etc/passwd", false),
            ("/path", false),
            ("", false),
        ] {
            assert_eq!(wrong_url(url, within(&[])).is_none(), is_good, "{url}");
        }
        // An own network opens http to itself, and to nobody else.
        let own = ["10.0.0.0/8".parse().unwrap()];
        for (url, is_good) in [
            ("http://10.0.0.1/", true),
            ("https://10.0.0.1/", true),
            ("http://1.1.1.1/", false),
            ("https://1.1.1.1/", true),
            ("http://127.0.0.1/", false),
        ] {
            assert_eq!(wrong_url(url, within(&own)).is_none(), is_good, "{url}");
        }
    }
}
