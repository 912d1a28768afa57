//! What fuzz targets drive of the REST API: readers of what strangers send, each with what must hold of it.

use std::sync::Arc;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request as HttpRequest};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Map, Value};

use super::auth::{Roles, TokenKeys, authenticate, sign_token};
use super::request::Request;
use super::request::prefer::Prefer;
use crate::policy::{Api, RolePath, Secret};

/// What a URI can't have in its query.
const UNFIT: &AsciiSet = &CONTROLS.add(b' ').add(b'#');

const KEY: &str = "thirty-two bytes that nobody has";

/// A query string, as that of a relation, of a function and of a change.
pub fn query(text: &str) {
    let query = utf8_percent_encode(text, UNFIT).to_string();
    for (method, path) in [("GET", "/t"), ("GET", "/rpc/f"), ("PATCH", "/t"), ("POST", "/t")] {
        let uri = format!("{path}?{query}");
        let request = HttpRequest::builder().method(method).uri(uri).body(());
        assert!(request.is_ok(), "no URI: {text}");
        let Ok(request) = request else { continue };
        let (parts, ()) = request.into_parts();
        let read = || Request::parse(&parts, Bytes::from_static(b"{\"a\":1}"), &Api::default());
        match (read(), read()) {
            (Ok(one), Ok(two)) => assert_eq!(one, two, "read twice"),
            (Err(one), Err(_)) => assert!(one.status().is_client_error(), "{one}"),
            _ => assert_eq!("refused", "read", "{text}"),
        }
    }
}

/// The value of a `Prefer` header.
pub fn prefer(value: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(value) else { return };
    let commas = value.as_bytes().iter().filter(|byte| **byte == b',').count();
    let headers: HeaderMap = [(http::header::HeaderName::from_static("prefer"), value)].into_iter().collect();
    let prefer = Prefer::parse(&headers);
    assert!(prefer.unknown.len() <= commas + 1, "more preferences than there are");
    assert!(prefer.unknown.iter().all(|one| !one.contains(',')), "two in one");
}

/// A token, as it is and with its first two parts signed: the first must be refused, the second give a listed role.
pub fn token(text: &str) {
    let Ok(keys) = TokenKeys::read(&Secret::new(KEY), false).map(Arc::new) else { return };
    let api = Api::default();
    let ask = |token: &str| {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        let headers: HeaderMap = [(AUTHORIZATION, value)].into_iter().collect();
        Some(authenticate(&headers, &api, || Arc::clone(&keys), Roles::Listed))
    };
    // A fuzzer doesn't find a signature of 256 bits.
    assert!(ask(text).is_none_or(|caller| caller.is_err() || text.trim().is_empty()), "forged: {text}");
    let Ok(claims) = serde_json::from_str::<Value>(text) else { return };
    if let Some(Ok(caller)) = ask(&sign_token(&claims, KEY.as_bytes())) {
        assert!(api.roles.contains(&caller.role), "a role that is not listed: {}", caller.role);
        let told = serde_json::from_str::<Map<String, Value>>(&caller.claims).unwrap_or_default();
        assert_eq!(told.get("role").and_then(Value::as_str), Some(caller.role.as_str()), "one role for both");
    }
}

/// A path to the role and the claims that it is looked for in, one line each.
pub fn role_path(text: &str) {
    let (path, claims) = text.split_once('\n').unwrap_or((text, "{}"));
    let Ok(path) = path.parse::<RolePath>() else { return };
    assert_eq!(path.to_string().parse().as_ref(), Ok(&path), "printed and read again");
    if let Ok(claims) = serde_json::from_str::<Value>(claims) {
        let found = path.find(&claims);
        assert_eq!(found, path.find(&claims), "found twice");
    }
}
