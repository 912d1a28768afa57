//! CORS: which pages of other origins may read a tenant's answers, as PostgREST tells browsers.

use axum::body::Body;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::policy::Api;

/// What a page may send.
const METHODS: &str = "GET, POST, PATCH, PUT, DELETE, OPTIONS, HEAD";
/// What a page may read beside what browsers always show.
const EXPOSED: &str = "Content-Encoding, Content-Location, Content-Range, Content-Type, Date, Location, Server, \
                       Transfer-Encoding, Range-Unit";
/// Most names that a preflight is answered: each is compared with all before it, and no page sends so many.
const MAX_NAMES: usize = 100;
/// A browser asks again after a day.
const MAX_AGE: &str = "86400";

/// Whether the request only asks for leave.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight; the origin is judged by [`allow`].
pub(super) fn preflight(headers: &HeaderMap, api: Option<&Api>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::OK;
    if allowed(headers.get(ORIGIN), api) == Allowed::No {
        return response;
    }
    let answer = response.headers_mut();
    let asked = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|h| h.to_str().ok());
    let asked =
        asked.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty()).take(MAX_NAMES);
    // Those that every page may send come besides, and each once.
    let mut names: Vec<&str> = vec!["Authorization"];
    for name in asked.chain(["Accept", "Accept-Language", "Content-Language"]) {
        if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            names.push(name);
        }
    }
    if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    response
}

/// What the origin of a request may.
#[derive(Debug, PartialEq, Eq)]
enum Allowed {
    /// Every page may read this, without the browser's own credentials.
    All,
    /// This page may, with them.
    This(HeaderValue),
    No,
}

/// `api` is `None` where no tenant was found: that answer tells nothing, so every page may read it.
fn allowed(origin: Option<&HeaderValue>, api: Option<&Api>) -> Allowed {
    let Some(origins) = api.and_then(|api| api.server_cors_allowed_origins.as_ref()) else {
        return Allowed::All;
    };
    match origin {
        Some(origin) if origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) => {
            Allowed::This(origin.clone())
        }
        _ => Allowed::No,
    }
}

/// Lets the request's page read the answer, if its origin is one of the tenant's. Nobody else has a say in that: what an
/// answer brings along, a function's headers for instance, is taken away.
pub(super) fn allow(origin: Option<&HeaderValue>, api: Option<&Api>, response: &mut HeaderMap) {
    let judged = allowed(origin, api);
    response.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
    response.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    if origin.is_some() && judged != Allowed::No {
        response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
    let mut set = |name: HeaderName, value: HeaderValue| drop(response.insert(name, value));
    match judged {
        // Whether or not a page asks, so that a cache may keep one answer for all.
        Allowed::All => set(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        Allowed::This(origin) => {
            set(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            set(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        Allowed::No => {}
    }
    // A cache must not hand one origin's answer to another.
    if api.is_some_and(|api| api.server_cors_allowed_origins.is_some()) {
        response.append(VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_tenants_origins_and_no_others() {
        let api = Api { server_cors_allowed_origins: Some(vec!["https://a.test".into()]), ..Api::default() };
        let answer = |origin: &'static str, api: &Api| {
            let mut response = headers(&[
                ("vary", "Accept"),
                ("access-control-allow-origin", "*"),
                ("access-control-allow-credentials", "true"),
            ]);
            allow(Some(&HeaderValue::from_static(origin)), Some(api), &mut response);
            response
        };
        let own = answer("https://a.test", &api);
        assert_eq!(own[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.test");
        assert_eq!(own[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(own.get_all(VARY).iter().collect::<Vec<_>>(), ["Accept", "Origin"]);
        for origin in
            ["https://b.test", "https://a.test.evil.test", "http://a.test", "null", "HTTPS://A.TEST"]
        {
            let other = answer(origin, &api);
            assert!(!other.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), "{origin}");
            assert!(!other.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS), "{origin}");
            assert!(!other.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS), "{origin}");
            assert!(other.get_all(VARY).iter().any(|v| v == "Origin"));
        }
        let open = answer("https://b.test", &Api::default());
        assert_eq!(
            (&open[ACCESS_CONTROL_ALLOW_ORIGIN], open.get(ACCESS_CONTROL_ALLOW_CREDENTIALS)),
            (&"*".parse().unwrap(), None)
        );
        assert_eq!(open[ACCESS_CONTROL_EXPOSE_HEADERS], EXPOSED);
    }

    #[test]
    fn a_preflight_gets_what_it_asked_for_and_the_usual() {
        let asked = headers(&[
            ("origin", "http://example.com"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "Foo, authorization,Bar"),
        ]);
        assert!(is_preflight(&Method::OPTIONS, &asked) && !is_preflight(&Method::GET, &asked));
        let answer = preflight(&asked, Some(&Api::default()));
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(
            answer.headers()[ACCESS_CONTROL_ALLOW_HEADERS],
            "Authorization, Foo, Bar, Accept, Accept-Language, Content-Language"
        );
        assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_METHODS], METHODS);
        assert_eq!(answer.headers()[ACCESS_CONTROL_MAX_AGE], "86400");
        let many: String = (0..5000).map(|number| format!("x-{number},")).collect();
        let asked = HeaderMap::from_iter([
            (ORIGIN, HeaderValue::from_static("http://example.com")),
            (ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_str(&many).unwrap()),
        ]);
        let answer = preflight(&asked, Some(&Api::default()));
        let names = answer.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().split(',').count();
        assert_eq!(names, MAX_NAMES + 4);
        let closed =
            Api { server_cors_allowed_origins: Some(vec!["https://a.test".into()]), ..Api::default() };
        assert!(preflight(&asked, Some(&closed)).headers().is_empty());
    }
}
