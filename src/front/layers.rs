//! Layers: what stands between the socket and a route, outermost first.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};

use super::error::Error;
use super::{App, cors, tenant};

/// The data plane as one service: the REST API of every tenant.
pub fn router(app: App) -> Service {
    router_with(app, Router::new())
}

/// The same with routes of your own beside the REST API. Their paths are those behind the tenant's base URL, on every
/// tenant; the REST API answers what they don't.
pub fn router_with(app: App, own: Router<App>) -> Service {
    let routes = own
        .fallback(rest)
        .with_state(app.clone())
        // Innermost, so that a panic of a route still gets its headers and its line in the log.
        .layer(CatchPanicLayer::custom(panicked));
    let dispatch = Dispatch { app, routes };
    let service = tower::ServiceBuilder::new()
        // First an id, so that everything after it can name the request.
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(PropagateRequestIdLayer::x_request_id())
        .service(dispatch);
    Service(Router::new().fallback_service(service))
}

/// What [`super::serve`] serves.
#[derive(Clone)]
pub struct Service(pub(super) Router);

impl Service {
    /// Answers one request without a socket.
    pub async fn call(&self, request: Request) -> Response {
        // Infallible: every failure is an answer already.
        self.0.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
    }
}

/// Finds the tenant before a route is looked for: routes are matched on the path behind the prefix.
#[derive(Clone)]
struct Dispatch {
    app: App,
    routes: Router,
}

impl tower::Service<Request> for Dispatch {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { app, mut routes } = self.clone();
        Box::pin(async move {
            let begun = Instant::now();
            let (mut parts, body) = request.into_parts();
            let method = parts.method.clone();
            let origin = parts.headers.get(header::ORIGIN).cloned();
            let request_id = parts
                .extensions
                .get::<RequestId>()
                .and_then(|id| id.header_value().to_str().ok())
                .map(str::to_owned);
            let resolved = tenant::resolve(&app, &mut parts);
            let path = parts.uri.path().to_owned();
            let tenant = resolved.as_ref().ok().cloned();
            let mut response = match resolved {
                Err(error) => error.into_response(),
                Ok(tenant) if cors::is_preflight(&parts.method, &parts.headers) => {
                    cors::preflight(&parts.headers, Some(&tenant.api))
                }
                Ok(tenant) => {
                    let answer = routes.call(Request::from_parts(parts, body));
                    match tokio::time::timeout(tenant.limits.request_timeout, answer).await {
                        Ok(Ok(response)) => response,
                        Err(_) => Error::Timeout.into_response(),
                    }
                }
            };
            cors::allow(origin.as_ref(), tenant.as_ref().map(|tenant| &tenant.api), response.headers_mut());
            // The path holds names of tables only; the query, where values are, is left out, and so are tokens.
            let (status, ms) = (response.status().as_u16(), begun.elapsed().as_millis() as u64);
            let (id, slug) = tenant.as_ref().map(|t| (t.id.as_str(), t.slug.as_str())).unzip();
            tracing::info!(
                request.id = request_id,
                tenant.id = id,
                tenant.slug = slug,
                http.method = %method,
                http.path = path,
                http.status = status,
                ms,
                "request"
            );
            Ok(response)
        })
    }
}

/// What no route of its own takes is the REST API's.
async fn rest(
    State(app): State<App>,
    Extension(tenant): Extension<Arc<crate::tenant::Tenant>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    match read(body, tenant.limits.max_body).await {
        Ok(body) => app.rest.serve(&tenant, Request::from_parts(parts, body)).await.map(Body::from),
        Err(error) => error.into_response(),
    }
}

async fn read(body: Body, most: usize) -> Result<Bytes, Error> {
    match Limited::new(body, most).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Error::TooLarge(most)),
        Err(_) => Err(Error::BodyLost),
    }
}

fn panicked(payload: Box<dyn Any + Send + 'static>) -> Response {
    let what = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    tracing::error!(panic = what, "a request panicked");
    Error::Panic.into_response()
}
