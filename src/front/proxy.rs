//! What proxies in front say of a request: who asked, under which id, as part of which trace. Others are not believed.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};

use super::App;
use crate::telemetry::TraceContext;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// Longest id that is taken over.
const MAX_REQUEST_ID: usize = 128;

/// The client's address, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

/// Takes over what trusted proxies say, and takes away an id of anybody else's: then the request gets one of ours.
pub(super) fn take_over(app: &App, request: &mut Request) {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical());
    let is_trusted = peer.is_some_and(|peer| app.is_trusted(peer));
    let id = only(request.headers(), &REQUEST_ID);
    if !(is_trusted && id.is_some_and(is_request_id)) {
        request.headers_mut().remove(REQUEST_ID);
    }
    let client = peer.map(|peer| {
        let forwarded = if is_trusted { forwarded_for(app, request.headers()) } else { None };
        ClientAddress(forwarded.unwrap_or(peer))
    });
    let trace = only(request.headers(), &TRACE_PARENT).filter(|_| is_trusted);
    let trace = trace.and_then(|trace| TraceContext::parse(trace.to_str().ok()?));
    let extensions: &mut Extensions = request.extensions_mut();
    client.map(|client| extensions.insert(client));
    trace.map(|trace| extensions.insert(trace));
}

/// The one header of this name; `None` where there are more.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut all = headers.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())
}

fn is_request_id(value: &HeaderValue) -> bool {
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b);
    (1..=MAX_REQUEST_ID).contains(&value.len()) && value.as_bytes().iter().all(is_plain)
}

/// The address that is no proxy of ours, next to those that are. What stands before it anybody may have written.
fn forwarded_for(app: &App, headers: &HeaderMap) -> Option<IpAddr> {
    let all: Vec<_> =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    let all = all.join(",");
    let mut nearest = None;
    for entry in all.rsplit(',') {
        let Some(address) = address(entry.trim()) else { break };
        nearest = Some(address);
        if !app.is_trusted(address) {
            break;
        }
    }
    nearest
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    parsed.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_well_formed_is_taken_over() {
        let id = |text: &str| is_request_id(&HeaderValue::from_str(text).unwrap());
        assert!(id("Root=1-67891233-abcdef012345678912345678") && id(&"a".repeat(128)));
        assert!(!id("") && !id(&"a".repeat(129)) && !id("a b") && !id("a\"b"));
        let expected =
            [("192.0.2.1", true), ("[2001:db8::1]:80", true), ("::ffff:192.0.2.1", true), ("unknown", false)];
        for (text, is_address) in expected {
            assert_eq!(address(text).is_some(), is_address, "{text}");
        }
    }
}
