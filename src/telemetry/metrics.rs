//! Metrics: what all requests came to, and how long they took, for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of the histograms, in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 1xx to 3xx.
    Ok,
    /// 4xx, but for those below.
    ClientError,
    /// 401 and 403.
    Unauthorized,
    /// 429: above the tenant's `max_requests_per_second`.
    RateLimited,
    /// 429 and 503 because connections were in use or slow to come, though the server answers.
    Backpressure,
    /// 503 for any other reason: a server or the catalog is away, a login is refused.
    Unavailable,
    /// 5xx, but for 503.
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

/// The data plane's counts since it started; a handle, cheap to clone. Each is an atomic or nearly so.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Family<ByOutcome, Counter>,
    seconds: Histogram,
    stages: Family<ByStage, Histogram, fn() -> Histogram>,
    schema_reads: Counter,
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
        let (seconds, schema_reads) = (histogram(), Counter::default());
        Self(Arc::new(Inner { requests, seconds, stages, schema_reads, by_outcome, by_stage }))
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

    /// Requests so far, of all outcomes.
    pub fn requests(&self) -> u64 {
        self.0.by_outcome.iter().map(Counter::get).sum()
    }

    /// Adds these metrics to what is about to be scraped.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests answered", self.0.requests.clone());
        registry.register("schema_reads", "Schemas read from databases", self.0.schema_reads.clone());
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
    /// The outcome of a request that was answered with this status, and this `code` if it was refused; `routed` when
    /// it had a tenant. The codes tell apart what shares a status: a full house, and a house that burns.
    pub fn of(status: u16, code: Option<&str>, routed: bool) -> Self {
        match (status, code.unwrap_or_default()) {
            (429, "MBX109") => Self::RateLimited,
            (429 | 503, "MBX201" | "MBX204" | "MBX205" | "MBX206" | "MBX207") => Self::Backpressure,
            (503, _) => Self::Unavailable,
            (500.., _) => Self::ServerError,
            (401 | 403, _) => Self::Unauthorized,
            (400.., _) if !routed => Self::UnknownTenant,
            (400.., _) => Self::ClientError,
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
    fn name(self) -> &'static str {
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
    fn an_outcome_says_whose_turn_it_is() {
        for (status, code, routed, outcome) in [
            (200, None, true, Outcome::Ok),
            (304, None, true, Outcome::Ok),
            (404, Some("PGRST205"), true, Outcome::ClientError),
            (404, Some("MBX102"), false, Outcome::UnknownTenant),
            (400, Some("MBX101"), false, Outcome::UnknownTenant),
            (403, Some("MBX103"), false, Outcome::Unauthorized),
            (401, Some("PGRST301"), true, Outcome::Unauthorized),
            (429, Some("MBX109"), true, Outcome::RateLimited),
            (429, Some("MBX207"), true, Outcome::Backpressure),
            (429, Some("PT429"), true, Outcome::ClientError),
            (503, Some("MBX204"), true, Outcome::Backpressure),
            (503, Some("MBX202"), true, Outcome::Unavailable),
            (503, None, false, Outcome::Unavailable),
            (504, Some("MBX107"), true, Outcome::ServerError),
        ] {
            assert_eq!(Outcome::of(status, code, routed), outcome, "{status} {code:?}");
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
