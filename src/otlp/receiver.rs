//! `Receiver`: where OTLP messages go, over one connection that is kept between them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use tokio::time::timeout;

use crate::outbound::{Answer, Link, Origin, Trust};
use crate::settings::TelemetrySettings;

/// Longest wait for an answer, from the name's resolution to its end.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// A receiver of OTLP by HTTP.
pub(super) struct Receiver {
    origin: Origin,
    /// What stands before `/v1/traces`.
    path: String,
    headers: HeaderMap,
    trust: Trust,
    link: Option<Link>,
}

/// Why a message was not taken.
pub(super) struct Refusal {
    /// Whether it may be taken later.
    pub(super) is_passing: bool,
    /// A sentence.
    pub(super) reason: String,
}

impl Receiver {
    /// The one of the settings, if there is one.
    ///
    /// # Errors
    /// When what is set is none, or its headers can't be read; a sentence that holds no secret.
    pub(super) fn new(settings: &TelemetrySettings) -> Result<Option<Self>, String> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(None) };
        let url: Option<Uri> = endpoint.parse().ok();
        let (url, origin) = url
            .and_then(|url| {
                let origin = Origin::of(&url)?;
                Some((url, origin))
            })
            .ok_or("telemetry.otlp_endpoint: expected a URL such as http://127.0.0.1:4318")?;
        let given =
            settings.read_headers().map_err(|error| format!("telemetry.otlp_headers_file: {error}"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            let header = HeaderName::try_from(&name).ok().zip(HeaderValue::try_from(value.expose()).ok());
            let (known, mut value) = header
                .ok_or_else(|| format!("telemetry.otlp_headers: `{name}` or its value is no header"))?;
            value.set_sensitive(true);
            headers.insert(known, value);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let agent = concat!("manybox/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        let path = url.path().trim_end_matches('/').to_owned();
        Ok(Some(Self { origin, path, headers, trust: Trust::default(), link: None }))
    }

    /// Posts a message below the endpoint, and gives the answer's body.
    ///
    /// # Errors
    /// When it was not taken.
    pub(super) async fn post(&mut self, path: &str, message: Vec<u8>) -> Result<Bytes, Refusal> {
        let path = format!("{}{path}", self.path);
        let late = || Err(format!("no answer within {} s", DEADLINE.as_secs()));
        let answer = timeout(DEADLINE, self.exchange(&path, message)).await.unwrap_or_else(|_| late());
        match answer {
            Ok(Answer { status: 200..300, body: Ok(body) }) => Ok(body),
            Ok(Answer { body: Err(reason), .. }) => Err(Refusal { is_passing: true, reason }),
            Ok(Answer { status, .. }) => {
                let is_passing = matches!(status, 429 | 502 | 503 | 504);
                Err(Refusal { is_passing, reason: format!("it answered {status} to {path}") })
            }
            Err(reason) => Err(Refusal { is_passing: true, reason }),
        }
    }

    async fn exchange(&mut self, path: &str, message: Vec<u8>) -> Result<Answer, String> {
        // Taken out: what fails, or is given up, is not used again.
        let mut link = match self.link.take().filter(Link::is_open) {
            Some(link) => link,
            None => self.connect().await?,
        };
        let answer = link.ask(Method::POST, path, self.headers.clone(), message, MAX_ANSWER).await?;
        if answer.body.is_ok() {
            self.link = Some(link);
        }
        Ok(answer)
    }

    async fn connect(&self) -> Result<Link, String> {
        let mut last = format!("`{}` has no address", self.origin.host);
        for address in self.origin.addresses().await? {
            match Link::open(&self.origin, address, &self.trust).await {
                Ok(link) => return Ok(link),
                Err(reason) => last = format!("{address}: {reason}"),
            }
        }
        Err(last)
    }
}
