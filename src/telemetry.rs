//! Telemetry: what manybox says about itself while it runs: log lines, metrics, each tenant's traffic.

mod metrics;
mod traffic;

pub use metrics::{Metrics, Outcome, Stage};
pub use traffic::{Flow, Traffic};

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error: standard output belongs to a command's answer.
///
/// `RUST_LOG` filters; without it warnings are shown, and in a `service`, whose log is all that is seen of it, what
/// it does as well. `json` writes one JSON object a line, for log collectors. Called once by a process; a second call
/// is ignored, so that tests may call it too.
pub fn init(service: bool, json: bool) {
    // A command tells of failed migrations itself, at its end, and not across its progress bar.
    let usual = if service { "manybox=info,warn" } else { "warn,manybox::migrate=error" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let subscriber = subscriber.with_ansi(std::io::stderr().is_terminal());
    let _ = if json { subscriber.json().try_init() } else { subscriber.compact().try_init() };
}
