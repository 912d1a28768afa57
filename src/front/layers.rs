//! Layers: what stands between the socket and a route, outermost first.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use futures_util::FutureExt as _;
use http::{HeaderValue, header};
use tower::ServiceExt as _;
use tower_http::request_id::{
    MakeRequestId, PropagateRequestId, PropagateRequestIdLayer, RequestId, SetRequestId, SetRequestIdLayer,
};

use super::clients::Client;
use super::error::RouterError;
use super::proxy::{ClientAddress, TRACE_PARENT};
use super::request_log::RequestLog;
use super::supervisor::panic_message;
use super::{App, cors, proxy, tenant, trace, version};
use crate::backoff::spread;
use crate::rest::{Code, DatabaseTrace};
use crate::telemetry::{Lap, Notes, Outcome, Stage, TraceContext};

/// The data plane as one service: the REST API of every tenant.
pub fn router(app: App) -> Service {
    service(app, None)
}

/// The same with routes of your own beside the REST API. Their paths are those behind the tenant's base URL, on every
/// tenant; the REST API answers what they don't.
pub fn router_with(app: App, own: Router<App>) -> Service {
    let routes = own.fallback(rest_route).with_state(app.clone());
    service(app, Some(routes))
}

fn service(app: App, routes: Option<Router>) -> Service {
    let stack = tower::ServiceBuilder::new()
        // First an id, so that everything after it can name the request.
        .layer(SetRequestIdLayer::x_request_id(RequestIds::default()))
        .layer(PropagateRequestIdLayer::x_request_id())
        .service(Dispatch { app: app.clone(), routes });
    Service { app, stack }
}

type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// What [`super::serve`] serves.
#[derive(Clone)]
pub struct Service {
    app: App,
    stack: Stack,
}

type Stack = SetRequestId<PropagateRequestId<Dispatch>, RequestIds>;

impl tower::Service<Request> for Service {
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        proxy::take_over(&self.app, &mut request);
        Box::pin(tower::Service::call(&mut self.stack, request))
    }
}

impl Service {
    /// Answers one request without a socket.
    pub async fn call(&self, request: Request) -> Response {
        // Infallible: every failure is an answer already.
        self.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
    }
}

/// Request ids: a random number for the process, and a count. A UUID would cost a system call each.
#[derive(Clone)]
struct RequestIds {
    process: u64,
    next: Arc<AtomicU64>,
}

impl Default for RequestIds {
    fn default() -> Self {
        // The seed of a hash map is random.
        Self { process: RandomState::new().build_hasher().finish(), next: Arc::default() }
    }
}

impl MakeRequestId for RequestIds {
    fn make_request_id<B>(&mut self, _: &http::Request<B>) -> Option<RequestId> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        HeaderValue::try_from(format!("{:016x}-{number:x}", self.process)).ok().map(RequestId::new)
    }
}

/// Finds the tenant before a route is looked for: routes are matched on the path behind the prefix.
#[derive(Clone)]
struct Dispatch {
    app: App,
    /// None when there is nothing but the REST API to choose from.
    routes: Option<Router>,
}

impl tower::Service<Request> for Dispatch {
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { app, routes } = self.clone();
        Box::pin(async move {
            let begun = Instant::now();
            let (mut parts, body) = request.into_parts();
            let is_rest = routes.is_none();
            let method = parts.method.clone();
            let origin = parts.headers.get(header::ORIGIN).cloned();
            let request_id = parts.extensions.get::<RequestId>().cloned();
            let client = parts.extensions.get::<ClientAddress>().map(|client| client.0);
            let parent = parts.extensions.get::<TraceContext>().copied();
            let traced = app.tracer().and_then(|tracer| Some((tracer, tracer.begin(parent)?)));
            let notes = if traced.is_some() { Notes::with_laps() } else { Notes::default() };
            let context = traced.as_ref().map(|(_, trace)| trace.context()).or(parent);
            if let Some(context) = context.filter(|_| app.tells_databases_of_traces()) {
                parts.extensions.insert(DatabaseTrace(context));
            }
            parts.extensions.insert(notes.clone());
            let resolved = tenant::resolve(&app, &mut parts);
            let target = parts.uri.clone();
            let resolve = begun.elapsed();
            app.metrics.stage(Stage::Resolve, resolve);
            notes.lap(Lap { name: "resolve", begun, ended: begun + resolve });
            let tenant = resolved.as_ref().ok().cloned();
            let mut response = match resolved {
                Err(error) => error.into_response(),
                Ok(tenant) if !tenant.is_served() => RouterError::TenantSuspended.into_response(),
                Ok(tenant) if cors::is_preflight(&parts.method, &parts.headers) => {
                    cors::preflight(&parts.headers, Some(&tenant.api))
                }
                Ok(tenant) if !joins(&parts.extensions, &tenant) => {
                    RouterError::TooManyClients(parts.version).into_response()
                }
                Ok(tenant) if let Some(wait) = app.rate_limiters.refuses(&tenant) => {
                    RouterError::RateLimited(wait).into_response()
                }
                Ok(tenant) if !tenant.has_required_version() => RouterError::VersionRefused.into_response(),
                Ok(tenant) => {
                    let request = Request::from_parts(parts, body);
                    let answer = async {
                        match routes {
                            Some(mut routes) => {
                                routes.call(request).await.unwrap_or_else(|never| match never {})
                            }
                            None => rest(&app, &tenant, request).await,
                        }
                    };
                    // A panic still gets its headers and its line in the log.
                    let answer = AssertUnwindSafe(Box::pin(answer)).catch_unwind();
                    match tokio::time::timeout(spread(tenant.limits.request_timeout), answer).await {
                        Ok(Ok(response)) => response,
                        Ok(Err(panic)) => panicked(&*panic),
                        Err(_) => RouterError::RequestTimeout.into_response(),
                    }
                }
            };
            cors::allow(origin.as_ref(), tenant.as_ref().map(|tenant| &tenant.api), response.headers_mut());
            if let Some(tenant) = &tenant {
                version::tell(tenant, response.headers_mut());
            }
            let (status, took) = (response.status().as_u16(), begun.elapsed());
            let code = response.extensions().get::<Code>();
            let outcome = code.map_or_else(|| Outcome::of_status(status), Code::outcome);
            app.metrics.request(outcome, took);
            if let Some(tenant) = &tenant {
                app.traffic.count(&tenant.id, outcome, status, took);
            }
            if let Some(header) = parent.and_then(|parent| HeaderValue::try_from(parent.to_string()).ok()) {
                response.headers_mut().insert(TRACE_PARENT, header);
            }
            let log = RequestLog {
                request_id: request_id.as_ref().and_then(|id| id.header_value().to_str().ok()),
                trace: context,
                client,
                tenant: tenant.as_deref(),
                method: &method,
                path: target.path(),
                status: response.status(),
                outcome,
                extensions: response.extensions(),
                resolve,
                took,
                noted: notes.read(),
            };
            log.write(app.access_log());
            if let Some((tracer, trace)) = traced {
                tracer.end(trace, trace::finished(&log, is_rest, notes.take_laps()));
            }
            Ok(response)
        })
    }
}

/// Whether the tenant has a place for the request's connection. Requests without a socket have none.
fn joins(extensions: &http::Extensions, tenant: &crate::tenant::Tenant) -> bool {
    extensions.get::<Arc<Client>>().is_none_or(|client| client.join(&tenant.id))
}

/// What no route of its own takes is the REST API's.
async fn rest_route(
    State(app): State<App>,
    Extension(tenant): Extension<Arc<crate::tenant::Tenant>>,
    request: Request,
) -> Response {
    rest(&app, &tenant, request).await
}

async fn rest(app: &App, tenant: &Arc<crate::tenant::Tenant>, request: Request) -> Response {
    app.rest.serve(tenant, request).await.map(Body::new)
}

fn panicked(payload: &(dyn Any + Send)) -> Response {
    tracing::error!(panic = panic_message(payload), "a request panicked");
    RouterError::Panic.into_response()
}
