//! Resolve: from what a request says of its URL to a tenant, or why not. Pure.

use crate::tenant::{Host, Prefix, TenantId};

/// supabase-js puts this between the base URL and the table, always.
const ALIAS: &str = "/rest/v1";

/// What a request says of its URL.
#[derive(Debug, Clone, Default)]
pub struct RequestUrl<'a> {
    /// Every `Host` header, as bytes: a second one is an attack, not an alternative.
    pub hosts: Vec<&'a [u8]>,
    /// The authority of an absolute-form target or of HTTP/2's `:authority`.
    pub authority: Option<&'a str>,
    /// `X-Forwarded-Host`, if the peer is a trusted proxy.
    pub forwarded_host: Option<&'a [u8]>,
    /// The target's path as it was sent.
    pub path: &'a str,
}

/// Where a request leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The tenant.
    pub tenant: TenantId,
    /// Its host that matched.
    pub host: Host,
    /// Its prefix that matched.
    pub prefix: Prefix,
    /// The path behind the prefix and behind `/rest/v1`; starts with a slash.
    pub path: String,
}

/// Why a request leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The request names its host or path in a way that two programs could read differently.
    Ambiguous(&'static str),
    /// No tenant is here.
    Unknown,
    /// It can't be known whether one is here before the catalog has been read.
    NotYet,
}

/// Finds the tenant: host first, then the longest prefix.
///
/// # Errors
/// [`Refusal::Ambiguous`] before any look-up, so that it tells nothing of which tenants there are.
pub(crate) fn resolve(
    url: &RequestUrl<'_>,
    find: impl Fn(&Host, &Prefix) -> Option<TenantId>,
) -> Result<Resolved, Refusal> {
    let host = host(url)?;
    let path = if url.path.is_empty() { "/" } else { url.path };
    if !path.starts_with('/') {
        return Err(Refusal::Ambiguous("the path must start with /"));
    }
    check_path(path)?;
    // The ends of up to MAX_SEGMENTS leading segments, longest first, then the empty prefix.
    let mut ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).skip(1).collect();
    ends.push(path.len());
    ends.truncate(Prefix::MAX_SEGMENTS);
    for end in ends.into_iter().rev().chain([0]) {
        let Ok(prefix) = Prefix::parse(&path[..end]) else { continue };
        if let Some(tenant) = find(&host, &prefix) {
            let path = behind(&path[prefix.as_str().len()..]);
            return Ok(Resolved { tenant, host, prefix, path });
        }
    }
    Err(Refusal::Unknown)
}

fn host(url: &RequestUrl<'_>) -> Result<Host, Refusal> {
    let parse = |text: &[u8]| {
        let text =
            std::str::from_utf8(text).map_err(|_| Refusal::Ambiguous("the host is not a host name"))?;
        Host::parse_authority(text)
            .map(|(host, _)| host)
            .map_err(|_| Refusal::Ambiguous("the host is not a host name"))
    };
    // RFC 9112, 3.2: a request with more than one Host line is refused with 400.
    let from_header = match url.hosts.as_slice() {
        [] => None,
        [one] => Some(parse(one)?),
        _ => return Err(Refusal::Ambiguous("there is more than one Host header")),
    };
    let from_target = url.authority.map(|authority| parse(authority.as_bytes())).transpose()?;
    let direct = match (from_header, from_target) {
        (Some(header), Some(target)) if header != target => {
            return Err(Refusal::Ambiguous("the request target and the Host header name different hosts"));
        }
        (header, target) => header.or(target).ok_or(Refusal::Ambiguous("there is no Host header"))?,
    };
    url.forwarded_host.map_or(Ok(direct), parse)
}

/// Refuses what one program reads as a separator or a step up and another as a name: anywhere in the path, because a
/// proxy in front may fold it before or after it looked at the prefix. Names of tables and functions need none of it.
fn check_path(path: &str) -> Result<(), Refusal> {
    let bad = ["%2f", "%5c", "\\", "%00", "%2e"];
    if path.contains(['%', '\\']) && bad.iter().any(|bad| path.to_ascii_lowercase().contains(bad)) {
        return Err(Refusal::Ambiguous("the path has an encoded slash, dot, backslash or NUL in it"));
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(Refusal::Ambiguous("the path has a . or .. segment"));
    }
    if path.contains("//") {
        return Err(Refusal::Ambiguous("the path has an empty segment"));
    }
    Ok(())
}

/// The path behind the prefix, without `/rest/v1` once.
fn behind(path: &str) -> String {
    let path = match path.strip_prefix(ALIAS) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => path,
    };
    if path.is_empty() { "/".into() } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbb";
    const C: &str = "cccccccccccccccc";

    fn find(host: &Host, prefix: &Prefix) -> Option<TenantId> {
        let id = match (host.as_str(), prefix.as_str()) {
            ("shared.test", "/a") => A,
            ("shared.test", "/b") => B,
            ("b.test", "") => B,
            ("nested.test", "") => A,
            ("nested.test", "/deep/er") => C,
            _ => return None,
        };
        id.parse().ok()
    }

    fn ask(host: &str, path: &str) -> Result<(String, String), Refusal> {
        let url = RequestUrl { hosts: vec![host.as_bytes()], path, ..RequestUrl::default() };
        resolve(&url, find).map(|r| (r.tenant.to_string(), r.path))
    }

    fn leads(id: &str, path: &str) -> Result<(String, String), Refusal> {
        Ok((id.to_owned(), path.to_owned()))
    }

    #[test]
    fn by_host_and_by_prefix() {
        assert_eq!(ask("shared.test", "/a/items"), leads(A, "/items"));
        assert_eq!(ask("shared.test:8080", "/a"), leads(A, "/"));
        assert_eq!(ask("SHARED.test.", "/a/"), leads(A, "/"));
        assert_eq!(ask("b.test", "/a/items"), leads(B, "/a/items"));
        assert_eq!(ask("nested.test", "/deep/er/x"), leads(C, "/x"));
        assert_eq!(ask("nested.test", "/deep/x"), leads(A, "/deep/x"));
        assert_eq!(ask("b.test", ""), leads(B, "/"));
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        assert_eq!(ask("shared.test", "/ab/items"), Err(Refusal::Unknown));
        assert_eq!(ask("shared.test", "/A/items"), Err(Refusal::Unknown));
        assert_eq!(ask("shared.test", "/"), Err(Refusal::Unknown));
    }

    #[test]
    fn the_alias_goes_once() {
        assert_eq!(ask("shared.test", "/a/rest/v1/items"), leads(A, "/items"));
        assert_eq!(ask("shared.test", "/a/rest/v1"), leads(A, "/"));
        assert_eq!(ask("shared.test", "/a/rest/v1/rest/v1"), leads(A, "/rest/v1"));
        assert_eq!(ask("shared.test", "/a/rest/v12"), leads(A, "/rest/v12"));
        assert_eq!(ask("shared.test", "/rest/v1/a"), Err(Refusal::Unknown));
    }

    #[test]
    fn what_two_programs_may_read_differently_is_refused() {
        for path in [
            "/a/../b/x",
            "/a/./x",
            "/a%2f..%2fb",
            "/%2e%2e/b",
            "//b/x",
            "/a//x",
            "/a%5cb",
            "/a\\b",
            "/a/%2E%2E/b",
            "/a%00",
        ] {
            assert!(matches!(ask("shared.test", path), Err(Refusal::Ambiguous(_))), "{path}");
        }
        for host in [
            "a b",
            "shared.test/x",
            "",
            "shared.test@b.test",
            "b.test\0",
            "shared.test:x",
            "shared.test,b.test",
        ] {
            assert!(matches!(ask(host, "/a"), Err(Refusal::Ambiguous(_))), "{host}");
        }
        let two = RequestUrl { hosts: vec![b"shared.test", b"b.test"], path: "/a", ..RequestUrl::default() };
        assert!(matches!(resolve(&two, find), Err(Refusal::Ambiguous(_))));
        let other = RequestUrl {
            hosts: vec![b"shared.test"],
            authority: Some("b.test"),
            path: "/a",
            ..RequestUrl::default()
        };
        assert!(matches!(resolve(&other, find), Err(Refusal::Ambiguous(_))));
        let same = RequestUrl {
            hosts: vec![b"b.test:80"],
            authority: Some("B.test"),
            path: "/x",
            ..RequestUrl::default()
        };
        assert!(resolve(&same, find).is_ok());
        assert!(matches!(
            resolve(&RequestUrl { path: "/a", ..RequestUrl::default() }, find),
            Err(Refusal::Ambiguous(_))
        ));
    }

    #[test]
    fn a_trusted_proxy_says_the_host() {
        let url = RequestUrl {
            hosts: vec![b"shared.test"],
            forwarded_host: Some(b"b.test"),
            path: "/x",
            ..RequestUrl::default()
        };
        assert_eq!(resolve(&url, find).unwrap().tenant.as_str(), B);
    }

    proptest! {
        #[test]
        fn nothing_panics(host in ".*", path in ".*") {
            let _ = ask(&host, &path);
        }

        #[test]
        fn under_a_prefix_only_its_tenant(rest in "[a-zA-Z0-9/._~%-]{0,40}") {
            if let Ok((tenant, _)) = ask("shared.test", &format!("/a/{rest}")) {
                prop_assert_eq!(tenant, A);
            }
        }
    }
}
