//! Metrics: what all requests came to, and how long they took, for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of the histograms, in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// 1xx to 3xx.
    Ok,
    /// 4xx, but for those below.
    ClientError,
    /// 401 and 403.
    Unauthorized,
    /// 429: too many requests of this tenant.
    RateLimited,
    /// 503: back-pressure, or a server that is down.
    Unavailable,
    /// 5xx, but for 503.
    ServerError,
    /// No tenant has the request's base URL, or it is ambiguous.
    UnknownTenant,
}

const OUTCOMES: [Outcome; 7] = [
    Outcome::Ok,
    Outcome::ClientError,
    Outcome::Unauthorized,
    Outcome::RateLimited,
    Outcome::Unavailable,
    Outcome::ServerError,
    Outcome::UnknownTenant,
];

/// A stage of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
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
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStage {
    stage: Stage,
}

/// The data plane's counts since it started; a handle, cheap to clone. Each is an atomic or nearly so.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Family<ByOutcome, Counter>,
    seconds: Histogram,
    stages: Family<ByStage, Histogram, fn() -> Histogram>,
    /// Those of the families, found without looking.
    by_outcome: [Counter; OUTCOMES.len()],
    by_stage: [Histogram; STAGES.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        let requests = Family::<ByOutcome, Counter>::default();
        let stages = Family::new_with_constructor(histogram as fn() -> Histogram);
        let by_outcome = OUTCOMES.map(|outcome| requests.get_or_create_owned(&ByOutcome { outcome }));
        let by_stage = STAGES.map(|stage| stages.get_or_create_owned(&ByStage { stage }));
        Self(Arc::new(Inner { requests, seconds: histogram(), stages, by_outcome, by_stage }))
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

    /// Requests so far, of all outcomes.
    pub fn requests(&self) -> u64 {
        self.0.by_outcome.iter().map(Counter::get).sum()
    }

    /// Adds these metrics to what is about to be scraped.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests answered", self.0.requests.clone());
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
    /// The outcome of a request that was answered with this status; `routed` when it had a tenant.
    pub fn of(status: u16, routed: bool) -> Self {
        match status {
            503 => Self::Unavailable,
            500.. => Self::ServerError,
            _ if !routed => Self::UnknownTenant,
            429 => Self::RateLimited,
            401 | 403 => Self::Unauthorized,
            400.. => Self::ClientError,
            _ => Self::Ok,
        }
    }
}
