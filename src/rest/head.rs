//! The bounds on what the tenant's code may choose of an answer's head: its status and its headers.

use http::StatusCode;
use http::header::HeaderName;

/// Headers that are not the tenant's to choose.
const RESERVED: &[&str] = &[
    // They frame the message or belong to one connection: with them a function could make a client, or a proxy between,
    // read two answers where there is one (RFC 9110, 7.6.1; RFC 9113, 8.2.2).
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // The server's own, and those between a client and its proxy (RFC 9110, 6.6.1, 11.7).
    "date",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    // They hold for all of a host, and tenants may share one: another place for it, no plain HTTP any more, its cookies
    // and storage deleted, reports of what others ask for, scripts that see it.
    "alt-svc",
    "clear-site-data",
    "expect-ct",
    "nel",
    "public-key-pins",
    "public-key-pins-report-only",
    "report-to",
    "service-worker-allowed",
    "strict-transport-security",
    // Orders to a proxy in front: to send a file of its own, or what another URL answers.
    "x-lighttpd-send-file",
    "x-lighttpd-send-tempfile",
    "x-reproxy-file",
    "x-reproxy-url",
    "x-sendfile",
    "x-sendfile2",
];

/// Orders to nginx, such as `X-Accel-Redirect`.
const RESERVED_PREFIX: &str = "x-accel-";

/// Most headers that a function may choose: clients and proxies refuse more, and a `HeaderMap` panics at 32768.
pub(super) const MAX_CHOSEN_HEADERS: usize = 100;

/// Longest text of the headers that a function chooses, in bytes: it is parsed on the thread that serves requests.
pub(super) const MAX_CHOSEN_BYTES: usize = 64 * 1024;

/// Whether the tenant's code may choose this header.
pub(super) fn may_choose(name: &HeaderName) -> bool {
    // HTTP takes names in any case; a `HeaderName` is in lower case.
    !RESERVED.contains(&name.as_str()) && !name.as_str().starts_with(RESERVED_PREFIX)
}

/// The status of this number, if the tenant's code may choose it: of a class that HTTP has (RFC 9110, 15), and final,
/// for 1xx would end the exchange before the answer.
pub(super) fn chosen_status(number: u16) -> Option<StatusCode> {
    StatusCode::from_u16(number).ok().filter(|_| (200..=599).contains(&number))
}

/// Whether an answer of this status can have content. Where it can't, a client takes what follows the head for the next
/// answer (RFC 9110, 15.3.5, 15.3.6 and 15.4.5).
pub(super) fn may_have_content(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tenants_code_may_choose() {
        for name in
            ["Keep-Alive", "KEEP-ALIVE", "Proxy-Connection", "HTTP2-Settings", "X-Accel-Redirect", "NEL"]
        {
            assert!(!may_choose(&name.parse().unwrap()), "{name}");
        }
        for name in
            ["Set-Cookie", "Location", "Cache-Control", "Content-Type", "X-Keep-Alive", "X-Accelerate"]
        {
            assert!(may_choose(&name.parse().unwrap()), "{name}");
        }
        assert!(RESERVED.iter().all(|name| *name == name.to_ascii_lowercase()));
        for number in [0, 99, 100, 101, 103, 199, 600, 999, 1000, u16::MAX] {
            assert_eq!(chosen_status(number), None, "{number}");
        }
        for number in [200, 205, 299, 418, 451, 599] {
            assert!(chosen_status(number).is_some(), "{number}");
        }
        let empty = [204, 205, 304].map(|number| chosen_status(number).unwrap());
        assert!(!empty.into_iter().any(may_have_content) && may_have_content(StatusCode::OK));
    }
}
