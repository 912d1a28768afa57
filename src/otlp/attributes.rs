//! `Attributes`: what is told of a span or a process, by name.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

/// Names and values. Names are ours, so that nobody's value becomes another attribute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(Vec<KeyValue>);

impl Attributes {
    /// Adds a text.
    pub fn text(&mut self, name: &str, value: impl Into<String>) {
        self.add(name, Value::StringValue(value.into()));
    }

    /// Adds a text that may be missing.
    pub fn maybe(&mut self, name: &str, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// Adds a number.
    pub fn number(&mut self, name: &str, value: i64) {
        self.add(name, Value::IntValue(value));
    }

    fn add(&mut self, name: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: name.to_owned(), value, ..KeyValue::default() });
    }

    pub(super) fn into_inner(self) -> Vec<KeyValue> {
        self.0
    }
}
