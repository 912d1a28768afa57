//! Where the API's root is for those who call it: the OpenAPI document and `Location` say it.

/// The path that all paths of an API come behind, as the caller spelled it: the tenant's prefix, and `/rest/v1` if it was
/// there. No slash at the end, so that of a tenant with a host of its own it is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BasePath(pub String);

/// The URL that all paths of an API come behind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Root {
    /// `http` or `https`.
    pub scheme: String,
    /// Host and port; the port stands there also when it is the scheme's own, as in PostgREST's documents.
    pub host: String,
    /// Starts with a slash.
    pub path: String,
}

impl Root {
    /// Joins the parts; without a port it is the scheme's own. A slash at the end of the path goes.
    pub fn new(scheme: &str, host: &str, port: Option<u16>, path: &str) -> Self {
        let port = port.unwrap_or(if scheme == "https" { 443 } else { 80 });
        let path = path.strip_suffix('/').unwrap_or(path);
        let path = if path.is_empty() { "/" } else { path };
        Self { scheme: scheme.to_owned(), host: format!("{host}:{port}"), path: path.to_owned() }
    }

    /// Reads `openapi_server_proxy_uri`. `None` for what is no URL of HTTP, or has more than scheme, host, port and
    /// path: PostgREST does not start with such a one.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
        let is_usable =
            matches!(scheme, "http" | "https") && uri.query().is_none() && !url.contains(['@', '#']);
        is_usable.then(|| Self::new(scheme, authority.host(), authority.port_u16(), uri.path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_as_postgrest_reads_them() {
        for (url, expected) in [
            ("https://postgrest.com/openapi.json", Some(("https", "postgrest.com:443", "/openapi.json"))),
            ("http://postgrest.com", Some(("http", "postgrest.com:80", "/"))),
            ("https://example.com:8443/base/", Some(("https", "example.com:8443", "/base"))),
            ("http://[::1]:3000", Some(("http", "[::1]:3000", "/"))),
            ("https://user@example.com", None),
            ("https://example.com/?a=b", None),
            ("https://example.com/#a", None),
            ("ftp://example.com/", None),
            ("/base", None),
            ("", None),
        ] {
            let root = Root::parse(url);
            let parts = root.as_ref().map(|r| (r.scheme.as_str(), r.host.as_str(), r.path.as_str()));
            assert_eq!(parts, expected, "{url}");
        }
    }
}
