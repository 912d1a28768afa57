//! Traces and metrics by OTLP, at a receiver that reads them; and what a server's sessions tell of traces.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, State};
use http::{HeaderMap, StatusCode};
use manybox::catalog::{OperatorRole, Scopes};
use manybox::control::{self, Control};
use manybox::front::{self, Clients};
use manybox::otlp::Exporter;
use manybox::settings::TelemetrySettings;
use manybox::telemetry::Metrics;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as OtlpValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::{Client, Response};
use serde_json::json;

use crate::control::token;
use crate::support::router::Router;
use crate::support::{TestFleet, eventually, free_port};

const TRUST: (&str, &str) = ("MANYBOX__LISTEN__TRUSTED_PROXIES", "127.0.0.1/32");
const AT_ONCE: (&str, &str) = ("MANYBOX__LISTEN__STOP_DELAY", "0s");
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// What a receiver does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Take,
    Refuse,
    Hang,
}

/// A receiver, and what it has got.
#[derive(Clone)]
struct Receiver(Arc<Mutex<Heard>>);

struct Heard {
    does: Does,
    headers: HeaderMap,
    spans: Vec<Span>,
    services: Vec<String>,
    metrics: Vec<ExportMetricsServiceRequest>,
    messages: usize,
}

impl Receiver {
    async fn listen(address: SocketAddr, does: Does) -> Self {
        let headers = HeaderMap::new();
        let (spans, services, metrics) = (Vec::new(), Vec::new(), Vec::new());
        let receiver =
            Self(Arc::new(Mutex::new(Heard { does, headers, spans, services, metrics, messages: 0 })));
        let routes = axum::Router::new()
            .route("/otel/v1/{signal}", axum::routing::post(take))
            .with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let clients = Clients::of_control(&manybox::settings::ListenSettings::default(), Metrics::default());
        tokio::spawn(front::serve(listener, routes, clients, std::future::pending()));
        receiver
    }

    fn does(&self, does: Does) {
        self.0.lock().unwrap().does = does;
    }

    fn messages(&self) -> usize {
        self.0.lock().unwrap().messages
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().spans.clone()
    }

    /// The span that says this, when it has come.
    async fn span(&self, key: &str, value: &str) -> Span {
        let find = || self.spans().into_iter().find(|span| text(&span.attributes, key) == Some(value.into()));
        eventually(&format!("a span with {key} {value}"), || async { find().is_some() }).await;
        find().unwrap()
    }

    /// The spans below one.
    fn below(&self, parent: &Span) -> Vec<Span> {
        let is_below =
            |span: &Span| span.parent_span_id == parent.span_id && span.trace_id == parent.trace_id;
        self.spans().into_iter().filter(is_below).collect()
    }
}

async fn take(
    State(receiver): State<Receiver>,
    Path(signal): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let does = {
        let mut heard = receiver.0.lock().unwrap();
        heard.messages += 1;
        heard.does
    };
    match does {
        Does::Hang => std::future::pending::<()>().await,
        Does::Refuse => return (StatusCode::BAD_REQUEST, b"\x1b[31m no".to_vec()),
        Does::Take => {}
    }
    let mut heard = receiver.0.lock().unwrap();
    heard.headers = headers;
    if signal == "metrics" {
        heard.metrics.push(ExportMetricsServiceRequest::decode(body).unwrap());
        return (StatusCode::OK, Vec::new());
    }
    for of in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
        let resource = of.resource.unwrap().attributes;
        heard.services.push(text(&resource, "service.name").unwrap());
        assert!(text(&resource, "service.instance.id").is_some());
        heard.spans.extend(of.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    (StatusCode::OK, Vec::new())
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a OtlpValue> {
    let mut found = attributes.iter().filter(|attribute| attribute.key == key);
    let first = found.next()?;
    assert!(found.next().is_none(), "{key} is there twice: {attributes:?}");
    match &first.value {
        Some(AnyValue { value }) => value.as_ref(),
        None => None,
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    match value(attributes, key)? {
        OtlpValue::StringValue(text) => Some(text.clone()),
        other => Some(format!("{other:?}")),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

async fn get(router: &Router, path: &str, traceparent: &str, id: &str) -> Response {
    let request = Client::new().get(router.url(path)).header("x-request-id", id);
    let request = if traceparent.is_empty() { request } else { request.header("traceparent", traceparent) };
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_request_is_a_span_with_its_stages_and_metrics_are_those_of_the_admin_port() {
    let fleet = TestFleet::builder().tenants(&["acme", "beta"]).build().await;
    let address = free_port();
    let receiver = Receiver::listen(address, Does::Take).await;
    let headers = fleet.folder.path().join("otlp-headers");
    std::fs::write(&headers, "X-Scope: fleet-7\n").unwrap();
    let endpoint = format!("http://{address}/otel/");
    let environment = [
        ("MANYBOX__TELEMETRY__OTLP_ENDPOINT", endpoint.as_str()),
        ("MANYBOX__TELEMETRY__OTLP_HEADERS__AUTHORIZATION", "Bearer s3cret"),
        ("MANYBOX__TELEMETRY__OTLP_HEADERS_FILE", headers.to_str().unwrap()),
        ("MANYBOX__TELEMETRY__METRICS_INTERVAL", "500ms"),
        ("MANYBOX__LISTEN__ACCESS_LOG", "all"),
        AT_ONCE,
    ];
    let router = Router::start_logging_json(&fleet, &[&environment[..], &[TRUST]].concat()).await;
    let answer = get(&router, "/acme/items?name=eq.s3cret", &traceparent("01"), "one").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["traceparent"], traceparent("01"));
    let span = receiver.span("manybox.request.id", "one").await;
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!((span.name.as_str(), span.kind), ("GET /{relation}", 2));
    let told = |key: &str| text(&span.attributes, key).unwrap_or_default();
    assert_eq!((told("url.path").as_str(), told("http.route").as_str()), ("/items", "/{relation}"));
    assert_eq!((told("manybox.tenant.slug").as_str(), told("manybox.role").as_str()), ("acme", "anon"));
    assert_eq!(value(&span.attributes, "http.response.status_code"), Some(&OtlpValue::IntValue(200)));
    let below = receiver.below(&span);
    let names: Vec<_> = below.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["resolve", "jwt", "parse", "plan", "checkout", "execute", "response"]);
    let within = |below: &Span| {
        span.start_time_unix_nano <= below.start_time_unix_nano
            && below.start_time_unix_nano <= below.end_time_unix_nano
            && below.end_time_unix_nano <= span.end_time_unix_nano
    };
    assert!(below.iter().all(within), "{below:?}");
    // Who began the trace doesn't want it; and a trace that is none.
    get(&router, "/acme/items", &traceparent("00"), "two").await;
    get(&router, "/nobody/items", "00-no-trace-01", "three").await;
    let own = receiver.span("manybox.request.id", "three").await;
    assert!(own.parent_span_id.is_empty() && hex(&own.trace_id) != TRACE);
    assert_eq!(text(&own.attributes, "error.type").as_deref(), Some("MBX102"));
    assert_eq!(own.name, "GET", "an unknown tenant's path is no route");
    // What clients and tenants choose is a value, and no name and nobody else's attribute.
    let loud = "CREATE FUNCTION loud() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE 'PGRST' USING
             MESSAGE = '{\"code\": \"x\\\",manybox.tenant.slug=beta\", \"message\": \"m\"}',
             DETAIL = '{\"status\": 500, \"headers\": {}}'; END $$; GRANT EXECUTE ON FUNCTION loud TO anon";
    fleet.owner("acme").await.batch_execute(loud).await.unwrap();
    let request = Client::new().post(router.url("/acme/rpc/loud")).header("x-request-id", "four");
    let request = request
        .header("tracestate", "manybox.tenant.slug=beta")
        .header("baggage", "manybox.tenant.slug=beta");
    assert_eq!(request.send().await.unwrap().status(), 500);
    let span = receiver.span("manybox.request.id", "four").await;
    assert_eq!(text(&span.attributes, "manybox.tenant.slug").as_deref(), Some("acme"));
    assert_eq!(text(&span.attributes, "error.type").as_deref(), Some("x\",manybox.tenant.slug=beta"));
    assert_eq!((span.name.as_str(), span.status.unwrap().code), ("POST /rpc/{function}", 2));
    let strange = reqwest::Method::from_bytes(b"BETA").unwrap();
    let request = Client::new().request(strange, router.url("/acme/items")).header("x-request-id", "five");
    request.send().await.unwrap();
    let span = receiver.span("manybox.request.id", "five").await;
    assert_eq!(text(&span.attributes, "http.request.method").as_deref(), Some("_OTHER"));
    assert_eq!(span.name, "HTTP /{relation}");
    assert!(
        !receiver
            .spans()
            .iter()
            .any(|span| text(&span.attributes, "manybox.request.id") == Some("two".into()))
    );
    // The log's line leads to the trace.
    let line = router.requests().into_iter().find(|line| line["request.id"] == "five").unwrap();
    assert_eq!(line["trace.id"], hex(&span.trace_id));
    // What is sent is what the admin port says, and names the receiver's headers.
    let admin = reqwest::get(router.of_admin("/metrics")).await.unwrap().text().await.unwrap();
    assert!(admin.contains("manybox_requests_total{outcome=\"unknown_tenant\"} 1"), "{admin}");
    let before = receiver.0.lock().unwrap().metrics.len();
    eventually("metrics come again", || async { receiver.0.lock().unwrap().metrics.len() > before + 1 })
        .await;
    {
        let heard = receiver.0.lock().unwrap();
        let all = &heard.metrics.last().unwrap().resource_metrics[0].scope_metrics[0].metrics;
        let families = admin.lines().filter(|line| line.starts_with("# TYPE ")).count();
        assert!(all.len() > 20 && all.len() <= families, "{} of {families}", all.len());
        let requests = all.iter().find(|metric| metric.name == "manybox_requests").unwrap();
        let Some(Data::Sum(requests)) = &requests.data else { panic!("{requests:?}") };
        let of = |outcome: &str| {
            let mut points = requests.data_points.iter();
            points.find(|point| text(&point.attributes, "outcome").as_deref() == Some(outcome)).unwrap().value
        };
        assert_eq!(of("unknown_tenant"), Some(Number::AsDouble(1.0)));
        assert_eq!(heard.headers["authorization"], "Bearer s3cret");
        assert_eq!(
            (&heard.headers["x-scope"], &heard.services[0]),
            (&"fleet-7".parse().unwrap(), &"manybox".into())
        );
    }
    assert!(!router.log().contains("s3cret"), "{}", router.log());
    // What has just been asked is sent before the end.
    get(&router, "/beta/items", "", "last").await;
    router.signal("TERM");
    assert!(router.ended().await);
    assert!(
        receiver
            .spans()
            .iter()
            .any(|span| text(&span.attributes, "manybox.request.id") == Some("last".into()))
    );
    // Who is no trusted proxy chooses no trace.
    let strict = Router::start_logging_json(&fleet, &environment).await;
    get(&strict, "/acme/strict", &traceparent("01"), "six").await;
    let span = receiver.span("url.path", "/strict").await;
    assert!(hex(&span.trace_id) != TRACE && span.parent_span_id.is_empty());
}

#[tokio::test]
async fn a_receiver_that_is_away_hangs_or_refuses_harms_no_request() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let address = free_port();
    let endpoint = format!("http://{address}/otel");
    let environment = [
        ("MANYBOX__TELEMETRY__OTLP_ENDPOINT", endpoint.as_str()),
        ("MANYBOX__TELEMETRY__METRICS_INTERVAL", "0s"),
        AT_ONCE,
    ];
    let router = Router::start_logging_json(&fleet, &environment).await;
    let ask = async |path: &str| assert_eq!(reqwest::get(router.url(path)).await.unwrap().status(), 200);
    let warnings = || router.log().matches("does not take what is sent").count();
    ask("/acme/items?id=eq.1").await;
    eventually("it is said", || async { warnings() == 1 }).await;
    ask("/acme/items?id=eq.2").await;
    // It comes, and gets what waited.
    let receiver = Receiver::listen(address, Does::Take).await;
    let requests = || receiver.spans().iter().filter(|span| span.kind == 2).count();
    eventually("what waited comes", || async { requests() == 2 }).await;
    eventually("that is said", || async { router.log().contains("takes what is sent again") }).await;
    assert_eq!(warnings(), 1, "{}", router.log());
    // It refuses: what it refused is gone, and counted.
    receiver.does(Does::Refuse);
    let lost = async |least: u32| {
        let metrics = reqwest::get(router.of_admin("/metrics")).await.unwrap().text().await.unwrap();
        let name = "manybox_otlp_losses_total{signal=\"spans\"} ";
        metrics.lines().filter_map(|line| line.strip_prefix(name)?.parse::<u32>().ok()).any(|n| n >= least)
    };
    assert!(lost(0).await && !lost(1).await);
    for _ in 0..2 {
        ask("/acme/items").await;
    }
    eventually("it is counted", || lost(8)).await;
    assert_eq!(warnings(), 2, "{}", router.log());
    assert!(router.log().contains("it answered 400 to /otel/v1/traces") && !router.log().contains('\u{1b}'));
    // It hangs: nobody waits for it, not even the router's end.
    receiver.does(Does::Hang);
    let before = receiver.messages();
    ask("/acme/items").await;
    eventually("it is sent", || async { receiver.messages() > before }).await;
    for _ in 0..5 {
        ask("/acme/items").await;
    }
    router.signal("TERM");
    assert!(router.ended().await);
    // What can't be an endpoint is said before anything listens.
    for (name, wrong, expected) in [
        ("MANYBOX__TELEMETRY__OTLP_ENDPOINT", "127.0.0.1:4318", "telemetry.otlp_endpoint"),
        ("MANYBOX__TELEMETRY__OTLP_HEADERS_FILE", "nowhere", "nowhere"),
        ("MANYBOX__TELEMETRY__SAMPLE_RATIO", "2", "telemetry.sample_ratio"),
    ] {
        let mut serve = fleet.program(&["serve"]);
        serve.envs(environment).env("MANYBOX__LISTEN__HTTP", "127.0.0.1:0").env(name, wrong);
        serve.env("MANYBOX__LISTEN__ADMIN", "127.0.0.1:0");
        let output = tokio::task::spawn_blocking(move || serve.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{name}: {said}");
    }
}

#[tokio::test]
async fn a_servers_session_tells_of_the_trace_that_it_works_for() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let waits =
        "CREATE FUNCTION waits() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM pg_advisory_lock_shared(42)';
                 GRANT EXECUTE ON FUNCTION waits TO anon";
    fleet.owner("acme").await.batch_execute(waits).await.unwrap();
    let told = ("MANYBOX__TELEMETRY__TRACE_IN_APPLICATION_NAME", "true");
    let silent = Router::start(&fleet, &[TRUST]).await;
    let router = Router::start(&fleet, &[TRUST, told]).await;
    let blocker = fleet.admin("acme").await;
    let good = traceparent("00");
    // What is no header of a trace is none of the server's business.
    let quoted = format!("00-{TRACE}-{PARENT}-01'); DROP TABLE items; --");
    let cases = [
        (&silent, good.as_str(), "manybox"),
        (&router, good.as_str(), good.as_str()),
        (&router, "", "manybox"),
        (&router, quoted.as_str(), "manybox"),
        (&router, "00-\t'--", "manybox"),
        (&router, good.as_str(), good.as_str()),
    ];
    for (router, header, expected) in cases {
        blocker.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
        let under_way = get(router, "/acme/rpc/waits", header, "one");
        let seen = async {
            let sql = "SELECT application_name FROM pg_stat_activity a JOIN pg_locks USING (pid)
                       WHERE a.datname = current_database() AND locktype = 'advisory' AND NOT granted";
            let waiting = async || blocker.query_opt(sql, &[]).await.unwrap().map(|row| row.get(0));
            eventually("it waits", async || waiting().await.is_some_and(|_: String| true)).await;
            let seen: String = waiting().await.unwrap();
            blocker.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
            seen
        };
        let (answer, seen) = tokio::join!(under_way, seen);
        assert_eq!((answer.status(), seen.as_str()), (StatusCode::OK, expected), "{header:?}");
        // The transaction's, and nothing that stays with the session.
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '00-%'";
        eventually("the session is nobody's", || async {
            blocker.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0
        })
        .await;
    }
    // Of a request that is recorded, its own span.
    let address = free_port();
    let receiver = Receiver::listen(address, Does::Take).await;
    let endpoint = format!("http://{address}/otel");
    let settings = [TRUST, told, ("MANYBOX__TELEMETRY__OTLP_ENDPOINT", endpoint.as_str())];
    let recording = Router::start(&fleet, &settings).await;
    let shows =
        "CREATE FUNCTION shows() RETURNS text LANGUAGE sql AS 'SELECT current_setting(''application_name'')';
                 GRANT EXECUTE ON FUNCTION shows TO anon";
    fleet.owner("acme").await.batch_execute(shows).await.unwrap();
    let answer = get(&recording, "/acme/rpc/shows", &traceparent("01"), "own").await;
    let shown: String = answer.json().await.unwrap();
    let span = receiver.span("manybox.request.id", "own").await;
    assert_eq!(shown, format!("00-{TRACE}-{}-01", hex(&span.span_id)));
}

#[tokio::test]
async fn the_control_service_tells_of_requests_and_jobs() {
    let fleet = TestFleet::builder().build().await;
    let address = free_port();
    let receiver = Receiver::listen(address, Does::Take).await;
    let settings = TelemetrySettings {
        otlp_endpoint: Some(format!("http://{address}/otel")),
        ..TelemetrySettings::default()
    };
    let exporter = Exporter::start(&settings, "-control", &Metrics::default()).unwrap().unwrap();
    let control = Arc::new(Control::new(fleet.another().await, Some(exporter.tracer())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let clients = Clients::of_control(&fleet.fleet.settings.listen, Metrics::default());
    tokio::spawn(front::serve(listener, control::router(&control), clients, std::future::pending()));
    let owner = token(&fleet, "ada", OperatorRole::Owner, Scopes::default()).await;
    let create = Client::new()
        .post(format!("{url}/v1/tenants"))
        .bearer_auth(&owner)
        .header("traceparent", traceparent("01"));
    let answer = create.json(&json!({ "slug": "acme" })).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(Client::new().get(format!("{url}/v1/tenants/{owner}")).send().await.unwrap().status(), 401);
    exporter.stop().await;
    let of = |name: &str| receiver.spans().into_iter().find(|span| span.name == name).unwrap();
    let (request, job) = (of("POST /v1/tenants"), of("job create"));
    for span in [&request, &job] {
        assert_eq!(text(&span.attributes, "manybox.request.id").as_deref(), Some(id.as_str()));
        assert_ne!(hex(&span.trace_id), TRACE, "nobody trusts who asked");
    }
    assert_eq!(text(&job.attributes, "manybox.tenant.slug").as_deref(), Some("acme"));
    assert_eq!(text(&of("GET /v1/tenants/{slug}").attributes, "error.type").as_deref(), Some("MBX601"));
    assert!(!format!("{:?}", receiver.spans()).contains(&owner), "no token is in a trace");
    assert_eq!(receiver.0.lock().unwrap().services[0], "manybox-control");
}
