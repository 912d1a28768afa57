//! Entry points of the fuzz targets in `fuzz/`, with the feature `fuzzing` only: no part of the API.

use crate::directory::{RequestUrl, resolve};
use crate::tenant::{Host, Prefix, TenantId};
use crate::{migrate, rest};

pub use migrate::fuzz_statements as statements;
pub use rest::fuzz::{prefer, query, role_path, token};

const A: &str = "aaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbb";

/// A path and hosts, one line each: whatever they are, a request under one tenant's base URL never leads to the other.
pub fn base_url(bytes: &[u8]) {
    let find = |host: &Host, prefix: &Prefix| {
        let id = match (host.as_str(), prefix.as_str()) {
            ("shared.test", "/a") | ("a.test", "") => A,
            ("shared.test", "/b") | ("b.test", "") => B,
            _ => return None,
        };
        id.parse::<TenantId>().ok()
    };
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let path = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let hosts: Vec<&[u8]> = lines.collect();
    let plain = RequestUrl { hosts: vec![b"shared.test"], path: &path, ..RequestUrl::default() };
    if let Ok(found) = resolve(&plain, find) {
        let prefix = if found.tenant.as_str() == A { "/a" } else { "/b" };
        assert!(path == prefix || path.starts_with(&format!("{prefix}/")), "{path} leads to {prefix}");
        let folded = path.to_ascii_lowercase();
        assert!(!folded.split('/').any(|segment| segment == ".."), "{path} has a step up");
        assert!(
            !["%2e", "%2f", "%5c", "//"].iter().any(|bad| folded.contains(bad)),
            "{path} has an encoded one"
        );
        assert!(found.path.starts_with('/'), "{path}");
    }
    if let Some(host) = hosts.first().and_then(|host| std::str::from_utf8(host).ok())
        && let Ok(host) = Host::parse(host)
    {
        assert_eq!(Host::parse(host.as_str()).as_ref(), Ok(&host), "normalised twice");
    }
    let url = RequestUrl { path: &path, hosts: hosts.clone(), ..RequestUrl::default() };
    if let Ok(found) = resolve(&url, find) {
        assert_eq!(hosts.len(), 1, "one host");
        assert_eq!(find(&found.host, &found.prefix), Some(found.tenant), "its own tenant");
    }
}
