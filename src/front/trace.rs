//! Trace: a request's span, by OpenTelemetry's conventions for HTTP servers, of what its line in the log tells.

use super::request_log::{MAX_TEXT, RequestLog};
use crate::otlp::{Attributes, Finished, Kind};
use crate::pg::shortened;
use crate::rest::Code;
use crate::telemetry::Lap;

/// Methods that are named as they are; whoever asks may invent others.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];

/// What a request came to; `is_rest` where no other routes stand beside the REST API's, which are known here. Its names are
/// few, and none of them is a client's or a tenant's; what these chose are values.
pub(super) fn finished(log: &RequestLog<'_>, is_rest: bool, laps: Vec<Lap>) -> Finished {
    let text = |text: &str| shortened(text, MAX_TEXT).to_owned();
    let mut all = Attributes::default();
    let method = METHODS.into_iter().find(|known| *known == log.method.as_str());
    all.text("http.request.method", method.unwrap_or("_OTHER"));
    all.maybe("http.request.method_original", method.is_none().then(|| text(log.method.as_str())));
    all.text("url.path", text(log.path));
    all.number("http.response.status_code", log.status.as_u16().into());
    all.maybe("client.address", log.client.map(|address| address.to_string()));
    all.maybe("manybox.request.id", log.request_id);
    all.maybe("manybox.tenant.id", log.tenant.map(|tenant| tenant.id.as_str()));
    all.maybe("manybox.tenant.slug", log.tenant.map(|tenant| tenant.slug.as_str()));
    all.maybe("manybox.role", log.noted.role.as_deref().map(text));
    let (mut error, mut sqlstate) = (None, None);
    match log.extensions.get::<Code>() {
        Some(Code::Sqlstate { state: code, .. } | Code::Function { code, .. }) => sqlstate = Some(text(code)),
        Some(code) => error = Some(code.as_str().to_owned()),
        None => {}
    }
    let is_error = log.status.is_server_error();
    all.maybe("db.response.status_code", sqlstate.clone());
    let error = error.or(sqlstate).or_else(|| is_error.then(|| log.status.as_u16().to_string()));
    all.maybe("error.type", error);
    let route = log.tenant.filter(|_| is_rest).and_then(|_| route(log.path));
    all.maybe("http.route", route);
    let method = method.unwrap_or("HTTP");
    let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
    Finished { name, kind: Kind::Server, attributes: all, is_error, laps }
}

/// The route of a path behind a tenant's base URL.
fn route(path: &str) -> Option<&'static str> {
    let path = path.strip_prefix('/')?;
    match path.strip_prefix("rpc/") {
        _ if path.is_empty() => Some("/"),
        Some(function) if !function.contains('/') => Some("/rpc/{function}"),
        None if !path.contains('/') => Some("/{relation}"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_few() {
        for (path, expected) in [
            ("/", Some("/")),
            ("/items", Some("/{relation}")),
            ("/rpc/add", Some("/rpc/{function}")),
            ("/rpc/a/b", None),
            ("/a/b", None),
            ("", None),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }
}
