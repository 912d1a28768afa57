//! A request's line in the log: what was refused and why, or everything, by `listen.access_log`.

use std::net::IpAddr;
use std::time::Duration;

use http::{Extensions, Method, StatusCode};

use crate::pg::shortened;
use crate::rest::Code;
use crate::settings::AccessLog;
use crate::telemetry::{Cause, Noted, Outcome, TraceContext};
use crate::tenant::Tenant;

/// Longest code, path or cause in a line, bytes: callers and tenants' functions choose some of them.
pub(super) const MAX_TEXT: usize = 500;

/// What is known when the answer begins.
pub(super) struct RequestLog<'a> {
    pub(super) request_id: Option<&'a str>,
    pub(super) trace: Option<TraceContext>,
    pub(super) client: Option<IpAddr>,
    pub(super) tenant: Option<&'a Tenant>,
    pub(super) method: &'a Method,
    /// Names of tables only; the query, where values are, is left out, and so are tokens.
    pub(super) path: &'a str,
    pub(super) status: StatusCode,
    pub(super) outcome: Outcome,
    /// Of the response.
    pub(super) extensions: &'a Extensions,
    pub(super) resolve: Duration,
    pub(super) took: Duration,
    pub(super) noted: Noted,
}

impl RequestLog<'_> {
    /// At `info` what `access` asks for; the others, by the thousand a second, at `debug`.
    pub(super) fn write(&self, access: AccessLog) {
        let told = match access {
            AccessLog::Off => false,
            AccessLog::Errors => self.is_refusal(),
            AccessLog::All => true,
        };
        if !told && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let code = self.extensions.get::<Code>();
        let sqlstate = match code {
            Some(Code::Sqlstate { state: text, .. } | Code::Function { code: text, .. }) => {
                Some(shortened(text, MAX_TEXT))
            }
            _ => None,
        };
        let cause = self.extensions.get::<Cause>().map(|Cause(text)| shortened(text, MAX_TEXT));
        let (id, slug) = self.tenant.map(|t| (t.id.as_str(), t.slug.as_str())).unzip();
        let ms = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    request.id = self.request_id,
                    trace.id = self.trace.map(|trace| format!("{:032x}", trace.trace_id)),
                    client.address = self.client.map(tracing::field::display),
                    tenant.id = id,
                    tenant.slug = slug,
                    role = self.noted.role.as_deref(),
                    http.method = %self.method,
                    http.path = shortened(self.path, MAX_TEXT),
                    http.status = self.status.as_u16(),
                    code = code.filter(|_| sqlstate.is_none()).map(Code::as_str),
                    sqlstate,
                    cause,
                    ms = ms(self.took),
                    ms.resolve = ms(self.resolve),
                    ms.checkout = ms(self.noted.checkout),
                    ms.execute = ms(self.noted.execute),
                    "request"
                )
            };
        }
        if told { log!(info) } else { log!(debug) }
    }

    /// Whether it failed on our side, or was refused for another reason than what it asks of its tenant's schema.
    fn is_refusal(&self) -> bool {
        let is_clients = matches!(self.outcome, Outcome::Ok | Outcome::ClientError);
        self.status.is_server_error()
            || !is_clients
            || self.extensions.get::<Code>().is_some_and(Code::is_of_the_router)
    }
}
