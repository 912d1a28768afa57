//! Metrics: what all requests came to, and how long they took, for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of the histograms, in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// What a request came to. A refusal's outcome is that of its code; other answers have that of their status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered as asked: 1xx to 3xx.
    Ok,
    /// The request is at fault: 4xx but for those below, and 300 where a name is ambiguous.
    ClientError,
    /// 401 and 403.
    Unauthorized,
    /// 429: above the tenant's `max_requests_per_second`.
    RateLimited,
    /// 429 and 503 because connections were in use or slow to come, though the server answers.
    Backpressure,
    /// 503 because a server or the catalog is away, or a login is refused.
    Unavailable,
    /// Any other 5xx, also one that a function of the tenant chose.
    ServerError,
    /// No tenant has the request's base URL, or it is ambiguous.
    UnknownTenant,
}

const OUTCOMES: [Outcome; 8] = [
    Outcome::Ok,
    Outcome::ClientError,
    Outcome::Unauthorized,
    Outcome::RateLimited,
    Outcome::Backpressure,
    Outcome::Unavailable,
    Outcome::ServerError,
    Outcome::UnknownTenant,
];

/// A stage of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the request's head to its tenant.
    Resolve,
    /// The wait for a connection; nearly nothing when an idle one is there.
    Checkout,
    /// The transaction, from BEGIN to the end of COMMIT.
    Execute,
}

const STAGES: [Stage; 3] = [Stage::Resolve, Stage::Checkout, Stage::Execute];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStage {
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPort {
    port: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    port: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySignal {
    signal: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTask {
    task: &'static str,
}

/// The data plane's counts since it started; a handle, cheap to clone. Each is an atomic or nearly so.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Family<ByOutcome, Counter>,
    seconds: Histogram,
    stages: Family<ByStage, Histogram, fn() -> Histogram>,
    schema_reads: Counter,
    task_failures: Family<ByTask, Counter>,
    otlp_losses: Family<BySignal, Counter>,
    clients: Family<ByPort, Gauge>,
    client_refusals: Family<ByReason, Counter>,
    client_closes: Family<ByReason, Counter>,
    /// Those of the families, found without looking.
    by_outcome: [Counter; OUTCOMES.len()],
    by_stage: [Histogram; STAGES.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        let requests = Family::<ByOutcome, Counter>::default();
        let stages = Family::new_with_constructor(histogram as fn() -> Histogram);
        let by_outcome = OUTCOMES.map(|of| requests.get_or_create_owned(&ByOutcome { outcome: of.name() }));
        let by_stage = STAGES.map(|of| stages.get_or_create_owned(&ByStage { stage: of.name() }));
        let (seconds, schema_reads, task_failures) = (histogram(), Counter::default(), Family::default());
        Self(Arc::new(Inner {
            requests,
            seconds,
            stages,
            schema_reads,
            task_failures,
            otlp_losses: Family::default(),
            clients: Family::default(),
            client_refusals: Family::default(),
            client_closes: Family::default(),
            by_outcome,
            by_stage,
        }))
    }
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Metrics {
    /// A request has been answered.
    pub fn request(&self, outcome: Outcome, took: Duration) {
        self.0.by_outcome[outcome as usize].inc();
        self.0.seconds.observe(took.as_secs_f64());
    }

    /// A stage of a request has ended.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.0.by_stage[stage as usize].observe(took.as_secs_f64());
    }

    /// A schema has been read from a database.
    pub fn schema_read(&self) {
        self.0.schema_reads.inc();
    }

    /// Shows a background task's failures, 0 so far: an alert on their increase would miss the first one otherwise.
    pub fn register_task(&self, task: &'static str) {
        drop(self.0.task_failures.get_or_create(&ByTask { task }));
    }

    /// A background task has panicked or ended.
    pub fn task_failed(&self, task: &'static str) {
        self.0.task_failures.get_or_create(&ByTask { task }).inc();
    }

    /// So many spans, or reports of metrics, did not reach the OTLP receiver: `signal` is `spans` or `metrics`. With 0 it
    /// shows that there is a receiver: an alert on their increase would miss the first one otherwise.
    pub fn otlp_lost(&self, signal: &'static str, count: u64) {
        self.0.otlp_losses.get_or_create(&BySignal { signal }).inc_by(count);
    }

    /// So many clients are connected to a port, `http` or `admin`.
    pub fn clients(&self, port: &'static str, connected: usize) {
        let connected = i64::try_from(connected).unwrap_or(i64::MAX);
        self.0.clients.get_or_create(&ByPort { port }).set(connected);
    }

    /// A client's connection, or its request for want of a place, was refused.
    pub fn client_refused(&self, port: &'static str, reason: &'static str) {
        self.0.client_refusals.get_or_create(&ByReason { port, reason }).inc();
    }

    /// A client's connection was closed by the router.
    pub fn client_closed(&self, port: &'static str, reason: &'static str) {
        self.0.client_closes.get_or_create(&ByReason { port, reason }).inc();
    }

    /// Requests so far, of all outcomes.
    pub fn requests(&self) -> u64 {
        self.0.by_outcome.iter().map(Counter::get).sum()
    }

    /// Adds these metrics to what is about to be scraped.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests answered", self.0.requests.clone());
        registry.register("schema_reads", "Schemas read from databases", self.0.schema_reads.clone());
        let help = "Background tasks that panicked or ended, and were started again";
        registry.register("task_failures", help, self.0.task_failures.clone());
        let help = "Spans, and reports of metrics, that the OTLP receiver did not take";
        registry.register("otlp_losses", help, self.0.otlp_losses.clone());
        registry.register("clients", "Clients' connections, by port", self.0.clients.clone());
        let help = "Clients' connections that found no place, by whose places were taken";
        registry.register("client_refusals", help, self.0.client_refusals.clone());
        let help = "Clients' connections that the router closed, by why";
        registry.register("client_closes", help, self.0.client_closes.clone());
        registry.register_with_unit(
            "request",
            "Time from a request's head to its answer",
            Unit::Seconds,
            self.0.seconds.clone(),
        );
        registry.register_with_unit(
            "stage",
            "Time by stage of a request",
            Unit::Seconds,
            self.0.stages.clone(),
        );
    }
}

impl Outcome {
    /// The outcome of an answer of which only the status is known: a success, or a status that code of the tenant or a
    /// route of one's own chose. So 429 and 503 are not taken for manybox's own back-pressure.
    pub fn of_status(status: u16) -> Self {
        match status {
            500.. => Self::ServerError,
            401 | 403 => Self::Unauthorized,
            400.. => Self::ClientError,
            _ => Self::Ok,
        }
    }

    /// Whether the request was sent away to come again later.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::RateLimited | Self::Backpressure | Self::Unavailable)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate_limited",
            Self::Backpressure => "backpressure",
            Self::Unavailable => "unavailable",
            Self::ServerError => "server_error",
            Self::UnknownTenant => "unknown_tenant",
        }
    }
}

impl Stage {
    /// Its name in metrics and traces.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Checkout => "checkout",
            Self::Execute => "execute",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_alone_is_never_back_pressure() {
        for (status, outcome) in [
            (200, Outcome::Ok),
            (304, Outcome::Ok),
            (403, Outcome::Unauthorized),
            (429, Outcome::ClientError),
            (503, Outcome::ServerError),
        ] {
            assert_eq!(Outcome::of_status(status), outcome, "{status}");
        }
    }

    #[test]
    fn each_count_is_under_its_own_name() {
        for (place, outcome) in OUTCOMES.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
        }
        for (place, stage) in STAGES.into_iter().enumerate() {
            assert_eq!(stage as usize, place);
        }
    }
}
