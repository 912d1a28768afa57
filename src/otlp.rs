//! OTLP: traces and metrics for an OpenTelemetry receiver, sent in batches beside the requests that they tell of.
//!
//! What is sent was measured for the log and for `/metrics` anyway: nothing is timed or counted a second time. No request
//! waits for the receiver. Spans stand in a queue with a bound, and what finds no place in it is lost and counted.

mod attributes;
mod exposition;
mod receiver;
mod tracer;

pub use attributes::Attributes;
pub use tracer::{Finished, Kind, Trace, Tracer};

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::settings::TelemetrySettings;
use crate::telemetry::Metrics;
use receiver::Receiver;

/// Traces that wait to be sent, each of some eight spans; together some 8 MB at most.
const QUEUE: usize = 1024;
/// Spans that are sent at once, a few more with the last trace.
const BATCH: usize = 2048;
/// How long the first span of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// How long a batch is tried again that the receiver did not take for now.
const PATIENCE: Duration = Duration::from_secs(30);
/// Waits between that.
const WAITS: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
/// Longest time that a process which stops waits until the rest is sent.
const FLUSH: Duration = Duration::from_secs(5);

const SPANS: &str = "spans";
const METRICS: &str = "metrics";

/// What sends, as long as the process runs.
pub struct Exporter {
    tracer: Tracer,
    settings: TelemetrySettings,
    resource: Resource,
    metrics: Metrics,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Exporter {
    /// Begins to send spans; `None` without an endpoint. `part` tells this service from others of the name that is set.
    ///
    /// # Errors
    /// When the endpoint or a header is none, or the headers' file can't be read; a sentence.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        settings: &TelemetrySettings,
        part: &str,
        metrics: &Metrics,
    ) -> Result<Option<Self>, String> {
        let Some(receiver) = Receiver::new(settings)? else { return Ok(None) };
        let (queue, waiting) = mpsc::channel(QUEUE);
        let mut exporter = Self {
            tracer: Tracer::new(queue, settings.sample_ratio, metrics.clone()),
            settings: settings.clone(),
            resource: resource(settings, part),
            metrics: metrics.clone(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        metrics.otlp_lost(SPANS, 0);
        let stop = exporter.stop.clone();
        let mut link = exporter.link(receiver, SPANS);
        exporter.tasks.spawn(async move { send_spans(waiting, &mut link, &stop).await });
        Ok(Some(exporter))
    }

    /// What makes spans.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Begins to send metrics, which `scrape` gives as OpenMetrics text.
    ///
    /// # Errors
    /// As [`Exporter::start`].
    pub fn report(&mut self, scrape: impl Fn() -> String + Send + Sync + 'static) -> Result<(), String> {
        let every = self.settings.metrics_interval;
        let Some(receiver) = Receiver::new(&self.settings)?.filter(|_| !every.is_zero()) else {
            return Ok(());
        };
        self.metrics.otlp_lost(METRICS, 0);
        let (stop, mut link) = (self.stop.clone(), self.link(receiver, METRICS));
        self.tasks.spawn(async move { send_metrics(scrape, every, &mut link, &stop).await });
        Ok(())
    }

    /// Sends what there is still, for some seconds at most. Spans that come later are lost.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(FLUSH, ended).await.is_err() {
            tracing::warn!(
                "the OTLP receiver did not take the last spans or metrics within {} s",
                FLUSH.as_secs()
            );
        }
    }

    fn link(&self, receiver: Receiver, signal: &'static str) -> Link {
        Link {
            receiver,
            signal,
            resource: self.resource.clone(),
            metrics: self.metrics.clone(),
            is_failing: false,
        }
    }
}

/// What is told of this process with everything that is sent.
fn resource(settings: &TelemetrySettings, part: &str) -> Resource {
    let mut attributes = Attributes::default();
    attributes.text("service.name", format!("{}{part}", settings.service_name));
    attributes.text("service.version", env!("CARGO_PKG_VERSION"));
    attributes.text("service.instance.id", format!("{:016x}", tracer::random_id()));
    for (name, value) in &settings.resource {
        attributes.text(name, value.as_str());
    }
    Resource { attributes: attributes.into_inner(), ..Resource::default() }
}

fn scope() -> Option<InstrumentationScope> {
    let (name, version) = (env!("CARGO_PKG_NAME").into(), env!("CARGO_PKG_VERSION").into());
    Some(InstrumentationScope { name, version, ..InstrumentationScope::default() })
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// One signal's way to the receiver.
struct Link {
    receiver: Receiver,
    signal: &'static str,
    resource: Resource,
    metrics: Metrics,
    is_failing: bool,
}

impl Link {
    /// Says once that it fails, and once that it does no more.
    fn tell(&mut self, outcome: Result<(), &str>) {
        match outcome {
            Err(reason) if !self.is_failing => tracing::warn!(
                signal = self.signal,
                error = reason,
                "the OTLP receiver does not take what is sent; what it misses is counted in manybox_otlp_losses"
            ),
            Ok(()) if self.is_failing => {
                tracing::info!(signal = self.signal, "the OTLP receiver takes what is sent again");
            }
            _ => {}
        }
        self.is_failing = outcome.is_err();
    }

    /// Sends a message, and again while the receiver may take it later.
    async fn deliver(&mut self, path: &str, message: Vec<u8>, stop: &CancellationToken) -> Option<Bytes> {
        let (begun, mut waits) = (Instant::now(), WAITS);
        loop {
            let refusal = match self.receiver.post(path, message.clone()).await {
                Ok(answer) => {
                    self.tell(Ok(()));
                    return Some(answer);
                }
                Err(refusal) => refusal,
            };
            self.tell(Err(&refusal.reason));
            let is_over = !refusal.is_passing || begun.elapsed() > PATIENCE;
            if is_over || stop.run_until_cancelled(sleep(waits.next_wait())).await.is_none() {
                return None;
            }
        }
    }
}

async fn send_spans(mut queue: mpsc::Receiver<Vec<Span>>, link: &mut Link, stop: &CancellationToken) {
    while let Some(spans) = gather(&mut queue, stop).await {
        let count = spans.len() as u64;
        let scope_spans = vec![ScopeSpans { scope: scope(), spans, ..ScopeSpans::default() }];
        let resource = Some(link.resource.clone());
        let spans = ResourceSpans { resource, scope_spans, ..ResourceSpans::default() };
        let message = ExportTraceServiceRequest { resource_spans: vec![spans] }.encode_to_vec();
        let lost = match link.deliver("/v1/traces", message, stop).await {
            Some(answer) => refused(&answer),
            None => count,
        };
        if lost > 0 {
            link.metrics.otlp_lost(SPANS, lost.min(count));
        }
    }
}

/// How many spans of a batch the receiver took and threw away.
fn refused(answer: &Bytes) -> u64 {
    let answer = ExportTraceServiceResponse::decode(answer.clone()).unwrap_or_default();
    answer.partial_success.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or_default())
}

/// Spans for one message; `None` when there are none and none will come.
async fn gather(queue: &mut mpsc::Receiver<Vec<Span>>, stop: &CancellationToken) -> Option<Vec<Span>> {
    let mut batch = next(queue, stop).await?;
    let full = async {
        while batch.len() < BATCH
            && let Some(spans) = next(queue, stop).await
        {
            batch.extend(spans);
        }
    };
    // What it has by then is enough.
    let _ = timeout(LINGER, full).await;
    Some(batch)
}

async fn next(queue: &mut mpsc::Receiver<Vec<Span>>, stop: &CancellationToken) -> Option<Vec<Span>> {
    if let Some(Some(spans)) = stop.run_until_cancelled(queue.recv()).await {
        return Some(spans);
    }
    queue.close();
    queue.recv().await
}

async fn send_metrics(
    scrape: impl Fn() -> String,
    every: Duration,
    link: &mut Link,
    stop: &CancellationToken,
) {
    let started = nanos(SystemTime::now());
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_last = stop.run_until_cancelled(ticks.tick()).await.is_none();
        let metrics = exposition::metrics(&scrape(), started, nanos(SystemTime::now()));
        let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, ..ScopeMetrics::default() }];
        let resource = Some(link.resource.clone());
        let metrics = ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() };
        let message = ExportMetricsServiceRequest { resource_metrics: vec![metrics] }.encode_to_vec();
        // Not again: the next ones tell all that these told.
        match link.receiver.post("/v1/metrics", message).await {
            Ok(_) => link.tell(Ok(())),
            Err(refusal) => {
                link.tell(Err(&refusal.reason));
                link.metrics.otlp_lost(METRICS, 1);
            }
        }
        if is_last {
            return;
        }
    }
}
