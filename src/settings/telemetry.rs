//! `[telemetry]`: where traces and metrics are sent, and what a server's sessions tell of the trace that they work for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::policy::Secret;

/// Most characters of a name or a value that is sent with everything.
const MAX_TEXT: usize = 250;

/// `[telemetry]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// Base URL of an OTLP receiver by HTTP, such as `http://127.0.0.1:4318`: `/v1/traces` and `/v1/metrics` below it get
    /// protobuf. Not given: nothing is sent, and no request is traced.
    pub otlp_endpoint: Option<String>,
    /// Headers for it, by name, such as `authorization` (`MANYBOX__TELEMETRY__OTLP_HEADERS__AUTHORIZATION`).
    #[serde(serialize_with = "names", deserialize_with = "secrets")]
    pub otlp_headers: BTreeMap<String, Secret>,
    /// A file of further ones, a line each: `Name: value`.
    pub otlp_headers_file: Option<PathBuf>,
    /// What a router calls itself (`service.name`); a control service adds `-control` to it.
    pub service_name: String,
    /// What else is told of this process with everything that is sent, such as `"deployment.environment.name"`.
    pub resource: BTreeMap<String, String>,
    /// Which part of the requests is traced that are not part of a trace already, from 0 to 1. Of a trace that a trusted proxy
    /// began, that says whether it is recorded.
    pub sample_ratio: f64,
    /// How often a router sends its metrics; `0s`: never.
    #[serde(with = "humantime_serde")]
    pub metrics_interval: Duration,
    /// Whether a transaction's `application_name` is the `traceparent` of the request that it belongs to, so that
    /// `pg_stat_activity` and the server's log lead to the trace.
    pub trace_in_application_name: bool,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_headers: BTreeMap::new(),
            otlp_headers_file: None,
            service_name: "manybox".into(),
            resource: BTreeMap::new(),
            sample_ratio: 1.0,
            metrics_interval: Duration::from_secs(60),
            trace_in_application_name: false,
        }
    }
}

impl TelemetrySettings {
    /// The headers for the receiver, by name, those of the file too.
    ///
    /// # Errors
    /// When the file can't be read, or a line of it is no header.
    pub fn read_headers(&self) -> Result<BTreeMap<String, Secret>, String> {
        let mut headers = self.otlp_headers.clone();
        let Some(file) = &self.otlp_headers_file else { return Ok(headers) };
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("{}:{}: expected `Name: value`", file.display(), number + 1))?;
            headers.insert(name.trim().to_ascii_lowercase(), Secret::new(value.trim()));
        }
        Ok(headers)
    }

    /// What is wrong, and where.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        let url = self.otlp_endpoint.as_deref().filter(|url| {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            rest.is_none_or(|rest| rest.is_empty() || rest.contains(['?', '#', '@', ' ']))
        });
        if let Some(url) = url {
            // What stands before an `@` is nobody's business.
            let url = url.rsplit_once('@').map_or(url, |(_, host)| host);
            let expected = "expected http:// or https://, a host and perhaps a path, such as http://127.0.0.1:4318; \
                            credentials go to otlp_headers";
            return Some(("otlp_endpoint", format!("`{url}`: {expected}")));
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Some(("sample_ratio", format!("{}: expected a number from 0 to 1", self.sample_ratio)));
        }
        let is_long = |text: &String| text.is_empty() || text.chars().count() > MAX_TEXT;
        if is_long(&self.service_name) {
            return Some(("service_name", format!("expected 1 to {MAX_TEXT} characters")));
        }
        let long = self.resource.iter().find(|(name, value)| is_long(name) || is_long(value));
        long.map(|(name, _)| {
            let name = name.chars().take(60).collect::<String>();
            ("resource", format!("`{name}`: expected names and values of 1 to {MAX_TEXT} characters"))
        })
    }
}

fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Secret>, D::Error> {
    let read = BTreeMap::<String, String>::deserialize(deserializer)?;
    Ok(read.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), Secret::new(value))).collect())
}

/// Their names alone.
fn names<S: Serializer>(headers: &BTreeMap<String, Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(headers.len()))?;
    for name in headers.keys() {
        map.serialize_entry(name, "***")?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_from_the_settings_and_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("headers");
        std::fs::write(&file, "Authorization: Basic aGk6\n\nX-Scope:  a:b \n").unwrap();
        let given = BTreeMap::from([("x-other".to_owned(), Secret::new("1"))]);
        let mut settings = TelemetrySettings {
            otlp_headers: given,
            otlp_headers_file: Some(file.clone()),
            ..TelemetrySettings::default()
        };
        let read = settings.read_headers().unwrap();
        let shown: Vec<_> = read.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(shown, [("authorization", "Basic aGk6"), ("x-other", "1"), ("x-scope", "a:b")]);
        std::fs::write(&file, "s3cret").unwrap();
        let error = settings.read_headers().unwrap_err();
        assert!(error.contains("headers:1") && !error.contains("s3cret"), "{error}");
        settings.otlp_headers_file = Some(folder.path().join("nothing"));
        assert!(settings.read_headers().unwrap_err().contains("nothing"));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |edit: fn(&mut TelemetrySettings)| {
            let mut settings = TelemetrySettings::default();
            edit(&mut settings);
            settings.wrong()
        };
        assert_eq!(wrong(|_| ()), None);
        assert_eq!(wrong(|s| s.otlp_endpoint = Some("https://otel.example/tenant-1".into())), None);
        let (key, reason) = wrong(|s| s.otlp_endpoint = Some("http://me:s3cret@h:1".into())).unwrap();
        assert!(key == "otlp_endpoint" && !reason.contains("s3cret"), "{reason}");
        for url in ["127.0.0.1:4318", "https://", "grpc://h", "http://h/?a"] {
            let settings =
                TelemetrySettings { otlp_endpoint: Some(url.into()), ..TelemetrySettings::default() };
            assert!(settings.wrong().is_some(), "{url}");
        }
        assert_eq!(wrong(|s| s.sample_ratio = 1.1).unwrap().0, "sample_ratio");
        assert_eq!(wrong(|s| s.sample_ratio = f64::NAN).unwrap().0, "sample_ratio");
        assert_eq!(wrong(|s| s.service_name.clear()).unwrap().0, "service_name");
        assert_eq!(wrong(|s| drop(s.resource.insert("a".into(), "b".repeat(999)))).unwrap().0, "resource");
    }
}
