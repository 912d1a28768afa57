//! Exposition: the text that `/metrics` answers with (OpenMetrics), as OTLP metrics.
//!
//! Read from that text, they can't differ from what Prometheus sees. Names are those of families, without `_total`, which
//! belongs to Prometheus and is added on the way back.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
};

use super::Attributes;

/// The metrics of a text whose counters began at `started`; both times in nanoseconds since 1970. What can't be read is left
/// out.
pub(super) fn metrics(text: &str, started: u64, now: u64) -> Vec<Metric> {
    let mut metrics = Vec::new();
    let mut family = Family::default();
    for line in text.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            if let Some(sample) = Sample::parse(line) {
                family.add(sample, started, now);
            }
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (word, name, rest) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        if name != family.name {
            metrics.extend(std::mem::replace(&mut family, Family::of(name)).metric());
        }
        match word {
            "HELP" => rest.trim_end_matches('.').clone_into(&mut family.help),
            "UNIT" => family.unit = unit(rest),
            "TYPE" => family.kind = rest.to_owned(),
            _ => {}
        }
    }
    metrics.extend(family.metric());
    metrics
}

/// UCUM's words for those that metrics have.
fn unit(word: &str) -> String {
    match word {
        "seconds" => "s".into(),
        "bytes" => "By".into(),
        other => other.to_owned(),
    }
}

/// What stands under one name.
#[derive(Debug, Default)]
struct Family {
    name: String,
    help: String,
    unit: String,
    kind: String,
    numbers: Vec<NumberDataPoint>,
    histograms: Vec<HistogramDataPoint>,
}

impl Family {
    fn of(name: &str) -> Self {
        let unit = ["seconds", "bytes"].into_iter().find(|word| name.ends_with(&format!("_{word}")));
        Self { name: name.to_owned(), unit: unit.map(self::unit).unwrap_or_default(), ..Self::default() }
    }

    fn add(&mut self, sample: Sample<'_>, started: u64, now: u64) {
        let Some(suffix) = sample.name.strip_prefix(self.name.as_str()) else { return };
        let (attributes, bound) = sample.attributes();
        match (self.kind.as_str(), suffix) {
            ("gauge", "") | ("counter", "_total") => self.numbers.push(NumberDataPoint {
                attributes,
                start_time_unix_nano: if suffix.is_empty() { 0 } else { started },
                time_unix_nano: now,
                value: Some(Value::AsDouble(sample.value)),
                ..NumberDataPoint::default()
            }),
            ("histogram", "_sum" | "_count" | "_bucket") => {
                let point = self.histogram(attributes, started, now);
                match (suffix, bound) {
                    ("_sum", _) => point.sum = Some(sample.value),
                    ("_count", _) => point.count = sample.value as u64,
                    (_, Some(bound)) => {
                        // Each of theirs counts what is below it, too.
                        let below = point.bucket_counts.iter().sum::<u64>();
                        point.bucket_counts.push((sample.value as u64).saturating_sub(below));
                        if bound.is_finite() {
                            point.explicit_bounds.push(bound);
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// The histogram of these labels. Its lines stand together.
    fn histogram(&mut self, attributes: Vec<KeyValue>, started: u64, now: u64) -> &mut HistogramDataPoint {
        if self.histograms.last().is_none_or(|last| last.attributes != attributes) {
            self.histograms.push(HistogramDataPoint {
                attributes,
                start_time_unix_nano: started,
                time_unix_nano: now,
                ..HistogramDataPoint::default()
            });
        }
        let last = self.histograms.len() - 1;
        &mut self.histograms[last]
    }

    fn metric(self) -> Option<Metric> {
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        if self.numbers.is_empty() && self.histograms.is_empty() {
            return None;
        }
        let data = match self.kind.as_str() {
            "histogram" => {
                Data::Histogram(Histogram { data_points: self.histograms, aggregation_temporality })
            }
            "counter" => {
                Data::Sum(Sum { data_points: self.numbers, aggregation_temporality, is_monotonic: true })
            }
            _ => Data::Gauge(Gauge { data_points: self.numbers }),
        };
        let (name, description, unit) = (self.name, self.help, self.unit);
        Some(Metric { name, description, unit, data: Some(data), ..Metric::default() })
    }
}

/// A line: `name{label="value",…} 1`
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (label, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
                let (value, after) = unquoted(quoted)?;
                labels.push((label, value));
                rest = after;
            }
            rest = &rest[1..];
        }
        let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self { name, labels, value })
    }

    /// Its labels, but for a bucket's bound.
    fn attributes(&self) -> (Vec<KeyValue>, Option<f64>) {
        let (mut attributes, mut bound) = (Attributes::default(), None);
        for (label, value) in &self.labels {
            match *label {
                "le" => bound = value.trim_start_matches('+').parse().ok(),
                label => attributes.text(label, value.as_str()),
            }
        }
        (attributes.into_inner(), bound)
    }
}

/// A label's value up to its quote, and what stands behind that.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[place + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::telemetry::{Metrics, Outcome, Stage};

    #[test]
    fn what_prometheus_sees_is_what_is_sent() {
        let counted = Metrics::default();
        counted.request(Outcome::Ok, Duration::from_millis(3));
        counted.request(Outcome::Ok, Duration::from_secs(60));
        counted.stage(Stage::Execute, Duration::from_millis(2));
        counted.clients("http", 7);
        let mut registry = Registry::with_prefix("manybox");
        counted.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let all = metrics(&text, 5, 9);
        let named = |name: &str| all.iter().find(|metric| metric.name == name).unwrap().clone();
        let Some(Data::Sum(requests)) = named("manybox_requests").data else { panic!("{text}") };
        assert!(requests.is_monotonic && requests.data_points.len() == 8);
        let ok = requests.data_points.iter().find(|point| {
            point.attributes == {
                let mut a = Attributes::default();
                a.text("outcome", "ok");
                a.into_inner()
            }
        });
        let ok = ok.unwrap();
        assert_eq!(
            (&ok.value, ok.start_time_unix_nano, ok.time_unix_nano),
            (&Some(Value::AsDouble(2.0)), 5, 9)
        );
        let seconds = named("manybox_request_seconds");
        assert_eq!(
            (seconds.unit.as_str(), seconds.description.as_str()),
            ("s", "Time from a request's head to its answer")
        );
        let Some(Data::Histogram(seconds)) = seconds.data else { panic!("{text}") };
        let [point] = &seconds.data_points[..] else { panic!("{seconds:?}") };
        assert_eq!((point.count, point.bucket_counts.len(), point.explicit_bounds.len()), (2, 13, 12));
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), 2);
        assert_eq!((point.bucket_counts[3], point.bucket_counts[12]), (1, 1), "{point:?}");
        let Some(Data::Histogram(stages)) = named("manybox_stage_seconds").data else { panic!("{text}") };
        assert_eq!(stages.data_points.len(), 3);
        let Some(Data::Gauge(clients)) = named("manybox_clients").data else { panic!("{text}") };
        assert_eq!(clients.data_points[0].value, Some(Value::AsDouble(7.0)));
    }

    #[test]
    fn a_label_is_a_value_whatever_stands_in_it() {
        let text = "# HELP m Help.\n# TYPE m gauge\nm{a=\"x\\\"} 9 \\\\ \\n\",b=\"}\"} 1\nm 2 \nm{a=\"\nnonsense\n# EOF\n";
        let all = metrics(text, 0, 0);
        let Some(Data::Gauge(gauge)) = &all[0].data else { panic!("{all:?}") };
        let mut expected = Attributes::default();
        expected.text("a", "x\"} 9 \\ \n");
        expected.text("b", "}");
        assert_eq!(gauge.data_points[0].attributes, expected.into_inner());
        assert_eq!((all.len(), gauge.data_points.len()), (1, 2));
    }
}
