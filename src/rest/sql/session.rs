//! The settings of a request's transaction: role, claims, request, search path, time limits. Always all of them.

use http::HeaderMap;
use http::header::COOKIE;
use http::request::Parts;
use serde_json::{Map, Value};
use tokio_postgres::types::{ToSql, Type};

use super::super::auth::Caller;
use crate::pg::Ident;
use crate::tenant::Tenant;

/// A read-only transaction.
pub(crate) const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY";
/// A transaction that may write.
pub(crate) const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// One statement for all of them. The two of the answer are emptied, because a function of an earlier request may
/// have set them for the whole session.
pub(crate) const SET: &str = "SELECT pg_catalog.set_config('search_path', $1, true), \
    pg_catalog.set_config('request.jwt.claims', $2, true), \
    pg_catalog.set_config('request.headers', $3, true), \
    pg_catalog.set_config('request.cookies', $4, true), \
    pg_catalog.set_config('request.method', $5, true), \
    pg_catalog.set_config('request.path', $6, true), \
    pg_catalog.set_config('statement_timeout', $7, true), \
    pg_catalog.set_config('idle_in_transaction_session_timeout', $8, true), \
    pg_catalog.set_config('response.headers', '', true), \
    pg_catalog.set_config('response.status', '', true), \
    pg_catalog.set_config('role', $9, true)";

/// The values of [`SET`].
#[derive(Debug)]
pub(crate) struct Settings([String; 9]);

impl Settings {
    /// `namespace` is the exposed schema that unqualified names are looked for in first.
    pub(crate) fn new(tenant: &Tenant, caller: &Caller, parts: &Parts, namespace: &str) -> Self {
        let path =
            std::iter::once(namespace).chain(tenant.api.db_extra_search_path.iter().map(String::as_str));
        let path: Vec<_> = path.map(|schema| Ident::new(schema).to_string()).collect();
        let (headers, cookies) = headers(&parts.headers);
        Self([
            path.join(", "),
            caller.claims.clone(),
            headers,
            cookies,
            parts.method.as_str().to_owned(),
            parts.uri.path().to_owned(),
            tenant.limits.statement_timeout.as_millis().to_string(),
            tenant.limits.transaction_idle_timeout.as_millis().to_string(),
            caller.role.clone(),
        ])
    }

    /// The text of `search_path`.
    pub(crate) fn search_path(&self) -> &str {
        &self.0[0]
    }

    /// The role.
    pub(crate) fn role(&self) -> &str {
        &self.0[8]
    }

    /// For `query_typed`.
    pub(crate) fn typed(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.0.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)).collect()
    }
}

/// `request.headers` and `request.cookies` as PostgREST gives them: cookies are not among the headers.
fn headers(all: &HeaderMap) -> (String, String) {
    let (mut headers, mut cookies) = (Map::new(), Map::new());
    for (name, value) in all {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if name == COOKIE {
            for (name, value) in text.split(';').filter_map(|pair| pair.trim().split_once('=')) {
                cookies.insert(name.to_owned(), Value::String(value.to_owned()));
            }
        } else {
            headers.insert(name.as_str().to_owned(), Value::String(text));
        }
    }
    (Value::Object(headers).to_string(), Value::Object(cookies).to_string())
}
