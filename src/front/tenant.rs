//! Tenant: from a request to its tenant, and what routes of your own may take from it.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::response::Response;
use http::request::Parts;
use http::{Uri, header};

use super::App;
use super::error::RouterError;
use crate::directory::{RequestUrl, Resolved};
use crate::rest;
use crate::tenant;

/// Finds the request's tenant, served or suspended, and takes its prefix from the path.
pub(super) fn resolve(app: &App, parts: &mut Parts) -> Result<Arc<tenant::Tenant>, RouterError> {
    if !app.directory.is_ready() {
        let is_too_new = app.directory.obstacle().is_some_and(|obstacle| obstacle.is_newer_catalog);
        return Err(match app.keys.misfit() {
            Some(_) => RouterError::WrongKey,
            None if is_too_new => RouterError::CatalogTooNew,
            None => RouterError::NotReady,
        });
    }
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let mut forwarded = parts.headers.get_all("x-forwarded-host").iter();
    let forwarded_host = match (peer.is_some_and(|ip| app.is_trusted(ip)), forwarded.next(), forwarded.next())
    {
        (true, Some(_), Some(_)) => {
            return Err(RouterError::AmbiguousUrl("there is more than one X-Forwarded-Host header"));
        }
        (true, Some(host), None) => Some(host.as_bytes()),
        _ => None,
    };
    let url = RequestUrl {
        hosts: parts.headers.get_all(header::HOST).iter().map(|host| host.as_bytes()).collect(),
        authority: parts.uri.authority().map(|authority| authority.as_str()),
        forwarded_host,
        path: parts.uri.path(),
    };
    let (tenant, resolved) = app.directory.resolve(&url)?;
    let root = root(&tenant, &resolved, url.path);
    let base = url.path.strip_suffix(&resolved.path).unwrap_or(url.path);
    let base = (!base.is_empty()).then(|| rest::BasePath(base.to_owned()));
    let path = resolved.path;
    let target = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    parts.uri = target.parse::<Uri>().map_err(|_| RouterError::AmbiguousUrl("the path is not one"))?;
    parts.extensions.insert(Arc::clone(&tenant));
    if let Some(root) = root {
        parts.extensions.insert(root);
    }
    if let Some(base) = base {
        parts.extensions.insert(base);
    }
    Ok(tenant)
}

/// The URL of the API's root as the caller spelled its path, where that is what was asked for: the OpenAPI document
/// there tells it. Scheme and port come from the catalog: behind a proxy the connection does not know them.
fn root(tenant: &tenant::Tenant, resolved: &Resolved, path: &str) -> Option<rest::Root> {
    if resolved.path != "/" {
        return None;
    }
    let url =
        tenant.base_urls.iter().find(|url| url.host == resolved.host && url.prefix == resolved.prefix)?;
    Some(rest::Root::new(&url.scheme, url.host.as_str(), url.port, path))
}

/// The request's tenant, for routes of your own.
#[derive(Debug, Clone)]
pub struct Tenant(pub Arc<tenant::Tenant>);

impl Deref for Tenant {
    type Target = tenant::Tenant;

    fn deref(&self) -> &tenant::Tenant {
        &self.0
    }
}

impl FromRequestParts<App> for Tenant {
    type Rejection = Response<Body>;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        let tenant = parts.extensions.get::<Arc<tenant::Tenant>>().cloned();
        tenant.map(Self).ok_or_else(|| RouterError::UnknownBaseUrl.into_response())
    }
}

/// A transaction in the request's tenant's database, under the role and with the claims of the request's token: the
/// same as a request of the REST API runs in. Dropped without [`rest::Session::commit`], nothing of it stays.
///
/// There is no other way to a connection, and none without a tenant.
pub struct Transaction(pub rest::Session);

impl Deref for Transaction {
    type Target = rest::Session;

    fn deref(&self) -> &rest::Session {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut rest::Session {
        &mut self.0
    }
}

impl FromRequestParts<App> for Transaction {
    type Rejection = Response<Body>;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Self::Rejection> {
        let Tenant(tenant) = Tenant::from_request_parts(parts, app).await?;
        match app.rest.begin(&tenant, parts).await {
            Ok(session) => Ok(Self(session)),
            Err(error) => Err(error.into_response().map(Body::from)),
        }
    }
}
