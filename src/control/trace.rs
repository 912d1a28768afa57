//! Trace: spans of requests to the control service.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::request_id::RequestId;
use super::{Control, Problem};
use crate::otlp::{Attributes, Finished, Kind};
use crate::telemetry::TraceContext;

/// Tells of a request by its route: paths, which have slugs and secrets of sessions in them, stay here.
pub(super) async fn request(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    let Some(tracer) = control.tracer.as_ref().filter(|_| request.uri().path() != "/healthz") else {
        return next.run(request).await;
    };
    let Some(trace) = tracer.begin(parent(&control, &request)) else { return next.run(request).await };
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let id = request.extensions().get::<RequestId>().map(|id| id.0.clone());
    // An invented one matches no route, and is nobody's name for a span.
    let method = route.is_some().then(|| request.method().to_string());
    let response = next.run(request).await;
    let (mut attributes, status) = (Attributes::default(), response.status());
    attributes.text("http.request.method", method.as_deref().unwrap_or("_OTHER"));
    attributes.number("http.response.status_code", status.as_u16().into());
    attributes.maybe("http.route", route.as_deref());
    attributes.maybe("manybox.request.id", id);
    let problem = response.extensions().get::<Problem>();
    attributes.maybe("error.type", problem.map(|problem| problem.code.row().0));
    let method = method.as_deref().unwrap_or("HTTP");
    let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
    let is_error = status.is_server_error();
    tracer.end(trace, Finished { name, kind: Kind::Server, attributes, is_error, laps: Vec::new() });
    response
}

/// The span that a trusted proxy says it belongs to.
fn parent(control: &Control, request: &Request) -> Option<TraceContext> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>()?.0.ip().to_canonical();
    let trusted = &control.fleet.settings.listen.trusted_proxies;
    trusted.iter().find(|network| network.contains(&peer))?;
    let mut all = request.headers().get_all("traceparent").iter();
    let only = all.next().filter(|_| all.next().is_none())?;
    TraceContext::parse(only.to_str().ok()?)
}
