//! `Tracer`: which requests are traced, and the spans that become of what was measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use opentelemetry::TraceId;
use opentelemetry::trace::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span, status};
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _,
};
use tokio::sync::mpsc;

use super::{Attributes, SPANS, nanos};
use crate::telemetry::{Lap, Metrics, TraceContext};

/// Bits of a span's flags: that it is sampled, that it is known where its parent is, and that this is another process.
const SAMPLED: u32 = 0x01;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Begins traces and sends their spans on their way; a handle, cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<Vec<Span>>,
    ratio: Sampler,
    metrics: Metrics,
    has_told: AtomicBool,
}

/// A request or a piece of work that is traced, from its beginning.
#[derive(Debug)]
pub struct Trace {
    own: TraceContext,
    parent: Option<u64>,
    begun: Instant,
    at: SystemTime,
}

/// Whose work a span tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request from outside.
    Server,
    /// Work of our own.
    Internal,
}

/// What became of it.
#[derive(Debug)]
pub struct Finished {
    /// The span's name, of which there are few.
    pub name: String,
    /// Whose work it was.
    pub kind: Kind,
    /// What else is known.
    pub attributes: Attributes,
    /// Whether it failed on our side.
    pub is_error: bool,
    /// Its parts, which become spans below it.
    pub laps: Vec<Lap>,
}

impl Trace {
    /// Its span, as those below are told of it.
    pub fn context(&self) -> TraceContext {
        self.own
    }

    fn nanos(&self, at: Instant) -> u64 {
        nanos(self.at + at.saturating_duration_since(self.begun))
    }

    fn spans(self, finished: Finished) -> Vec<Span> {
        let (trace_id, span_id) = (self.own.trace_id.to_be_bytes(), self.own.span_id.to_be_bytes());
        let kind = match finished.kind {
            Kind::Server => span::SpanKind::Server,
            Kind::Internal => span::SpanKind::Internal,
        };
        let code = if finished.is_error { status::StatusCode::Error } else { status::StatusCode::Unset };
        let root = Span {
            trace_id: trace_id.to_vec(),
            span_id: span_id.to_vec(),
            parent_span_id: self.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
            flags: SAMPLED | HAS_IS_REMOTE | self.parent.map_or(0, |_| IS_REMOTE),
            name: finished.name,
            kind: kind.into(),
            start_time_unix_nano: nanos(self.at),
            end_time_unix_nano: self.nanos(Instant::now()),
            attributes: finished.attributes.into_inner(),
            status: Some(Status { code: code.into(), ..Status::default() }),
            ..Span::default()
        };
        let laps = finished.laps.iter().map(|lap| Span {
            trace_id: trace_id.to_vec(),
            span_id: random_id().to_be_bytes().to_vec(),
            parent_span_id: span_id.to_vec(),
            flags: SAMPLED | HAS_IS_REMOTE,
            name: lap.name.into(),
            kind: span::SpanKind::Internal.into(),
            start_time_unix_nano: self.nanos(lap.begun),
            end_time_unix_nano: self.nanos(lap.ended),
            ..Span::default()
        });
        let mut spans = Vec::with_capacity(1 + finished.laps.len());
        spans.extend(laps);
        spans.push(root);
        spans
    }
}

impl Tracer {
    pub(super) fn new(queue: mpsc::Sender<Vec<Span>>, ratio: f64, metrics: Metrics) -> Self {
        let ratio = Sampler::TraceIdRatioBased(ratio);
        Self(Arc::new(Inner { queue, ratio, metrics, has_told: AtomicBool::new(false) }))
    }

    /// Begins a trace, or goes on with that of `parent`, whose word holds on whether it is recorded. `None` when it is not.
    pub fn begin(&self, parent: Option<TraceContext>) -> Option<Trace> {
        let trace_id = match parent {
            Some(parent) => parent.is_sampled().then_some(parent.trace_id)?,
            None => self.sampled(RandomIdGenerator::default().new_trace_id())?,
        };
        let own = TraceContext { trace_id, span_id: random_id(), flags: 1 };
        let parent = parent.map(|parent| parent.span_id);
        Some(Trace { own, parent, begun: Instant::now(), at: SystemTime::now() })
    }

    fn sampled(&self, id: TraceId) -> Option<u128> {
        let sampled = self.0.ratio.should_sample(None, id, "", &SpanKind::Server, &[], &[]);
        (sampled.decision == SamplingDecision::RecordAndSample).then(|| u128::from_be_bytes(id.to_bytes()))
    }

    /// Makes spans of a trace that ended now, and queues them. Where there is no place they are lost and counted.
    pub fn end(&self, trace: Trace, finished: Finished) {
        let inner = &*self.0;
        match inner.queue.try_reserve() {
            Ok(place) => place.send(trace.spans(finished)),
            Err(_) => {
                inner.metrics.otlp_lost(SPANS, 1 + finished.laps.len() as u64);
                // Once: who loses some loses many, and they are counted.
                if !inner.has_told.swap(true, Ordering::Relaxed) && !inner.queue.is_closed() {
                    tracing::warn!(
                        "spans come quicker than the OTLP receiver takes them; from now on manybox_otlp_losses tells how \
                         many are lost: lower telemetry.sample_ratio"
                    );
                }
            }
        }
    }
}

/// Not zero.
pub(super) fn random_id() -> u64 {
    u64::from_be_bytes(RandomIdGenerator::default().new_span_id().to_bytes()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(ratio: f64) -> (Tracer, mpsc::Receiver<Vec<Span>>) {
        let (queue, waiting) = mpsc::channel(2);
        (Tracer::new(queue, ratio, Metrics::default()), waiting)
    }

    fn finished(laps: Vec<Lap>) -> Finished {
        let name = "GET".to_owned();
        Finished { name, kind: Kind::Server, attributes: Attributes::default(), is_error: false, laps }
    }

    #[test]
    fn a_parent_says_whether_it_is_recorded_and_the_ratio_where_there_is_none() {
        let parent = |flags| Some(TraceContext { trace_id: 7, span_id: 9, flags });
        for (ratio, recorded) in [(0.0, false), (1.0, true)] {
            let (tracer, _waiting) = tracer(ratio);
            assert_eq!(tracer.begin(None).is_some(), recorded);
            assert!(tracer.begin(parent(0)).is_none());
            let trace = tracer.begin(parent(1)).unwrap();
            assert_eq!((trace.context().trace_id, trace.parent), (7, Some(9)));
            assert!(trace.context().span_id != 9 && trace.context().is_sampled());
        }
        let (half, _waiting) = tracer(0.5);
        let some = (0..2000).filter(|_| half.begin(None).is_some()).count();
        assert!((700..1300).contains(&some), "{some}");
    }

    #[test]
    fn laps_stand_below_the_request_and_within_it() {
        let (tracer, mut waiting) = tracer(1.0);
        let trace = tracer.begin(None).unwrap();
        let lap = Lap { name: "execute", begun: Instant::now(), ended: Instant::now() };
        let took = (lap.ended - lap.begun).as_nanos();
        tracer.end(trace, finished(vec![lap]));
        let spans = waiting.try_recv().unwrap();
        let [below, root] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((&below.parent_span_id, &below.trace_id), (&root.span_id, &root.trace_id));
        assert_eq!(u128::from(below.end_time_unix_nano - below.start_time_unix_nano), took);
        assert!(root.start_time_unix_nano <= below.start_time_unix_nano);
        assert!(root.end_time_unix_nano >= below.end_time_unix_nano);
        assert!(root.parent_span_id.is_empty());
    }

    #[test]
    fn what_finds_no_place_is_counted() {
        let (tracer, _waiting) = tracer(1.0);
        let begun = Instant::now();
        for _ in 0..4 {
            let lap = Lap { name: "plan", begun, ended: begun };
            tracer.end(tracer.begin(None).unwrap(), finished(vec![lap]));
        }
        let mut registry = prometheus_client::registry::Registry::default();
        tracer.0.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("otlp_losses_total{signal=\"spans\"} 4"), "{text}");
    }
}
