//! `BaseUrl`: host and path prefix that lead to exactly one tenant, and the templates that make them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::Slug;
use crate::policy::Invalid;

/// A host name or address as it is compared: lowercase, no trailing dot, IDNA's ASCII form, no port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(String);

impl Host {
    /// Normalises a host without port. IPv6 addresses come in brackets and keep them.
    ///
    /// # Errors
    /// When the text is not a host name by IDNA (UTS 46) and RFC 1123, nor an IP address.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid(format!("`{text}` is not a host name"));
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let address: Ipv6Addr = inner.parse().map_err(|_| invalid())?;
            return Ok(Self(format!("[{address}]")));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let ascii = if is_plain(name) {
            name.to_owned()
        } else {
            idna::domain_to_ascii_strict(name).map_err(|_| invalid())?.to_ascii_lowercase()
        };
        if ascii.is_empty() || ascii.len() > 253 || ascii.split('.').any(str::is_empty) {
            return Err(invalid());
        }
        Ok(Self(ascii))
    }

    /// Splits `host[:port]` and normalises the host.
    ///
    /// # Errors
    /// When the host is not one, or the port is not a number from 0 to 65535.
    pub fn parse_authority(text: &str) -> Result<(Self, Option<u16>), Invalid> {
        let (host, port) = match text.rfind(':') {
            Some(colon) if !text.ends_with(']') => (&text[..colon], Some(&text[colon + 1..])),
            _ => (text, None),
        };
        let port = match port {
            None | Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| Invalid(format!("`{digits}` is not a port")))?)
            }
            Some(other) => return Err(Invalid(format!("`{other}` is not a port"))),
        };
        Ok((Self::parse(host)?, port))
    }

    /// The normalised text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether IDNA would change nothing and refuse nothing, as for nearly every request: labels of lower-case letters
/// and digits, with single dashes inside.
fn is_plain(name: &str) -> bool {
    name.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && !label.contains("--")
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path prefix: empty, or `/segment[/segment…]` of unreserved characters (RFC 3986, 2.3), never `.` or `..`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(String);

impl Prefix {
    /// Most segments a prefix may have: bounds the look-ups of one request.
    pub const MAX_SEGMENTS: usize = 4;

    /// Takes a path, with or without a trailing slash.
    ///
    /// # Errors
    /// When a segment is empty, is `.` or `..`, or needs percent-encoding.
    pub fn parse(path: &str) -> Result<Self, Invalid> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let Some(segments) = path.strip_prefix('/') else {
            return if path.is_empty() {
                Ok(Self::default())
            } else {
                Err(Invalid(format!("`{path}` is not a path prefix: it must start with /")))
            };
        };
        let good = |s: &str| {
            !matches!(s, "" | "." | "..")
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
        };
        if segments.split('/').count() > Self::MAX_SEGMENTS || !segments.split('/').all(good) {
            return Err(Invalid(format!(
                "`{path}` is not a path prefix: expected up to {} segments of letters, digits, - . _ ~",
                Self::MAX_SEGMENTS
            )));
        }
        Ok(Self(path.to_owned()))
    }

    /// The text: empty, or with a leading and without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A base URL: scheme and port serve printed links only; host and prefix are what a request is looked up by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// `http` or `https`.
    pub scheme: String,
    /// Compared.
    pub host: Host,
    /// Printed, not compared.
    pub port: Option<u16>,
    /// Compared.
    pub prefix: Prefix,
}

impl FromStr for BaseUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            Invalid(format!("`{text}` is not a base URL: expected http://host[:port][/prefix]"))
        })?;
        if !matches!(scheme, "http" | "https") {
            return Err(Invalid(format!("`{text}` is not a base URL: the scheme must be http or https")));
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (host, port) = Host::parse_authority(authority)?;
        Ok(Self { scheme: scheme.to_owned(), host, port, prefix: Prefix::parse(path)? })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.prefix.as_str())
    }
}

impl serde::Serialize for BaseUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A base URL with `{tenant}` in it, such as `http://{tenant}.example.com` or `https://example.com/{tenant}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlTemplate(String);

impl UrlTemplate {
    /// The base URL of the tenant with this slug.
    ///
    /// # Errors
    /// Never for a template that was parsed: it was tried with a slug then.
    pub fn fill(&self, slug: &Slug) -> Result<BaseUrl, Invalid> {
        self.0.replace("{tenant}", slug.as_str()).parse()
    }

    /// The template's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UrlTemplate {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.matches("{tenant}").count() != 1 {
            return Err(Invalid(format!(
                "`{text}` is not a base URL template: it must contain {{tenant}} once"
            )));
        }
        text.replace("{tenant}", "a").parse::<BaseUrl>()?;
        Ok(Self(text.to_owned()))
    }
}

impl<'de> serde::Deserialize<'de> for UrlTemplate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for UrlTemplate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_in_one_form() {
        for (text, normal) in [
            ("Acme.Example.COM.", "acme.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::0001]", "[::1]"),
        ] {
            assert_eq!(Host::parse(text).unwrap().as_str(), normal);
        }
        for bad in ["", ".", "a..b", "a b", "a/b", "a%2eb", "[::1", "a\0b", "a@b", "a.."] {
            assert!(Host::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn base_urls_print_as_they_were_given() {
        for url in ["http://127.0.0.1:8080/acme", "https://acme.example.com", "http://[::1]:8080/a/b"] {
            assert_eq!(url.parse::<BaseUrl>().unwrap().to_string(), url);
        }
        assert_eq!("http://x.com/a/".parse::<BaseUrl>().unwrap().prefix.as_str(), "/a");
        for bad in ["x.com", "ftp://x.com", "http://x.com/a/../b", "http://x.com/a%2fb", "http://x.com//a"] {
            assert!(bad.parse::<BaseUrl>().is_err(), "{bad}");
        }
    }
}
